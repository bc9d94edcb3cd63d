//! Transport protocols of receivers on other machines.

/// How a receiver is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}
