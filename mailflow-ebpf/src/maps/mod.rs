//! Maps and settings: all state that outlives a packet.

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
    definitions::{is_lan, reported, scratch, totals},
    scratch::{Options, Scratch, Spill, Sum},
    settings::{forget, local_only, note_ticks, now, sharing, silences, told_length, watched},
};
