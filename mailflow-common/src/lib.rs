//! The ABI between mailflow's BPF program and its agent: flow keys, counters, the reasons why a packet is not
//! counted, and the classes of applications.
//!
//! Bytes of the kernel are never turned into Rust enums: a choice is a byte here, with a function that reads
//! it.
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

pub use app::{App, Family, classify, first_payload, turn, upgrade};
pub use bucket::{
    BUCKET_SLOTS, BUCKETS_PER_GROUP, Bucket, BucketSlot, EMPTY, TOMBSTONE, bucket_groups, bucket_index,
    tag_of,
};
pub use counters::{DirectionCounters, Facts, FlowCounters, IdleTimeoutTicks, hook_orientation, seen};
pub use flow_key::{
    Address, FlowKey, FragmentKey, FragmentOwner, PROTOCOL_TCP, PROTOCOL_UDP, Scope, SupersededKey, Vlans,
    fragment_owner, pieces,
};
pub use keyed_hash::HashKeys;
pub use ports::{PORT_WORDS, PortSet, is_tunnel};
pub use source_limit::{
    EntryCounts, Removal, SKETCH_CELLS, SKETCH_KEY_OFFSET, SKETCH_ROW_CELLS, SourceLimit,
    SourceOverflowCounters, SourceOverflowKey, removal_outcome,
};
pub use table_key::{FlowTableKey, KeyRemainder, MapEntry};
pub use totals::{DirectionTotals, HandshakeCounters, Reason, Totals};
