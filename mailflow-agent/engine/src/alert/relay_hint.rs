//! Which sources look as if they were meant to send mail, as far as the newest flows tell.

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

/// Sessions with mail from which on a source is looked at.
const SESSIONS: usize = 20;
/// Servers that a relay delivers to.
const SERVERS: usize = 10;
/// Sources that use a server which is meant for them.
const SOURCES: usize = 5;

/// A source that behaves like one that is meant to send mail, or a server that many use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// The source, if it is about one.
    pub source: Option<Source>,
    /// The server, if it is about one.
    pub destination: Option<IpAddr>,
    /// What speaks for it, in words.
    pub because: String,
}

/// What was sent.
#[derive(Default)]
struct SentMail {
    /// Those of which it is known whether they delivered.
    attempts: u64,
    delivered: u64,
    servers: BTreeSet<IpAddr>,
}

impl SentMail {
    /// Takes an attempt. One of which it is not known whether it delivered speaks neither for nor against.
    fn add(&mut self, record: &FlowRecord, kinds: FlowClasses) {
        if !record.inputs.contains(FlowClass::Delivering.inputs()) {
            return;
        }
        self.attempts += 1;
        if kinds.contains(FlowClasses::DELIVERING) {
            self.delivered += 1;
            self.servers.insert(record.flow.server());
        }
    }

    /// Much mail, to many, and most of it taken.
    fn like_a_relay(&self) -> Option<RelayHint> {
        let Self { attempts, delivered, ref servers } = *self;
        let like = delivered >= SESSIONS as u64 && servers.len() >= SERVERS && delivered * 10 >= attempts * 7;
        like.then_some(RelayHint { attempts, delivered, servers: servers.len() as u64 })
    }
}

impl Engine {
    /// From now on every record is remembered, for who explains a flow log that is in memory anyway.
    pub fn remember_all(&mut self) {
        self.recent.keep_all();
    }

    /// Sources and servers that an allow-list may name, with what speaks for it.
    pub fn suggest(&self) -> Vec<Suggestion> {
        let mut sources: BTreeMap<Source, SentMail> = BTreeMap::new();
        let mut servers: BTreeMap<IpAddr, BTreeSet<Source>> = BTreeMap::new();
        for record in self.recent.all() {
            let Some(kinds) = self.attempt(record) else { continue };
            let flow = &record.flow;
            let source = Source::of(flow.client(), self.settings.v6_source_prefix);
            sources.entry(source).or_default().add(record, kinds);
            if kinds.contains(FlowClasses::DELIVERING) && flow.key.server_port != 25 {
                servers.entry(flow.server()).or_default().insert(source);
            }
        }
        let relays = sources.into_iter().filter_map(|(source, sent)| {
            let because = sent.like_a_relay()?.to_string();
            Some(Suggestion { source: Some(source), destination: None, because })
        });
        let used = servers.into_iter().filter(|(_, sources)| sources.len() >= SOURCES);
        let used = used.map(|(server, sources)| Suggestion {
            source: None,
            destination: Some(server),
            because: format!("{} sources submit mail to it", sources.len()),
        });
        relays.chain(used).collect()
    }

    /// Attempts of which it is not known whether mail was delivered, as their log does not tell, and all attempts.
    pub fn undelivered_or_not(&self) -> (u64, u64) {
        let attempts = self.recent.all().filter(|record| self.attempt(record).is_some());
        attempts.fold((0, 0), |(unknown, all), record| {
            let tells = record.inputs.contains(FlowClass::Delivering.inputs());
            (unknown + u64::from(!tells), all + 1)
        })
    }

    /// Says of alerts, but those that an allow-list suppresses, whether their source behaves like a relay.
    pub(crate) fn hint(&self, alerts: &mut [Alert]) {
        for alert in alerts.iter_mut().filter(|alert| alert.suppressed.is_none()) {
            let Some(source) = alert.subject.source() else { continue };
            let network = source.network();
            let mut sent = SentMail::default();
            // What had ended by then, however much of the same reading is known already.
            let ended = |record: &&FlowRecord| FlowEnd::of(&record.flow, &self.limits).at <= alert.time;
            for record in self.recent.of(|client| network.contains(&client)).filter(ended) {
                if let Some(kinds) = self.attempt(record) {
                    sent.add(record, kinds);
                }
            }
            alert.relay = sent.like_a_relay();
        }
    }

