//! The flow table: the maps that the program counts in, read and emptied.

pub(crate) mod batch;
pub(crate) mod buckets;
pub(crate) mod conservation;
pub(crate) mod element;
pub(crate) mod evict;
pub(crate) mod mmap;
pub(crate) mod reader;
pub(crate) mod scan;
pub(crate) mod snapshot;
pub(crate) mod tick_clock;
