//! The ABI between mailflow's BPF program and its agent: flow keys, counters, the reasons a packet
//! is not counted, and how application facts become classes.
//!
//! The kernel's bytes are never turned into Rust enums: whatever is a choice is a byte here, with a
//! function that reads it.
#![no_std]
#![forbid(unsafe_code)]

mod app;
mod bucket;
mod counters;
mod flow_key;
mod keyed_hash;
mod ports;
mod source_limit;
mod table_key;
mod totals;

pub use app::{App, Family, classify, opening, turn, upgrade};
pub use bucket::{FREE, LEFT, SETS_IN_GROUP, Set, Slot, WAYS, groups_of, set_of, tag_of};
pub use counters::{DirectionCounters, Facts, FlowCounters, Silences, answered, side};
pub use flow_key::{
    Address, FlowKey, FragmentKey, FragmentOwner, PROTOCOL_TCP, PROTOCOL_UDP, RetiredKey, Scope, Vlans,
    owner, pieces,
};
pub use keyed_hash::HashKeys;
pub use ports::{PORT_WORDS, PortSet, is_tunnel};
pub use source_limit::{
    ALL_CELLS, KEY_CELLS, Removal, Room, SHARE_CELLS, Sharing, SpillCounters, SpillKey, removal,
};
pub use table_key::{Entry, Place, Rest};
pub use totals::{DirectionTotals, Openings, Reason, Totals};
