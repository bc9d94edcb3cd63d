//! Relay hints: sources that behave like mail relays, by the recent records.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::event::{Alert, RelayHint};
use crate::{
    Engine,
    eval::group_key::Source,
    flow::{
        FlowRecord,
        class::{FlowClass, FlowClasses},
        phase::RecordPhase,
        timeout::FlowEnd,
    },
    network::Endpoints,
};

/// Delivering sessions from which on a source can be a relay.
const MIN_RELAY_SESSIONS: usize = 20;
/// Servers to which a relay delivers.
const MIN_RELAY_SERVERS: usize = 10;
/// Sources from which on a server counts as used by many.
const MIN_SERVER_SOURCES: usize = 5;

/// Suggested allow-list entry: a source that behaves like a relay, or a server that many sources use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// Source of the entry.
    pub source: Option<Source>,
    /// Server of the entry.
    pub destination: Option<IpAddr>,
    /// Reason, as text.
    pub reason: String,
}

/// Mail of one source.
#[derive(Default)]
struct SentMail {
    /// Attempts whose delivery is known.
    attempts: u64,
    delivered: u64,
    servers: BTreeSet<IpAddr>,
}

impl SentMail {
    /// Counts an attempt, unless its record does not carry the fields that show a delivery.
    fn add(&mut self, record: &FlowRecord, classes: FlowClasses) {
        if !record.fields.contains(FlowClass::Delivering.required_fields()) {
            return;
        }
        self.attempts += 1;
        if classes.contains(FlowClasses::DELIVERING) {
            self.delivered += 1;
            self.servers.insert(record.flow.server());
        }
    }

    /// Returns a hint if the source delivers much mail to many servers, and most of its attempts deliver.
    fn relay_hint(&self) -> Option<RelayHint> {
        let Self { attempts, delivered, ref servers } = *self;
        let is_relay = delivered >= MIN_RELAY_SESSIONS as u64
            && servers.len() >= MIN_RELAY_SERVERS
            && delivered * 10 >= attempts * 7;
        is_relay.then_some(RelayHint { attempts, delivered, servers: servers.len() as u64 })
    }
}

impl Engine {
    /// Keeps all records instead of the newest ones, to explain a flow log that is in memory.
    pub fn retain_all_records(&mut self) {
        self.recent_records.retain_all();
    }

    /// Returns suggested allow-list entries with their reasons.
    pub fn suggest(&self) -> Vec<Suggestion> {
        let mut sources: BTreeMap<Source, SentMail> = BTreeMap::new();
        let mut servers: BTreeMap<IpAddr, BTreeSet<Source>> = BTreeMap::new();
        for record in self.recent_records.all() {
            let Some(classes) = self.attempt_classes(record) else { continue };
            let flow = &record.flow;
            let source = Source::of(flow.client(), self.settings.v6_source_prefix);
            sources.entry(source).or_default().add(record, classes);
            if classes.contains(FlowClasses::DELIVERING) && flow.key.server_port != 25 {
                servers.entry(flow.server()).or_default().insert(source);
            }
        }
        let relays = sources.into_iter().filter_map(|(source, sent_mail)| {
            let reason = sent_mail.relay_hint()?.to_string();
            Some(Suggestion { source: Some(source), destination: None, reason })
        });
        let servers_in_use = servers.into_iter().filter(|(_, sources)| sources.len() >= MIN_SERVER_SOURCES);
        let servers_in_use = servers_in_use.map(|(server, sources)| Suggestion {
            source: None,
            destination: Some(server),
            reason: format!("{} sources submit mail to it", sources.len()),
        });
        relays.chain(servers_in_use).collect()
    }

    /// Returns the number of attempts whose records do not show if mail was delivered, and the number of all
    /// attempts.
    pub fn count_undetermined_attempts(&self) -> (u64, u64) {
        let attempts = self.recent_records.all().filter(|record| self.attempt_classes(record).is_some());
        attempts.fold((0, 0), |(unknown, all), record| {
            let tells = record.fields.contains(FlowClass::Delivering.required_fields());
            (unknown + u64::from(!tells), all + 1)
        })
    }

    /// Sets the relay hint of each alert that is not suppressed.
    pub(crate) fn attach_relay_hints(&self, alerts: &mut [Alert]) {
        for alert in alerts.iter_mut().filter(|alert| alert.suppressed.is_none()) {
            let Some(source) = alert.group_key.source() else { continue };
            let network = source.network();
            let mut sent_mail = SentMail::default();
            // Only flows that ended before the alert: a poll may know later ones already.
            let ended = |record: &&FlowRecord| FlowEnd::of(&record.flow, &self.limits).at <= alert.time;
            for record in self.recent_records.by_client(|client| network.contains(&client)).filter(ended) {
                if let Some(classes) = self.attempt_classes(record) {
                    sent_mail.add(record, classes);
                }
            }
            alert.relay = sent_mail.relay_hint();
        }
    }

