//! tests

pub mod frame;
pub mod lab;
pub mod pcap;
pub mod wire;
