//! Running agent on a gateway with source NAT, with real software on both sides.
//!
//! These tests create network namespaces and need root.

mailflow_test_support::needs_root!();

mod counts;
mod errors;
mod interfaces;
mod lists;
mod polls;
mod ports;
mod queue;
mod rule;
mod stop;
mod wire;
mod zones;

use std::path::{Path, PathBuf};

/// Options of agents in tests whose subject is no interval: records come soon after the end of a flow.
const OFTEN: &str = "--poll-interval 100ms";
/// Timeout of closed flows in these tests: longer than a retransmitted FIN takes.
const CLOSED: &str = "timeouts: { closed: 1s }\n";

/// Writes a configuration with a short timeout of closed flows, and `more`. Returns the options for it.
fn quick(folder: &Path, more: &str) -> String {
    let path: PathBuf = folder.join("quick.yaml");
    std::fs::write(&path, format!("{CLOSED}{more}")).unwrap();
    format!("--config {} {OFTEN}", path.display())
}
