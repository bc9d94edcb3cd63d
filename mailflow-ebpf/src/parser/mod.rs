//! Frame -> link layer -> network layer -> transport layer -> headers. The fast path parses most frames at once.

mod fast_path;
mod frame;
mod headers;
mod link;
mod network;
mod transport;

pub use self::{
    fast_path::{FastPathHeaders, parse_fast},
    frame::{Frame, Header, SliceFrame},
    headers::{Fragment, Gso, ParsedHeaders, Segment, parse_headers},
    link::{Link, Metadata},
    transport::Tcp,
};
