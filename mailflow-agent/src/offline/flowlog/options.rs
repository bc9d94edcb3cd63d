//! Options of the reader of flow logs.

use super::zeek::names::RenamedColumn;
use mailflow_engine::settings::Services;

/// Settings with which lines are read.
#[derive(Clone, Copy, Debug)]
pub struct ReadContext<'a> {
    /// Watched ports.
    pub services: &'a Services,
    /// Bytes of a frame outside of its IP packet, instead of the size of Ethernet and VLAN headers.
    pub l2_overhead: Option<u16>,
    /// Zeek columns with other names.
    pub columns: &'a [RenamedColumn],
}

/// Options of the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Bytes of a frame outside of its IP packet, instead of the size of Ethernet and VLAN headers.
    pub l2_overhead: Option<u16>,
    /// Zeek columns with other names.
    pub columns: Vec<RenamedColumn>,
}
