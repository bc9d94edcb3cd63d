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
    pub matched_flows: Vec<MatchedFlow>,
    /// Alert events.
    pub alerts: Vec<Alert>,
    /// Alerts that are told together with others.
    pub aggregated_alerts: Vec<AggregatedAlert>,
}

impl Effects {
    /// Forgets them, and keeps their room.
    pub fn clear(&mut self) {
        let Self { deltas, records, matched_flows, alerts, aggregated_alerts } = self;
        deltas.clear();
        records.clear();
        matched_flows.clear();
        alerts.clear();
        aggregated_alerts.clear();
    }
}

/// A flow that a rule counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchedFlow {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// The flow.
    pub key: FlowKey,
    /// True if an allow-list put it aside.
    pub suppressed: bool,
}

/// An alert that is told together with others, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregatedAlert {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Whom it is about.
    pub group_key: GroupKey,
}

impl AggregatedAlert {
    /// Of `alert`.
    pub(crate) fn of(alert: &Alert) -> Self {
        let (rule, fingerprint) = (Arc::clone(&alert.rule), alert.fingerprint.clone());
        Self { rule, fingerprint, group_key: alert.group_key.clone() }
    }
}
