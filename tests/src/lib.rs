//! tests

pub mod frame;
pub mod guest;
pub mod lab;
pub mod pcap;
pub mod wire;