    /// Returns the classes of an attempt that ended, if some rule covers its endpoints and port, and no allow-list
    /// entry does.
    fn attempt_classes(&self, record: &FlowRecord) -> Option<FlowClasses> {
        let phase = RecordPhase::of(record.reason);
        let classes = FlowClasses::of(record, phase);
        if phase != RecordPhase::Final || !classes.contains(FlowClasses::ATTEMPTS) {
            return None;
        }
        let endpoints = Endpoints::of(&record.flow, &self.settings.internal);
        let counts = self.evaluator.rule_states.iter().any(|rule_state| {
            let (rule, clock_offset) = (&rule_state.compiled.rule, self.settings.clock_offset);
            rule.matching.source.contains(&endpoints.source)
                && rule.matching.destination.contains(&endpoints.destination)
                && rule.matching.ports.contains(&record.flow.key.server_port)
                && rule_state.compiled.allowed(&endpoints, record.time(), clock_offset).is_none()
        });
        counts.then_some(classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        alert::event::AlertState,
        fixture::{self, at},
        flow::{RecordReason, recent_records::MAX_RECENT_RECORDS, timeout},
    };

    fn deliver(engine: &mut Engine, client: &str, server: &str, last: u64) -> Vec<Alert> {
        let flow = fixture::ending(fixture::flow(client, server), at(last));
        let record = timeout::record(flow, &fixture::settings().services, RecordReason::Closed);
        engine.ingest_record(at(last), &record).alerts
    }

    #[test]
    fn sources_that_deliver_to_many_servers_are_suggested() {
        let mut engine = Engine::new(fixture::settings());
        for n in 0..30u16 {
            let port = 4_000 + n;
            deliver(&mut engine, &format!("10.0.0.1:{port}"), &format!("9.9.9.{}:25", n % 12), 100);
            deliver(&mut engine, &format!("10.0.0.2:{port}"), &format!("9.9.9.{}:25", n % 3), 100);
            deliver(&mut engine, &format!("10.0.1.{}:{port}", n % 6), "8.8.8.8:587", 100);
        }
        let [relay, servers_in_use] = engine.suggest().try_into().unwrap();
        assert_eq!(relay.source.map(|source| source.to_string()).as_deref(), Some("10.0.0.1"));
        assert_eq!(relay.reason, "30 of 30 sessions delivered mail, to 12 servers");
        assert_eq!(servers_in_use.destination, Some("8.8.8.8".parse().unwrap()));
        assert_eq!(servers_in_use.reason, "6 sources submit mail to it");
    }

    #[test]
    fn an_alert_has_a_relay_hint_once_its_source_is_like_a_relay() {
        let mut engine = Engine::new(fixture::settings());
        let mut alerts = Vec::new();
        for n in 0..30u16 {
            // One client delivers to many servers, the other to three.
            for (client, servers) in [("10.0.0.1", 12), ("10.0.0.2", 3)] {
                let (client, server) =
                    (format!("{client}:{}", 4_000 + n), format!("9.9.9.{}:25", n % servers));
                alerts.extend(deliver(&mut engine, &client, &server, 100 + u64::from(n)));
            }
        }
        let hints = |alerts: &[Alert]| -> Vec<(String, AlertState, Option<RelayHint>)> {
            alerts.iter().map(|alert| (alert.group_key.to_string(), alert.state, alert.relay)).collect()
        };
        let [one, other] = ["10.0.0.1".to_owned(), "10.0.0.2".to_owned()];
        let first = [(one.clone(), AlertState::Firing, None), (other.clone(), AlertState::Firing, None)];
        assert_eq!(hints(&alerts), first, "ten flows are too few to tell");
        let relay = Some(RelayHint { attempts: 30, delivered: 30, servers: 12 });
        let repeated = engine.tick(at(100 + 3_600 + 10)).alerts;
        let again = [(one, AlertState::Firing, relay), (other, AlertState::Firing, None)];
        assert_eq!(hints(&repeated)[..2], again);
    }

    #[test]
    fn recent_records_are_bounded_unless_all_are_retained() {
        let mut engine = Engine::new(fixture::settings());
        let record = fixture::record(at(100));
        (0..=MAX_RECENT_RECORDS).for_each(|_| engine.recent_records.push(&record));
        assert_eq!(engine.recent_records.all().count(), MAX_RECENT_RECORDS);
        engine.retain_all_records();
        engine.recent_records.push(&record);
        assert_eq!(engine.recent_records.all().count(), MAX_RECENT_RECORDS + 1);
    }
}
