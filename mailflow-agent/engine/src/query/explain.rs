//! Explanation of an address: the term values of each rule, and for each of its flows the clause that it fails.

use std::{fmt, net::IpAddr, sync::Arc};

use crate::{
    Engine,
    eval::{
        group_key::{GroupKey, Source},
        group_state::{GroupState, IncidentState},
        suppression::AllowStatus,
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

/// Explanation of an address.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Line of the internal list that makes the address internal, as written.
    pub matched_network: Option<String>,
    /// Group of the address.
    pub group: Option<String>,
    /// Snapshot of each rule for the address.
    pub rules: Vec<RuleSnapshot>,
    /// Newest flows of the address, newest first.
    pub flows: Vec<ExplainedFlow>,
    /// Time of the oldest stored record. Earlier flows cannot be explained.
    pub since: Option<Time>,
}

/// Term values of a rule for one group.
#[derive(Clone, Debug)]
pub struct RuleSnapshot {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// Key of the group.
    pub group_key: GroupKey,
    /// True if the flows are on an allow-list.
    pub suppressed: bool,
    /// Start of the firing alert.
    pub firing_since: Option<Time>,
    /// Every term of the rule's condition.
    pub terms: Vec<TermValue>,
}

/// Flow with the result of each rule.
#[derive(Clone, Debug)]
pub struct ExplainedFlow {
    /// Record of the flow.
    pub record: FlowRecord,
    /// Each rule, with the reason why it does not count the flow; `None` if it does.
    pub verdicts: Vec<(Arc<str>, Option<String>)>,
}

impl Engine {
    /// Explains `source` at `now`, with at most `max_flows` flows.
    pub fn explain(&self, source: IpAddr, now: Time, max_flows: usize) -> Explanation {
        let address = self.settings.internal.resolve(source);
        let group = address.network.and_then(|network| network.group.clone());
        let of = Source::of(source, self.settings.v6_source_prefix);
        let is_about = |group_key: &GroupKey| match group_key {
            GroupKey::Source(_) | GroupKey::Pair(_) => group_key.source() == Some(of),
            GroupKey::Group(name) => Some(&**name) == group.as_deref(),
            GroupKey::Destination(server) => *server == source,
            GroupKey::Many => false,
        };
        let mut rules = Vec::new();
        for rule_state in &self.evaluator.rule_states {
            let rule = &rule_state.compiled.rule;
            let snapshot =
                |group_key: &GroupKey, allow_status: AllowStatus, group: &GroupState| RuleSnapshot {
                    rule: Arc::clone(&rule.name),
                    group_key: group_key.clone(),
                    suppressed: allow_status == AllowStatus::Listed,
                    firing_since: match group.state() {
                        IncidentState::Firing(firing) => Some(firing.0.last_alert().starts_at),
                        IncidentState::Quiet(_) => None,
                    },
                    terms: rule_state.compiled.values(
                        &group.all_windows(&rule_state.compiled),
                        rule_state.compiled.thresholds_at(&address),
                        now,
                    ),
                };
            let before = rules.len();
            for (allow_status, table) in
                [(AllowStatus::Unlisted, &rule_state.unlisted), (AllowStatus::Listed, &rule_state.listed)]
            {
                let own = table.iter().filter(|(group_key, _)| is_about(group_key));
                let mut own_rules: Vec<RuleSnapshot> =
                    own.map(|(group_key, group)| snapshot(group_key, allow_status, group)).collect();
                own_rules.sort_by(|one, other| one.group_key.cmp(&other.group_key));
                rules.extend(own_rules);
            }
            // A rule without a group for the address is reported with zero values.
            if rules.len() == before
                && rule.matching.source.contains(&address)
                && let Some(group_key) =
                    GroupKey::of_client(rule.group_by, source, &address, self.settings.v6_source_prefix)
            {
                rules.push(snapshot(
                    &group_key,
                    AllowStatus::Unlisted,
                    &GroupState::new(&rule_state.compiled),
                ));
            }
        }
        let own = |record: &&FlowRecord| {
            Source::of(record.flow.client(), self.settings.v6_source_prefix) == of
                || record.flow.server() == source
        };
        Explanation {
            matched_network: address.network.map(|network| network.line.clone()),
            group,
            rules,
            flows: self
                .recent_records
                .all()
                .rev()
                .filter(own)
                .take(max_flows)
                .map(|record| self.explained(record))
                .collect(),
            since: self.recent_records.oldest().map(FlowRecord::time),
        }
    }

    fn explained(&self, record: &FlowRecord) -> ExplainedFlow {
        let endpoints = Endpoints::of(&record.flow, &self.settings.internal);
        let explain_rule = |rule_state: &crate::eval::rule_state::RuleState| {
            let rule = &rule_state.compiled.rule;
            let missing = rule.matching.required_fields() - record.fields;
            if !missing.is_empty() {
                let why = format!("not evaluable, as its log does not tell: {missing}");
                return (Arc::clone(&rule.name), Some(why));
            }
            let failed_clause = if rule.matching.can_evaluate(RecordPhase::of(record.reason)) {
                rule.matching.check(&record.flow, record.app, &endpoints, self.settings.clock_offset).err()
            } else {
                Some(Clause::NotEnded)
            };
            let allowed = || {
                let allow =
                    rule_state.compiled.allowed(&endpoints, record.time(), self.settings.clock_offset)?;
                Some(format!("on the allow-list: {}", allow.reason))
            };
            let why = failed_clause.map(|clause| clause.to_string()).or_else(allowed);
            (Arc::clone(&rule.name), why)
        };
        let verdicts = self.evaluator.rule_states.iter().map(explain_rule).collect();
        ExplainedFlow { record: record.clone(), verdicts }
    }
}

/// Reason why a flow does not match, with the numbers.
impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Clause::Source(scope) => write!(f, "its client is {}", describe_scope(*scope)),
            Clause::Destination(scope) => write!(f, "its server is {}", describe_scope(*scope)),
            Clause::Port(port) => write!(f, "port {port} is not one of the rule's"),
            Clause::App(app) => write!(f, "it is {}", app.name()),
            Clause::Protocol(protocol) => write!(f, "protocol {protocol} is not one of the rule's"),
            Clause::Size(short) => {
                let direction = match short.direction {
                    FlowDirection::Up => "up",
                    FlowDirection::Down => "down",
                };
                let (bytes, packets, threshold) = (short.bytes, short.packets, short.threshold);
                match short.measure {
                    SizeMeasure::Ratio if packets == 0 => write!(f, "no packet {direction}"),
                    SizeMeasure::Ratio => {
                        let ratio = bytes as f64 / packets as f64;
                        write!(
                            f,
                            "{direction} {bytes} B / {packets} = {ratio:.1} B a packet, less than {threshold}"
                        )
                    }
                    SizeMeasure::Count => {
                        write!(f, "{direction} {packets} packets and {bytes} B, not {threshold} of each")
                    }
                }
            }
            Clause::NoSession => f.write_str("no handshake was seen"),
            Clause::Bound { of, actual, .. } => write!(f, "{} is {actual}, out of bounds", of.name()),
            Clause::Hours => f.write_str("the last packet is outside of the rule's hours"),
            Clause::NotEnded => f.write_str("the flow is open; it is evaluated when it has ended"),
        }
    }
}

