//! Tools of the tests: frames, captures, network namespaces, and the reference data plane.

pub mod documents;
pub mod frame;
pub mod frame_gen;
pub mod guest;
pub mod lab;
pub mod pcap;
pub mod pcapng;
pub mod reference_dataplane;
pub mod root;
pub mod temp_folder;
pub mod wire;
pub mod words;
