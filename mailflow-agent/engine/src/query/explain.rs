//! Why a source raises an alert, or does not: what each rule holds for it, and for each of its flows the
//! clause that speaks against it.

use std::{fmt, net::IpAddr, sync::Arc};

use crate::{
    Engine,
    eval::{
        group_key::{GroupKey, Source},
        group_state::{GroupState, IncidentState},
        group_table::AllowStatus,
        window::value::TermValue,
    },
    flow::{FlowRecord, phase::RecordPhase},
    network::{AddressScope, Endpoints},
    rule::{
        Clause,
        size_test::{FlowDirection, SizeMeasure},
    },
    time::Time,
};

/// All there is to say of an address.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The line of the internal list that makes it internal, as written.
    pub matched_network: Option<String>,
    /// Its group.
    pub group: Option<String>,
    /// What each rule holds for it.
    pub rules: Vec<RuleSnapshot>,
    /// Its newest flows, the newest first.
    pub flows: Vec<ExplainedFlow>,
    /// The oldest record that is remembered of anybody: before it nothing can be explained.
    pub since: Option<Time>,
}

/// What a rule holds for a subject.
#[derive(Clone, Debug)]
pub struct RuleSnapshot {
    /// The rule.
    pub rule: Arc<str>,
    /// Whom it is about.
    pub subject: GroupKey,
    /// True if an allow-list puts these flows aside.
    pub suppressed: bool,
    /// Since when an alert fires.
    pub firing: Option<Time>,
    /// Each term of its condition.
    pub terms: Vec<TermValue>,
}

/// A flow, and what the rules say of it.
#[derive(Clone, Debug)]
pub struct ExplainedFlow {
    /// Its record.
    pub record: FlowRecord,
    /// Of each rule: nothing if it counts, or else why not, in words.
    pub verdicts: Vec<(Arc<str>, Option<String>)>,
}

impl Engine {
    /// All there is to say of `source` at `now`, with at most `most` flows.
    pub fn explain(&self, source: IpAddr, now: Time, most: usize) -> Explanation {
        let site = self.settings.internal.locate(source);
        let group = site.network.and_then(|network| network.group.clone());
        let of = Source::of(source, self.settings.v6_source_prefix);
        let about = |subject: &GroupKey| match subject {
            GroupKey::Source(_) | GroupKey::Pair(_) => subject.source() == Some(of),
            GroupKey::Group(name) => Some(&**name) == group.as_deref(),
            GroupKey::Destination(server) => *server == source,
            GroupKey::Many => false,
        };
        let mut rules = Vec::new();
        for watch in &self.evaluator.watches {
            let rule = &watch.plan.rule;
            let tell = |subject: &GroupKey, known: AllowStatus, watched: &GroupState| RuleSnapshot {
                rule: Arc::clone(&rule.name),
                subject: subject.clone(),
                suppressed: known == AllowStatus::Allowed,
                firing: match watched.state() {
                    IncidentState::Firing(firing) => Some(firing.0.told().starts_at),
                    IncidentState::Quiet(_) => None,
                },
                terms: watch.plan.values(&watched.terms(&watch.plan), watch.plan.levels_of(&site), now),
            };
            let before = rules.len();
            for (known, lane) in [(AllowStatus::No, &watch.unknown), (AllowStatus::Allowed, &watch.allowed)] {
                let own = lane.iter().filter(|(subject, _)| about(subject));
                let mut held: Vec<RuleSnapshot> =
                    own.map(|(subject, watched)| tell(subject, known, watched)).collect();
                held.sort_by(|one, other| one.subject.cmp(&other.subject));
                rules.extend(held);
            }
            // What holds nothing is told too: zero is an answer.
            if rules.len() == before
                && rule.matching.source.holds(&site)
                && let Some(subject) =
                    GroupKey::of_client(rule.group_by, source, &site, self.settings.v6_source_prefix)
            {
                rules.push(tell(&subject, AllowStatus::No, &GroupState::new(&watch.plan)));
            }
        }
        let own = |record: &&FlowRecord| {
            Source::of(record.flow.client(), self.settings.v6_source_prefix) == of
                || record.flow.server() == source
        };
        Explanation {
            matched_network: site.network.map(|network| network.line.clone()),
            group,
            rules,
            flows: self
                .recent
                .all()
                .rev()
                .filter(own)
                .take(most)
                .map(|record| self.explained(record))
                .collect(),
            since: self.recent.oldest().map(FlowRecord::time),
        }
    }

    fn explained(&self, record: &FlowRecord) -> ExplainedFlow {
        let ends = Endpoints::of(&record.flow, &self.settings.internal);
        let verdict = |watch: &crate::eval::rule_state::RuleState| {
            let rule = &watch.plan.rule;
            let lacking = rule.matching.inputs() - record.inputs;
            if !lacking.is_empty() {
                let why = format!("not evaluable, as its log does not tell: {lacking}");
                return (Arc::clone(&rule.name), Some(why));
            }
            let against = if rule.matching.judges(RecordPhase::of(record.reason)) {
                rule.matching.check(&record.flow, record.app, &ends, self.settings.epoch).err()
            } else {
                Some(Clause::NotEnded)
            };
            let allowed = || {
                let allow = watch.plan.allowed(&ends, record.time(), self.settings.epoch)?;
                Some(format!("on the allow-list: {}", allow.reason))
            };
            let why = against.map(|clause| clause.to_string()).or_else(allowed);
            (Arc::clone(&rule.name), why)
        };
        let verdicts = self.evaluator.watches.iter().map(verdict).collect();
        ExplainedFlow { record: record.clone(), verdicts }
    }
}

