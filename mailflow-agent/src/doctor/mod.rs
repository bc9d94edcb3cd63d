//! `doctor`: what of this machine speaks for or against exact counts, and what to do about it.

mod agent;
mod dead_letters;
mod interface;
mod machine;

use serde::Serialize;

use crate::config::Config;

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing to do.
    Ok,
    /// Counts may be incomplete, or something is worse than it could be.
    Warn,
    /// It does not work so.
    Bad,
}

impl Verdict {
    /// The name in the output.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Bad => "bad",
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: `kernel`, `capabilities`, `eth1 hooks`.
    pub what: String,
    /// How it is to be taken.
    pub verdict: Verdict,
    /// How it is.
    pub found: String,
    /// What to do; empty where nothing is.
    pub advice: String,
}

impl Finding {
    fn ok(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Ok, found: found.into(), advice: String::new() }
    }

    fn warn(what: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Warn, found: found.into(), advice: advice.into() }
    }

    fn bad(what: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Bad, found: found.into(), advice: advice.into() }
    }
}

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
