//! BPF
fn main() {}
