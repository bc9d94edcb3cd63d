//! tests

pub mod frame;
pub mod lab;
