//! Findings and their verdicts.

use serde::Serialize;

/// Verdict of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// No problem.
    Ok,
    /// Counts may be incomplete, or something can be improved.
    Warn,
    /// Failure: the agent does not work correctly.
    Bad,
}

impl Verdict {
    /// Returns the name in the output.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Bad => "bad",
        }
    }
}

/// Result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Subject of the check: `kernel`, `capabilities`, `eth1 hooks`.
    pub what: String,
    /// Verdict.
    pub verdict: Verdict,
    /// Observed state.
    pub found: String,
    /// Recommended action; empty if there is none.
    pub advice: String,
}

impl Finding {
    pub(super) fn ok(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Ok, found: found.into(), advice: String::new() }
    }

    pub(super) fn warn(what: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Warn, found: found.into(), advice: advice.into() }
    }

    pub(super) fn bad(what: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Bad, found: found.into(), advice: advice.into() }
    }
}
