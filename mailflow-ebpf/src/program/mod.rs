//! What only exists on the BPF target.

mod begin;
mod count;
mod entry;
mod estimate;
mod fragments;
mod hook;
mod join;
mod known;
mod maps;
mod multipath;
mod packet;
mod recognise;
mod remove;
mod report;
mod reuse;
mod seek;
mod spill;
mod tally;
