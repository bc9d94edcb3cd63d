//! Frame builders, network namespaces, reference models and scenarios of the tests.

pub mod frame;
pub mod guest;
pub mod lab;
pub mod mutants;
pub mod pcap;
pub mod pcapng;
pub mod slow;
pub mod wire;
