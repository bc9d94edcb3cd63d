//! Findings and their verdicts.

use serde::Serialize;

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
