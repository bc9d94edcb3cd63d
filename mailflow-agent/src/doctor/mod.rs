//! `doctor`: what of this machine speaks for or against exact counts, and what to do about it.

mod agent;
mod dead_letters;
mod finding;
mod interface;
mod machine;

pub use self::finding::{Finding, Verdict};
use crate::config::Config;

/// The interfaces to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interfaces {
    /// Those that the running agent watches; where none runs, those of the configuration.
    Watched,
    /// Those of the configuration, which the command line has named.
    Named,
}

/// Looks at the machine, at each interface to watch, and at the agent if one runs.
pub fn examine(config: &Config, interfaces: Interfaces) -> Vec<Finding> {
    let (mut findings, ask_bpf) = machine::examine(config);
    findings.extend(warnings(config));
    let (status, about_agent) = agent::ask(config.control.socket.as_deref());
    let watched = status.as_ref().map(|status| status.watched.as_slice()).unwrap_or_default();
    if interfaces == Interfaces::Watched && !watched.is_empty() {
        let names: Vec<&str> = watched.iter().map(|entry| entry.entry.as_str()).collect();
        findings.push(Finding::ok("interfaces", format!("the running agent watches {}", names.join(", "))));
        for entry in watched {
            findings.extend(interface::of_agent(entry, config, ask_bpf));
        }
    } else if config.interfaces.is_empty() {
        let advice = "name one with --interface NAME, or under `interfaces` in the configuration";
        findings.push(Finding::warn("interfaces", "none is to be watched", advice));
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
    /// More are only counted.
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
