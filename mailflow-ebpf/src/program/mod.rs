//! What only exists on the BPF target.

mod count;
mod entry;
mod fragments;
mod maps;
mod packet;
mod recognise;
mod remove;
mod report;
mod reuse;
mod spill;
