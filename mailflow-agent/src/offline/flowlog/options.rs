//! Options of the reader.

use super::zeek::names::RenamedColumn;
use mailflow_engine::settings::Services;

/// How lines are read.
#[derive(Clone, Copy, Debug)]
pub struct ReadContext<'a> {
    /// The watched ports.
    pub services: &'a Services,
    /// What a frame has beside its IP packet, in bytes, instead of Ethernet and its tags.
    pub l2_overhead: Option<u16>,
    /// Zeek's columns that have other names.
    pub columns: &'a [RenamedColumn],
}

/// Options of the reader, as the command line has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Bytes of a frame outside of its IP packet, instead of those of Ethernet and its tags.
    pub l2_overhead: Option<u16>,
    /// Zeek's columns that have other names.
    pub columns: Vec<RenamedColumn>,
}
