//! Transport protocols to remote receivers.

/// Transport protocol of a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// TCP connection.
    Tcp,
    /// UDP datagrams.
    Udp,
}
