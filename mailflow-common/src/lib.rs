//! The ABI between mailflow's BPF program and its agent: flow keys, counters, the reasons a packet
//! is not counted, and how application facts become classes.
//!
//! The kernel's bytes are never turned into Rust enums: whatever is a choice is a byte here, with a
//! function that reads it.
#![no_std]
#![forbid(unsafe_code)]

mod app;
mod counters;
mod key;
mod place;
mod ports;
mod set;
mod source;
mod totals;

pub use app::{App, Family, classify, opening, upgrade};
pub use counters::{DirectionCounters, Facts, FlowCounters, Silences, answered, side};
pub use key::{
    Address, FlowKey, FragmentKey, FragmentOwner, PROTOCOL_TCP, PROTOCOL_UDP, RetiredKey, Scope, Vlans,
    owner, pieces,
};
pub use place::{Entry, Place, Rest};
pub use ports::{PORT_WORDS, PortSet, is_tunnel};
pub use set::{FREE, LEFT, Set, Slot, WAYS, set_of};
pub use source::{Removal, SEED_CELLS, SHARE_CELLS, Sharing, SpillCounters, SpillKey, removal};
pub use totals::{DirectionTotals, Openings, Reason, Totals};
