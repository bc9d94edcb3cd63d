//! tests

pub mod documents;
pub mod frame;
pub mod guest;
pub mod lab;
pub mod mutants;
pub mod pcap;
pub mod pcapng;
pub mod slow;
pub mod wire;
pub mod words;
