//! Output of one call of the engine: deltas, records, matched flows and alerts.

use std::sync::Arc;

use mailflow_common::FlowKey;

use crate::{
    alert::event::Alert,
    eval::group_key::GroupKey,
    flow::{FlowRecord, delta::Delta},
};

/// Output of one call of the engine, each list in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Counter deltas of flows, for the metrics.
    pub deltas: Vec<Delta>,
    /// Flow records.
    pub records: Vec<FlowRecord>,
    /// Flows that rules counted.
    pub matched_flows: Vec<MatchedFlow>,
    /// Alert events.
    pub alerts: Vec<Alert>,
    /// Alerts that an aggregate alert reports.
    pub aggregated_alerts: Vec<AggregatedAlert>,
}

impl Effects {
    /// Removes all effects and keeps the allocated capacity.
    pub fn clear(&mut self) {
        let Self { deltas, records, matched_flows, alerts, aggregated_alerts } = self;
        deltas.clear();
        records.clear();
        matched_flows.clear();
        alerts.clear();
        aggregated_alerts.clear();
    }
}

/// Flow that a rule counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchedFlow {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// Key of the flow.
    pub key: FlowKey,
    /// True if an allow-list suppresses alerts about the flow.
    pub suppressed: bool,
}

/// Alert that an aggregate alert reports, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregatedAlert {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// Fingerprint of the alert.
    pub fingerprint: String,
    /// Group that the alert is about.
    pub group_key: GroupKey,
}

impl AggregatedAlert {
    /// Returns the summary of `alert`.
    pub(crate) fn of(alert: &Alert) -> Self {
        let (rule, fingerprint) = (Arc::clone(&alert.rule), alert.fingerprint.clone());
        Self { rule, fingerprint, group_key: alert.group_key.clone() }
    }
}
