//! Hooks of an interface: the direction of the packets, and the kind of hook that a program is attached to.

use std::fmt;

/// Direction of packets at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Into the machine: ingress.
    Ingress,
    /// Out of the machine: egress.
    Egress,
}

impl Direction {
    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

/// Kind of attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attachment {
    /// Native XDP, for frames in several buffers too.
    XdpFrags,
    /// Native XDP.
    Xdp,
    /// TCX.
    Tcx,
    /// A filter of the clsact qdisc.
    Clsact,
}

impl Attachment {
    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Attachment::XdpFrags => "xdp.frags",
            Attachment::Xdp => "xdp",
            Attachment::Tcx => "tcx",
            Attachment::Clsact => "clsact",
        }
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
