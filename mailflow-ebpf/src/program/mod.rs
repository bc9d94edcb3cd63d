//! The program, for the BPF target only.

mod classify;
mod context;
mod count;
mod counters;
mod entry;
mod estimate;
mod evict;
mod fast_path;
mod fragments;
mod hook;
mod insert_flow;
mod log;
mod mptcp;
mod overflow;
mod payload;
mod reverse_lookup;
mod slow_path;
mod tuple_reuse;