fn describe_scope(scope: AddressScope) -> String {
    match scope {
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
        engine.ingest_record(at(last), &record);
    }

    #[test]
    fn each_flow_has_the_reason_why_it_does_not_match() {
        let mut engine = Engine::new(fixture::settings());
        deliver(&mut engine, "10.0.0.1:4000", "9.9.9.9:25", 100, 2_000);
        deliver(&mut engine, "10.0.0.1:4001", "9.9.9.9:25", 110, 799);
        deliver(&mut engine, "10.0.0.1:4002", "10.0.0.9:25", 120, 2_000);
        deliver(&mut engine, "10.0.0.2:4003", "9.9.9.9:25", 130, 2_000);
        let explanation = engine.explain("10.0.0.1".parse().unwrap(), at(200), 10);
        assert_eq!(explanation.matched_network.as_deref(), Some("10.0.0.0/8"));
        let whys: Vec<_> = explanation.flows.iter().map(|flow| flow.verdicts[0].1.as_deref()).collect();
        let small = "down 799 B / 10 = 79.9 B a packet, less than 80";
        assert_eq!(whys, [Some("its server is internal"), Some(small), None]);
        assert_eq!((explanation.rules.len(), explanation.rules[0].terms[0].value), (1, Value::Exactly(1)));
        assert_eq!((explanation.rules[0].firing_since, explanation.since), (None, Some(at(100))));
        assert_eq!(engine.explain("10.0.0.1".parse().unwrap(), at(200), 1).flows.len(), 1);
        let [silent, outside] =
            ["10.0.0.77", "9.9.9.9"].map(|ip| engine.explain(ip.parse().unwrap(), at(200), 9));
        assert_eq!((silent.flows.len(), silent.rules[0].terms[0].value), (0, Value::Exactly(0)));
        assert!(outside.rules.is_empty(), "no rule looks at it: {:?}", outside.rules);
    }

    #[test]
    fn flows_of_a_poll_are_explained() {
        let mut engine = Engine::new(fixture::settings());
        let [counts, mut small] = [4_000, 4_001]
            .map(|port| fixture::ending(fixture::flow(&format!("10.0.0.1:{port}"), "9.9.9.9:25"), at(100)));
        small.down.bytes = 799;
        engine.begin_poll(at(400));
        engine.observe_batch(&[counts, small]);
        engine.apply_evictions(&[EvictOutcome::Evicted; 2]);
        engine.tick(at(400));
        let explanation = engine.explain("10.0.0.1".parse().unwrap(), at(400), 10);
        let mut counted: Vec<_> = explanation.flows.iter().map(|flow| flow.verdicts[0].1.is_none()).collect();
        counted.sort_unstable();
        assert_eq!(counted, [false, true]);
    }
}
