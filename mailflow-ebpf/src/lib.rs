//! The parser: from a frame to a segment, or to the reason it is none.
//!
//! It calls no BPF helper, so the host's tests run the very code the kernel runs. How bytes are
//! reached is the caller's: see [`Frame`].
#![no_std]
#![forbid(unsafe_code)]

mod parser;

pub use parser::{
    FastPathHeaders, Fragment, Frame, Gso, Header, Link, Metadata, ParsedHeaders, Segment, SliceFrame, Tcp,
    parse_fast, parse_headers,
};
