//! Values that windows hold.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::eval::group_key::GroupKey;

/// A value a window holds. At the window's bound only "at least" is known, and so it is where some records did
/// not tell what the term needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Exactly this many.
    Exactly(u64),
    /// This many or more.
    AtLeast(u64),
    /// Not evaluable: no record told what the term needs.
    Unknown,
}

impl Value {
    /// The number; 0 where nothing is known.
    pub const fn number(self) -> u64 {
        match self {
            Value::Exactly(n) | Value::AtLeast(n) => n,
            Value::Unknown => 0,
        }
    }
}

/// What a term of a rule's condition held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermValue {
    /// What was measured, in the words of the configuration: `count`, `count failed`, `sum payload_up`,
    /// `distinct destination`, `ratio failed/attempts`, `first_seen destination`.
    pub name: Arc<str>,
    /// The window's length.
    pub window: Duration,
    /// What the window holds.
    pub value: Value,
    /// What it needed.
    pub threshold: u64,
    /// What both are divided by to be shown: 1, or [`Thresholds::SUBWINDOWS`](crate::settings::Level::PARTS) for a ratio.
    pub scale: u64,
    /// True if it holds.
    pub holds: bool,
}

impl TermValue {
    /// Of a rule without terms.
    pub(crate) fn none() -> Self {
        let (name, window) = ("none".into(), Duration::ZERO);
        Self { name, window, value: Value::Exactly(0), threshold: 0, scale: 1, holds: false }
    }

    /// The value as it is shown; none where it is not evaluable.
    pub fn scaled_value(&self) -> Option<f64> {
        (self.value != Value::Unknown).then(|| self.value.number() as f64 / self.scale as f64)
    }

    /// The threshold as it is shown.
    pub fn scaled_threshold(&self) -> f64 {
        self.threshold as f64 / self.scale as f64
    }
}

/// The value of one term of a rule for one subject, for the window gauge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowValue {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// Name of the term, as in [`TermValue::name`].
    pub term: Arc<str>,
    /// Whom it is about.
    pub group_key: GroupKey,
    /// What its window holds now.
    pub value: Value,
}
