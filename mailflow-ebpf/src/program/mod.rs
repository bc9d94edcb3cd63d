//! What only exists on the BPF target.

mod count;
mod entry;
mod maps;
mod packet;
mod recognise;
