//! Frame -> link layer -> network layer -> transport layer -> headers. The fast path parses most frames at once.

mod fast_path;
mod frame;
mod headers;
mod link;
mod network;
mod transport;

pub use self::{
    fast_path::{Plain, glance},
    frame::{Frame, Header, SliceFrame},
    headers::{Fragment, Gso, Located, Segment, locate},
    link::{Link, Metadata},
    transport::Tcp,
};