/// Why a flow does not count, with the numbers.
impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Clause::Source(place) => write!(f, "its client is {}", named(*place)),
            Clause::Destination(place) => write!(f, "its server is {}", named(*place)),
            Clause::Port(port) => write!(f, "port {port} is not one of the rule's"),
            Clause::App(app) => write!(f, "it is {}", app.name()),
            Clause::Protocol(protocol) => write!(f, "protocol {protocol} is not one of the rule's"),
            Clause::Size(short) => {
                let way = match short.way {
                    FlowDirection::Up => "up",
                    FlowDirection::Down => "down",
                };
                let (bytes, packets, needed) = (short.bytes, short.packets, short.needed);
                match short.measure {
                    SizeMeasure::Ratio if packets == 0 => write!(f, "no packet {way}"),
                    SizeMeasure::Ratio => {
                        let ratio = bytes as f64 / packets as f64;
                        write!(f, "{way} {bytes} B / {packets} = {ratio:.1} B a packet, less than {needed}")
                    }
                    SizeMeasure::Count => {
                        write!(f, "{way} {packets} packets and {bytes} B, not {needed} of each")
                    }
                }
            }
            Clause::NoSession => f.write_str("no handshake was seen"),
            Clause::Bound { of, found, .. } => write!(f, "{} is {found}, out of bounds", of.name()),
            Clause::Hours => f.write_str("it was at another hour"),
            Clause::NotEnded => f.write_str("it is open, and judged when it has ended"),
        }
    }
}

fn named(place: AddressScope) -> String {
    match place {
        AddressScope::Internal => "internal".to_owned(),
        AddressScope::Internet => "on the Internet".to_owned(),
        AddressScope::Special(special) => format!("in {} ({}, {})", special.net, special.name, special.rfc),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        eval::window::value::Value,
        fixture::{self, at},
        flow::{EvictOutcome, RecordReason, timeout},
    };

    fn deliver(engine: &mut Engine, client: &str, server: &str, last: u64, bytes: u64) {
        let mut flow = fixture::ending(fixture::flow(client, server), at(last));
        flow.down.bytes = bytes;
        let record = timeout::record(flow, &fixture::settings().services, RecordReason::Closed);
        engine.record(at(last), &record);
    }

    #[test]
    fn each_flow_says_why_it_does_not_count() {
        let mut engine = Engine::new(fixture::settings());
        deliver(&mut engine, "10.0.0.1:4000", "9.9.9.9:25", 100, 2_000);
        deliver(&mut engine, "10.0.0.1:4001", "9.9.9.9:25", 110, 799);
        deliver(&mut engine, "10.0.0.1:4002", "10.0.0.9:25", 120, 2_000);
        deliver(&mut engine, "10.0.0.2:4003", "9.9.9.9:25", 130, 2_000);
        let told = engine.explain("10.0.0.1".parse().unwrap(), at(200), 10);
        assert_eq!(told.matched_network.as_deref(), Some("10.0.0.0/8"));
        let whys: Vec<_> = told.flows.iter().map(|flow| flow.verdicts[0].1.as_deref()).collect();
        let small = "down 799 B / 10 = 79.9 B a packet, less than 80";
        assert_eq!(whys, [Some("its server is internal"), Some(small), None]);
        assert_eq!((told.rules.len(), told.rules[0].terms[0].value), (1, Value::Exactly(1)));
        assert_eq!((told.rules[0].firing, told.since), (None, Some(at(100))));
        assert_eq!(engine.explain("10.0.0.1".parse().unwrap(), at(200), 1).flows.len(), 1);
        let [silent, outside] =
            ["10.0.0.77", "9.9.9.9"].map(|ip| engine.explain(ip.parse().unwrap(), at(200), 9));
        assert_eq!((silent.flows.len(), silent.rules[0].terms[0].value), (0, Value::Exactly(0)));
        assert!(outside.rules.is_empty(), "no rule looks at it: {:?}", outside.rules);
    }

    #[test]
    fn flows_of_a_gateway_are_explained_whether_they_count_or_not() {
        let mut engine = Engine::new(fixture::settings());
        let [counts, mut small] = [4_000, 4_001]
            .map(|port| fixture::ending(fixture::flow(&format!("10.0.0.1:{port}"), "9.9.9.9:25"), at(100)));
        small.down.bytes = 799;
        engine.begin(at(400));
        engine.look(&[counts, small]);
        engine.end(&[EvictOutcome::Evicted; 2]);
        engine.tick(at(400));
        let told = engine.explain("10.0.0.1".parse().unwrap(), at(400), 10);
        let mut counted: Vec<_> = told.flows.iter().map(|flow| flow.verdicts[0].1.is_none()).collect();
        counted.sort_unstable();
        assert_eq!(counted, [false, true]);
    }
}
