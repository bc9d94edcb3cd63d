//! Firing alerts for `status`.

use std::{collections::HashMap, sync::Arc};

use crate::{
    control::{FiringAlert, StatusNumber},
    outputs::policy,
};
use mailflow_engine::{
    eval::GroupKey,
    event::{Alert, Value},
    query::window_scan::TermProgress,
    settings::unit,
};

/// Returns the alerts that notify people.
pub(crate) fn notifying(firing: &[Arc<Alert>]) -> impl Iterator<Item = &Arc<Alert>> {
    firing.iter().filter(|alert| policy::notifies(alert))
}

/// Returns the rows of these alerts, with the window values of the last scan. Before the first scan they have the
/// values of their last event.
pub(crate) fn status_rows<'a>(
    firing: impl Iterator<Item = &'a Arc<Alert>>,
    windows: &[TermProgress],
) -> Vec<FiringAlert> {
    let now: HashMap<(&str, &GroupKey), &TermProgress> =
        windows.iter().map(|first| ((&*first.rule, &first.group_key), first)).collect();
    let row = |alert: &Arc<Alert>| {
        let now = now.get(&(&*alert.rule, &alert.group_key));
        let term = &alert.deciding_term;
        let scale = now.map_or(1, |now| now.scale);
        let (value, threshold) =
            now.map_or((term.value.number(), term.threshold), |now| (now.value.number(), now.threshold));
        FiringAlert {
            rule: alert.rule.to_string(),
            severity: alert.severity.name().to_owned(),
            source: alert.group_key.to_string(),
            fingerprint: alert.fingerprint.clone(),
            since: alert.starts_at_unix as f64 / 1e9,
            condition: now.map(|now| now.term.to_string()),
            unit: now.map(|now| unit(&now.term).to_owned()),
            value: StatusNumber::of(value, scale),
            at_bound: now.is_some_and(|now| matches!(now.value, Value::AtLeast(_))),
            threshold: StatusNumber::of(threshold, scale),
        }
    };
    firing.map(row).collect()
}
