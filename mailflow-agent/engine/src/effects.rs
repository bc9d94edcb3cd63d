//! Output of one call of the engine: deltas, records, counted flows and alerts.

use std::sync::Arc;

use mailflow_common::FlowKey;

use crate::{
    alert::event::Alert,
    eval::group_key::GroupKey,
    flow::{FlowRecord, delta::Delta},
};

/// Everything one call of the engine produced, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Gains for the metrics.
    pub deltas: Vec<Delta>,
    /// Flow records.
    pub records: Vec<FlowRecord>,
    /// Flows that rules counted.
    pub qualified: Vec<Qualified>,
    /// Alert events.
    pub alerts: Vec<Alert>,
    /// Alerts that are told together with others.
    pub grouped: Vec<Grouped>,
}

impl Effects {
    /// Forgets them, and keeps their room.
    pub fn clear(&mut self) {
        let Self { deltas, records, qualified, alerts, grouped } = self;
        deltas.clear();
        records.clear();
        qualified.clear();
        alerts.clear();
        grouped.clear();
    }
}

/// A flow that a rule counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qualified {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// The flow.
    pub key: FlowKey,
    /// True if an allow-list put it aside.
    pub suppressed: bool,
}

/// An alert that is told together with others, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grouped {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Whom it is about.
    pub subject: GroupKey,
}

impl Grouped {
    /// Of `alert`.
    pub(crate) fn of(alert: &Alert) -> Self {
        let (rule, fingerprint) = (Arc::clone(&alert.rule), alert.fingerprint.clone());
        Self { rule, fingerprint, subject: alert.subject.clone() }
    }
}
