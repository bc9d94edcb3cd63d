//! BPF maps, settings, and the operations on them.

mod atomic;
mod buckets;
pub(crate) mod client_port;
mod definitions;
pub(crate) mod flow_table;
pub(crate) mod fragments;
mod scratch;
mod settings;
pub(crate) mod vlan_zones;

pub(crate) use self::{
    atomic::{add32, add64},
    definitions::{is_lan_interface, log_budget, scratch, totals},
    scratch::{Options, OverflowPacket, PacketSum, Scratch},
    settings::{
        capture_frame_length, count_local_only, idle_timeouts, now, opaque, publish_ticks, source_limit,
        watched,
    },
};
