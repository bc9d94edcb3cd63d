//! Severity of a rule and of its alerts.

use serde::{Deserialize, Serialize};

/// Severity of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Severity {
    /// For information.
    Low,
    /// To be examined within a day.
    Medium,
    /// To be examined at once.
    High,
    /// To be examined at once, also outside of working hours.
    Critical,
}

impl Severity {
    /// Returns the name in configuration and alerts.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }

    /// All severities.
    pub const ALL: [Severity; 4] = [Severity::Low, Severity::Medium, Severity::High, Severity::Critical];
}
