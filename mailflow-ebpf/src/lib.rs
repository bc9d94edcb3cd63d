//! The parser: from a frame to a segment, or to the reason it is none.
//!
//! It calls no BPF helper, so the host's tests run the very code the kernel runs. How bytes are
//! reached is the caller's: see [`Frame`].
#![no_std]
#![forbid(unsafe_code)]

mod frame;
mod l2;
mod l3;
mod l4;
mod plain;
mod segment;

pub use frame::{Frame, Header, SliceFrame};
pub use plain::{Plain, glance};
pub use segment::{Fragment, Gso, Located, Metadata, Segment, Tcp, locate};

/// Link type of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Frames begin with an Ethernet header.
    Ethernet,
    /// Frames begin with the IP header (tun, wireguard, ppp).
    Ip,
}
