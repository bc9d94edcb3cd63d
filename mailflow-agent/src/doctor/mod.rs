//! `doctor`: checks the machine, its interfaces and the agent for problems that affect exact counts.

mod agent;
mod dead_letters;
mod finding;
mod interface;
mod machine;

pub use self::finding::{Finding, Verdict};
use crate::config::Config;

/// Interfaces to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfaceSelection {
    /// Interfaces that the running agent watches; without an agent, the configured ones.
    Watched,
    /// Configured interfaces, which the command line has selected.
    Named,
}

/// Checks the machine, each interface, and the agent if one runs.
pub fn examine(config: &Config, interfaces: InterfaceSelection) -> Vec<Finding> {
    let (mut findings, ask_bpf) = machine::examine(config);
    findings.extend(warnings(config));
    let (status, about_agent) = agent::query(config.control.socket.as_deref());
    let watched = status.as_ref().map(|status| status.watched.as_slice()).unwrap_or_default();
    if interfaces == InterfaceSelection::Watched && !watched.is_empty() {
        let names: Vec<&str> = watched.iter().map(|entry| entry.entry.as_str()).collect();
        findings.push(Finding::ok("interfaces", format!("the running agent watches {}", names.join(", "))));
        for entry in watched {
            findings.extend(interface::of_agent(entry, config, ask_bpf));
        }
    } else if config.interfaces.is_empty() {
        let advice = "name one with --interface NAME, or under `interfaces` in the configuration";
        findings.push(Finding::warn("interfaces", "no interface is configured", advice));
    } else {
        for entry in &config.interfaces {
            findings.extend(interface::of_config(entry, config, ask_bpf));
        }
    }
    findings.extend(about_agent);
    findings.extend(dead_letters::examine(config));
    findings
}

/// Returns the warnings about the configuration, as `check-config` prints them.
fn warnings(config: &Config) -> Vec<Finding> {
    /// Maximum number of findings about the configuration. Further warnings are only counted.
    const MAX_SHOWN: usize = 10;
    let advice = "see `mailflow-agent check-config`";
    let shown = config.warnings.iter().take(MAX_SHOWN);
    let mut findings: Vec<_> =
        shown.map(|warning| Finding::warn("configuration", warning.to_string(), advice)).collect();
    if let Some(more) = config.warnings.len().checked_sub(MAX_SHOWN).filter(|more| *more > 0) {
        findings.push(Finding::warn("configuration", format!("{more} more warnings"), advice));
    }
    findings
}