    /// What an attempt that ended showed, where some rule looks at such flows and no allow-list names it.
    fn attempt(&self, record: &FlowRecord) -> Option<FlowClasses> {
        let stage = RecordPhase::of(record.reason);
        let kinds = FlowClasses::of(record, stage);
        if stage != RecordPhase::Final || !kinds.contains(FlowClasses::ATTEMPTS) {
            return None;
        }
        let ends = Endpoints::of(&record.flow, &self.settings.internal);
        let counts = self.evaluator.watches.iter().any(|watch| {
            let (rule, epoch) = (&watch.plan.rule, self.settings.epoch);
            rule.matching.source.holds(&ends.source)
                && rule.matching.destination.holds(&ends.destination)
                && rule.matching.ports.contains(&record.flow.key.server_port)
                && watch.plan.allowed(&ends, record.time(), epoch).is_none()
        });
        counts.then_some(kinds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        alert::event::AlertState,
        fixture::{self, at},
        flow::{RecordReason, recent_records::REMEMBERED, timeout},
    };

    fn deliver(engine: &mut Engine, client: &str, server: &str, last: u64) -> Vec<Alert> {
        let flow = fixture::ending(fixture::flow(client, server), at(last));
        let record = timeout::record(flow, &fixture::settings().services, RecordReason::Closed);
        engine.record(at(last), &record).alerts
    }

    #[test]
    fn what_delivers_to_many_is_suggested_and_what_fails_is_not() {
        let mut engine = Engine::new(fixture::settings());
        for n in 0..30u16 {
            let port = 4_000 + n;
            deliver(&mut engine, &format!("10.0.0.1:{port}"), &format!("9.9.9.{}:25", n % 12), 100);
            deliver(&mut engine, &format!("10.0.0.2:{port}"), &format!("9.9.9.{}:25", n % 3), 100);
            deliver(&mut engine, &format!("10.0.1.{}:{port}", n % 6), "8.8.8.8:587", 100);
        }
        let [relay, used] = engine.suggest().try_into().unwrap();
        assert_eq!(relay.source.map(|source| source.to_string()).as_deref(), Some("10.0.0.1"));
        assert_eq!(relay.because, "30 of 30 sessions delivered mail, to 12 servers");
        assert_eq!(used.destination, Some("8.8.8.8".parse().unwrap()));
        assert_eq!(used.because, "6 sources submit mail to it");
    }

    #[test]
    fn an_alert_says_that_its_source_behaves_like_a_relay_once_it_does() {
        let mut engine = Engine::new(fixture::settings());
        let mut alerts = Vec::new();
        for n in 0..30u16 {
            // To many servers, and to three.
            for (client, servers) in [("10.0.0.1", 12), ("10.0.0.2", 3)] {
                let (client, server) =
                    (format!("{client}:{}", 4_000 + n), format!("9.9.9.{}:25", n % servers));
                alerts.extend(deliver(&mut engine, &client, &server, 100 + u64::from(n)));
            }
        }
        let told = |alerts: &[Alert]| -> Vec<(String, AlertState, Option<RelayHint>)> {
            alerts.iter().map(|alert| (alert.subject.to_string(), alert.state, alert.relay)).collect()
        };
        let [one, other] = ["10.0.0.1".to_owned(), "10.0.0.2".to_owned()];
        let first = [(one.clone(), AlertState::Firing, None), (other.clone(), AlertState::Firing, None)];
        assert_eq!(told(&alerts), first, "ten flows are too few to tell");
        let relay = Some(RelayHint { attempts: 30, delivered: 30, servers: 12 });
        let repeated = engine.tick(at(100 + 3_600 + 10)).alerts;
        let again = [(one, AlertState::Firing, relay), (other, AlertState::Firing, None)];
        assert_eq!(told(&repeated)[..2], again);
    }

    #[test]
    fn what_is_remembered_is_bounded_unless_it_is_not_to_be() {
        let mut engine = Engine::new(fixture::settings());
        let record = fixture::record(at(100));
        (0..=REMEMBERED).for_each(|_| engine.recent.push(&record));
        assert_eq!(engine.recent.all().count(), REMEMBERED);
        engine.remember_all();
        engine.recent.push(&record);
        assert_eq!(engine.recent.all().count(), REMEMBERED + 1);
    }
}
