//! mailflow-agent.
fn main() {}
