//! Values of windows.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::eval::group_key::GroupKey;

/// Value of a window. A full window knows only a lower bound, and so does a window with records that lack a field
/// that the term needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Exact value.
    Exactly(u64),
    /// Lower bound of the value.
    AtLeast(u64),
    /// Not evaluable, as no record carried the fields that the term needs.
    Unknown,
}

impl Value {
    /// Returns the number, or 0 if the value is unknown.
    pub const fn number(self) -> u64 {
        match self {
            Value::Exactly(n) | Value::AtLeast(n) => n,
            Value::Unknown => 0,
        }
    }
}

/// Value of a term of a rule's condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermValue {
    /// Name of the measure as in the configuration: `count`, `count failed`, `sum payload_up`, `distinct
    /// destination`, `ratio failed/attempts`, `first_seen destination`.
    pub name: Arc<str>,
    /// Length of the window.
    pub window: Duration,
    /// Value of the window.
    pub value: Value,
    /// Threshold in force.
    pub threshold: u64,
    /// Divisor of value and threshold for display: 1, or [`Thresholds::PARTS`](crate::settings::Thresholds::PARTS)
    /// for a ratio.
    pub scale: u64,
    /// True if the value reaches the threshold.
    pub holds: bool,
}

impl TermValue {
    /// Returns the value of a rule without terms.
    pub(crate) fn none() -> Self {
        let (name, window) = ("none".into(), Duration::ZERO);
        Self { name, window, value: Value::Exactly(0), threshold: 0, scale: 1, holds: false }
    }

    /// Returns the value for display, or `None` if it is not evaluable.
    pub fn scaled_value(&self) -> Option<f64> {
        (self.value != Value::Unknown).then(|| self.value.number() as f64 / self.scale as f64)
    }

    /// Returns the threshold for display.
    pub fn scaled_threshold(&self) -> f64 {
        self.threshold as f64 / self.scale as f64
    }
}

/// Value of one term of a rule for one group, for the window gauge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowValue {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// Name of the term, as in [`TermValue::name`].
    pub term: Arc<str>,
    /// Key of the group.
    pub group_key: GroupKey,
    /// Current value of the window.
    pub value: Value,
}
