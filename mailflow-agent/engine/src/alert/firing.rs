//! Firing alerts. They follow from the incidents: no other list of them exists.

use std::sync::Arc;

use super::event::Alert;
use crate::{Engine, eval::evaluator::Evaluator};

impl Engine {
    /// Returns the firing alerts, suppressed ones included, oldest first. Each is as last sent, without its relay hint.
    ///
    /// Visits the active incidents only, not all groups.
    pub fn firing(&self) -> Vec<Arc<Alert>> {
        self.evaluator.firing()
    }

    /// Returns the firing alerts with their current relay hints, for a receiver that does not know them.
    pub fn firing_with_relay_hints(&self) -> Vec<Arc<Alert>> {
        let mut firing = self.firing();
        for alert in &mut firing {
            self.attach_relay_hints(std::slice::from_mut(Arc::make_mut(alert)));
        }
        firing
    }
}

impl Evaluator {
    fn firing(&self) -> Vec<Arc<Alert>> {
        // Each active incident has a deadline.
        let incidents = self.deadlines.iter().filter_map(|(_, rule, allow_status, group_key)| {
            let rule_state = self.rule_states.get(*rule)?;
            rule_state.table(*allow_status).get(group_key)?.single_alert().cloned()
        });
        let limited = self.rule_states.iter().filter_map(|rule_state| rule_state.rate_limit.active_alert());
        let aggregates =
            limited.chain(self.flood_detector.active_alert()).map(|alert| Arc::new(alert.clone()));
        let mut firing: Vec<_> = incidents.chain(aggregates).collect();
        let order =
            |alert: &Arc<Alert>| (alert.starts_at, alert.fingerprint.clone(), alert.suppressed.is_some());
        firing.sort_by_cached_key(order);
        // A group that was removed and fires again has a deadline of its former incident too.
        firing.dedup_by(|one, other| order(one) == order(other));
        firing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture::{self, at},
        flow::{RecordReason, timeout},
        rule::Thresholds,
    };

    #[test]
    fn the_firing_alerts_are_those_of_the_events() {
        let mut settings = fixture::settings();
        settings.rules[0].terms[0].thresholds = Thresholds { at_least: 1, resolve_below: 1 };
        let mut engine = Engine::new(settings.clone());
        let mut events = Vec::new();
        for (n, second) in [(1, 1_000), (2, 1_100), (3, 1_200)] {
            let client = format!("10.0.0.{n}:4000");
            let flow = fixture::ending(fixture::flow(&client, "9.9.9.9:25"), at(second));
            let record = timeout::record(flow, &settings.services, RecordReason::Closed);
            events.extend(engine.ingest_record(at(second), &record).alerts);
        }
        let firing = |engine: &Engine| -> Vec<Alert> {
            engine.firing().into_iter().map(Arc::unwrap_or_clone).collect()
        };
        assert_eq!(events.len(), 3);
        assert_eq!(firing(&engine), events);
        let mut restored = Engine::new(settings);
        restored.restore(engine.save());
        assert_eq!(firing(&restored), events, "as before the restart");
        assert!(events.iter().all(|alert| alert.time == alert.starts_at));
        // Each is repeated, and then ends.
        let repeats = engine.tick(at(4_801)).alerts;
        assert_eq!(firing(&engine), repeats);
        assert!(!repeats.is_empty(), "no repeat is due");
        engine.tick(at(20_000));
        assert_eq!(firing(&engine), []);
    }
}
