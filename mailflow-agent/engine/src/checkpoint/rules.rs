//! Checkpoint of the rules: after a restart in the middle of a window, no flow is lost and no alert is repeated.

use std::{collections::HashMap, sync::Arc};

use mailflow_common::{FlowKey, SourceOverflowKey};
use serde::{Deserialize, Serialize};

use super::codec;
use crate::{
    Engine,
    alert::{
        evidence::{Evidence, EvidenceChain, EvidenceHandle, HandshakeClass},
        incident::{self, AlertPayload, Incident},
        rate_limit::{AlertRateLimit, SavedRateLimit},
        spoofed_sources::{FloodDetector, SavedFlood},
    },
    eval::{
        contribution::{Counted, FlowContribution},
        evaluator::Evaluator,
        group_key::{GroupKey, Source},
        group_state::{FirstRecord, GroupState, IncidentState, SavedWindows},
        group_table::{GroupTable, SavedOverflowedGroups},
        pending::RuleInput,
        suppression::AllowStatus,
        window::{state::WindowState, value::TermValue},
    },
    flow::{
        DirectionStats, Flow, FlowRecord, RecordReason, class::FlowClasses, phase::RecordPhase,
        quantity::Quantities,
    },
    network::Networks,
    rule::{Rule, compiled::CompiledRule},
    time::Time,
};

/// Most groups with a single unanswered flow that are saved for a rule, newest first. Without a limit, a flood of
/// spoofed sources would make the checkpoint as large as the rules' memory, and each checkpoint as slow as copying
/// that.
const MAX_SAVED_SINGLES: usize = 1 << 16;

/// Checkpoint of the rules. [`RulesCheckpoint::VERSION`] is the version of its format.
#[derive(Debug, Serialize, Deserialize)]
pub struct RulesCheckpoint {
    version: u32,
    clock: Time,
    /// Time of the next expiry and of the next report of aggregate alerts.
    next_expiry: Time,
    flood_detector: SavedFlood,
    rules: Vec<SavedRule>,
    /// Contributions of open flows.
    flows: Vec<SavedContribution>,
    /// Last counters of each source's overflow.
    source_overflow: Vec<SavedOverflow>,
    records: Vec<Arc<FlowRecord>>,
    /// Pending records: time of evaluation, record, and true for a live update.
    pending_records: Vec<(Time, FlowRecord, bool)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedRule {
    name: String,
    /// Match, grouping and measures. Saved windows are valid only for a rule with an equal definition.
    definition: Vec<u8>,
    learning_ends: Vec<Time>,
    unlisted: Vec<SavedGroup>,
    listed: Vec<SavedGroup>,
    /// Overflowed groups of `unlisted` and of `listed`.
    overflowed_groups: [SavedOverflowedGroups; 2],
    rate_limit: SavedRateLimit,
    /// Example flows of the aggregate alert, as indices into `records`.
    examples: Vec<usize>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedGroup {
    group_key: GroupKey,
    windows: Vec<WindowState>,
    /// First record of a group that has no windows yet; `windows` is empty then.
    first: Option<FirstRecord>,
    /// True if the server answered any flow of the group with payload.
    has_server_payload: bool,
    /// Indices into `records`.
    evidence: Vec<usize>,
    incident: SavedIncident,
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedIncident {
    Quiet(Option<Time>),
    Firing {
        starts_at: Time,
        starts_at_unix: i128,
        holds_until: Time,
        next_repeat: Time,
        deciding_term: usize,
        thresholds: Vec<u64>,
        /// Flows of the last alert, as indices into `records`.
        payload: Vec<usize>,
        /// Client of the first alert, which later alerts about a server keep.
        source: Option<Source>,
        /// True if an aggregate alert reports the incident.
        is_aggregated: bool,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedContribution {
    #[serde(with = "codec::compact")]
    key: FlowKey,
    first: Time,
    counted: Vec<(usize, u8, Quantities)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedOverflow {
    #[serde(with = "codec::compact")]
    key: SourceOverflowKey,
    last_seen: Quantities,
}

/// Outcome of a restore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreOutcome {
    /// Groups that were restored.
    pub groups: usize,
    /// Firing alerts that were restored.
    pub firing: usize,
    /// Rules of the checkpoint that are gone or have another definition; their windows are not restored.
    pub dropped_rules: Vec<String>,
}

impl RulesCheckpoint {
    /// Version of the format that this program writes.
    pub const VERSION: u32 = 6;

    /// Returns true if this program can read the checkpoint.
    pub fn is_readable(&self) -> bool {
        self.version == Self::VERSION
    }
}

impl Engine {
    /// Returns the checkpoint of the rules, with the pending records.
    pub fn save(&self) -> RulesCheckpoint {
        let evaluator = &self.evaluator;
        let mut records =
            RecordTable { evidence: &evaluator.evidence, indices: HashMap::new(), records: Vec::new() };
        let rules = evaluator.rule_states.iter().map(|rule_state| SavedRule {
            name: rule_state.compiled.rule.name.to_string(),
            definition: definition(&rule_state.compiled),
            learning_ends: rule_state.compiled.learning_ends(),
            unlisted: groups(&rule_state.compiled, &rule_state.unlisted, &mut records),
            listed: groups(&rule_state.compiled, &rule_state.listed, &mut records),
            overflowed_groups: [&rule_state.unlisted, &rule_state.listed].map(GroupTable::save_overflow),
            rate_limit: rule_state.rate_limit.save(),
            examples: rule_state
                .rate_limit
                .examples()
                .iter()
                .map(|record| records.index_of(record))
                .collect(),
        });
        let rules = rules.collect();
        let flows =
            self.flow_table.all_contributions().filter(|(_, _, contribution)| !contribution.is_empty());
        let flows = flows.map(|(key, first, contribution)| SavedContribution {
            key,
            first,
            counted: contribution
                .entries()
                .map(|(rule, counted)| (rule, counted.classes.bits(), counted.quantities))
                .collect(),
        });
        RulesCheckpoint {
            version: RulesCheckpoint::VERSION,
            clock: evaluator.clock,
            next_expiry: evaluator.next_expiry,
            flood_detector: evaluator.flood_detector.save(),
            rules,
            flows: flows.collect(),
            source_overflow: self
                .source_overflow
                .last_seen()
                .map(|(key, last_seen)| SavedOverflow { key: *key, last_seen: *last_seen })
                .collect(),
            records: records.records,
            pending_records: self.pending_records.unevaluated().map(saved_record).collect(),
        }
    }

    /// Restores a checkpoint. Call before any record is evaluated. The times of the checkpoint must be of the same
    /// clock.
    pub fn restore(&mut self, state: RulesCheckpoint) -> RestoreOutcome {
        let mut restored = RestoreOutcome::default();
        let mut records = RestoredRecords::new(state.records);
        let mut rule_numbers = Vec::new();
        for rule in state.rules {
            let number = self.evaluator.find_rule(&rule);
            rule_numbers.push(number);
            let Some(number) = number else {
                restored.dropped_rules.push(rule.name);
                continue;
            };
            let internal = &self.settings.internal;
            self.evaluator.restore_rule(number, rule, &mut records, internal, &mut restored);
        }
        self.evaluator.clock = self.evaluator.clock.max(state.clock);
        self.evaluator.next_expiry = state.next_expiry;
        self.evaluator.flood_detector = FloodDetector::restored(state.flood_detector);
        self.evaluator.begin_learning_except(&rule_numbers);
        self.evaluator.schedule();
        for SavedContribution { key, first, counted } in state.flows {
            let mut contribution = FlowContribution::default();
            for (rule, classes, quantities) in counted {
                if let Some(number) = rule_numbers.get(rule).copied().flatten() {
                    contribution.set(
                        number,
                        Counted { classes: FlowClasses::from_bits_truncate(classes), quantities },
                    );
                }
            }
            let (up, down) = (DirectionStats::default(), DirectionStats::default());
            let facts = mailflow_common::Facts::default();
            let flow =
                Flow { key, first, up, down, messages: 0, rejected: 0, mac: None, interface: None, facts };
            self.flow_table.set_contribution(&flow, contribution);
        }
        for SavedOverflow { key, last_seen } in state.source_overflow {
            self.source_overflow.restore(key, last_seen);
        }
        for (at, record, live) in state.pending_records {
            let phase = if live { RecordPhase::Live } else { RecordPhase::of(record.reason) };
            let mask = self.evaluator.matching_rules(&record, phase, &self.settings.internal);
            self.pending_records.push(at, phase, mask, record);
        }
        restored
    }
}

impl Evaluator {
    /// Begins the learning period of the rules that the checkpoint does not contain.
    fn begin_learning_except(&mut self, continued: &[Option<usize>]) {
        for (number, rule_state) in self.rule_states.iter_mut().enumerate() {
            if !continued.contains(&Some(number)) {
                rule_state.compiled.begin_learning(self.clock);
            }
        }
    }

    /// Returns the number of the rule with the name and the definition of a saved one.
    fn find_rule(&self, rule: &SavedRule) -> Option<usize> {
        let same = |compiled: &CompiledRule| {
            *compiled.rule.name == *rule.name && definition(compiled) == rule.definition
        };
        self.rule_states.iter().position(|rule_state| same(&rule_state.compiled))
    }

    fn restore_rule(
        &mut self,
        number: usize,
        rule: SavedRule,
        records: &mut RestoredRecords,
        internal: &Networks,
        restored: &mut RestoreOutcome,
    ) {
        let Self { rule_states, evidence, clock_offset, .. } = self;
        let Some(rule_state) = rule_states.get_mut(number) else { return };
        rule_state.compiled.set_learning_ends(&rule.learning_ends);
        rule_state.rate_limit = AlertRateLimit::restored(
            (&rule_state.compiled.rule, internal),
            rule.rate_limit,
            records.all(&rule.examples),
        );
        let tables = [(AllowStatus::Unlisted, rule.unlisted), (AllowStatus::Listed, rule.listed)];
        for ((allow_status, groups), overflowed_groups) in tables.into_iter().zip(rule.overflowed_groups) {
            let (compiled, table) = rule_state.table_mut(allow_status);
            table.restore_overflow(overflowed_groups);
            for SavedGroup { group_key, windows, first, has_server_payload, evidence: indices, incident } in
                groups
            {
                if first.is_none() && windows.len() != compiled.term_specs().len() {
                    continue;
                }
                let mut chain = EvidenceChain::default();
                for index in indices {
                    if let Some(handle) =
                        records.handle(index, evidence, HandshakeClass::of(has_server_payload))
                    {
                        evidence.link(&mut chain, handle);
                    }
                }
                let state = match incident {
                    SavedIncident::Quiet(end) => IncidentState::Quiet(end),
                    SavedIncident::Firing {
                        starts_at,
                        starts_at_unix,
                        holds_until,
                        next_repeat,
                        deciding_term,
                        thresholds,
                        payload,
                        source,
                        is_aggregated,
                    } => {
                        restored.firing += 1;
                        let mut terms = compiled.values(&windows, compiled.default_thresholds(), starts_at);
                        for (term, threshold) in terms.iter_mut().zip(thresholds) {
                            term.threshold = threshold;
                        }
                        let payload =
                            AlertPayload { terms, flows: records.all(&payload), ..AlertPayload::default() };
                        let start = (starts_at, starts_at_unix);
                        let mut last_alert = incident::firing_alert(
                            &compiled.rule,
                            &group_key,
                            internal,
                            start,
                            deciding_term,
                            payload,
                        );
                        last_alert.source = source.or(last_alert.source);
                        crate::eval::suppression::apply_suppression(
                            compiled,
                            allow_status,
                            &mut last_alert,
                            internal,
                            *clock_offset,
                        );
                        IncidentState::Firing(Box::new((
                            Incident::restored(last_alert, holds_until, next_repeat, is_aggregated),
                            deciding_term,
                        )))
                    }
                };
                restored.groups += 1;
                let windows_of = first.map_or(SavedWindows::Windows(windows), SavedWindows::First);
                table.insert(group_key, GroupState::restored(windows_of, chain, state, has_server_payload));
            }
        }
    }
}

fn saved_record(RuleInput { at, record, live }: RuleInput<'_>) -> (Time, FlowRecord, bool) {
    (at, record.clone(), live)
}

/// Records of a checkpoint, each with its handle in each evidence ring to which it was restored.
struct RestoredRecords {
    records: Vec<Arc<FlowRecord>>,
    handles: Vec<[Option<EvidenceHandle>; 2]>,
}

impl RestoredRecords {
    fn new(records: Vec<Arc<FlowRecord>>) -> Self {
        let handles = vec![[None; 2]; records.len()];
        Self { records, handles }
    }

    /// Returns the handle of a record in the ring of this class; stores the record if necessary.
    fn handle(
        &mut self,
        index: usize,
        evidence: &mut Evidence,
        class: HandshakeClass,
    ) -> Option<EvidenceHandle> {
        let slot = self.handles.get_mut(index)?.get_mut(class as usize)?;
        if slot.is_none() {
            *slot = Some(evidence.store_record(self.records.get(index)?, class));
        }
        *slot
    }

    /// Returns the records of these indices.
    fn all(&self, indices: &[usize]) -> Vec<Arc<FlowRecord>> {
        indices.iter().filter_map(|index| self.records.get(*index)).cloned().collect()
    }
}

/// Records to save, each once.
struct RecordTable<'a> {
    evidence: &'a Evidence,
    indices: HashMap<(FlowKey, Time, Time, RecordReason), usize>,
    records: Vec<Arc<FlowRecord>>,
}

impl RecordTable<'_> {
    /// Returns the indices of the records of a chain, in the order of their links.
    fn of(&mut self, chain: EvidenceChain) -> Vec<usize> {
        let view = self.evidence.linked(chain).records.into_iter();
        view.map(|(_, record)| self.index_of(record)).collect()
    }

    fn index_of(&mut self, record: &FlowRecord) -> usize {
        let identity = (record.flow.key, record.flow.first, record.time(), record.reason);
        *self.indices.entry(identity).or_insert_with(|| {
            self.records.push(Arc::new(record.clone()));
            self.records.len() - 1
        })
    }
}

fn groups(compiled: &CompiledRule, table: &GroupTable, records: &mut RecordTable<'_>) -> Vec<SavedGroup> {
    let oldest = oldest_single(compiled, table);
    let is_saved = |group: &GroupState| group.single_record_time(compiled).is_none_or(|time| time >= oldest);
    let windows_of = |group: &GroupState| match group.saved_windows() {
        SavedWindows::First(first) => (Vec::new(), Some(first)),
        SavedWindows::Windows(windows) => (windows, None),
    };
    let group_key = |(group_key, group): (&GroupKey, &GroupState)| {
        let (windows, first) = windows_of(group);
        SavedGroup {
            group_key: group_key.clone(),
            windows,
            first,
            has_server_payload: group.has_server_payload(),
            evidence: records.of(group.evidence()),
            incident: match group.state() {
                IncidentState::Quiet(end) => SavedIncident::Quiet(*end),
                IncidentState::Firing(firing) => {
                    let (starts_at, holds_until, next_repeat) = firing.0.times();
                    let thresholds =
                        firing.0.last_alert().terms.iter().map(|term: &TermValue| term.threshold).collect();
                    let starts_at_unix = firing.0.last_alert().starts_at_unix;
                    let (deciding_term, source, is_aggregated) =
                        (firing.1, firing.0.last_alert().source, firing.0.is_aggregated());
                    let payload =
                        firing.0.last_alert().flows.iter().map(|record| records.index_of(record)).collect();
                    SavedIncident::Firing {
                        starts_at,
                        starts_at_unix,
                        holds_until,
                        next_repeat,
                        deciding_term,
                        thresholds,
                        payload,
                        source,
                        is_aggregated,
                    }
                }
            },
        }
    };
    table.iter().filter(|(_, group)| is_saved(group)).map(group_key).collect()
}

/// Returns the time from which on groups with a single unanswered flow are saved.
fn oldest_single(compiled: &CompiledRule, table: &GroupTable) -> Time {
    if table.len() <= MAX_SAVED_SINGLES {
        return Time::ZERO;
    }
    let mut times: Vec<_> =
        table.iter().filter_map(|(_, group)| group.single_record_time(compiled)).collect();
    match times.len().checked_sub(MAX_SAVED_SINGLES) {
        Some(older) if older > 0 => *times.select_nth_unstable(older).1,
        _ => Time::ZERO,
    }
}

/// Returns what decides which flows a rule counts, and into which windows. The form has positions and no names, so that
/// a renamed field keeps the windows at an upgrade.
fn definition(compiled: &CompiledRule) -> Vec<u8> {
    let Rule { matching, group_by, terms, .. } = &compiled.rule;
    let terms: Vec<_> = terms.iter().map(|term| (term.measure, term.window)).collect();
    let mut bytes = Vec::new();
    // Sequences of known length cannot fail.
    let _ = codec::append(&mut bytes, &(matching, group_by, terms));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture::{self, at},
        flow::timeout,
    };

    #[test]
    fn the_newest_groups_with_one_unanswered_flow_are_saved() {
        let mut settings = fixture::settings();
        settings.rules[0].matching.size = None;
        let mut engine = Engine::new(settings.clone());
        let mut see = |client: std::net::Ipv4Addr, answered: bool, second: u64| {
            let mut flow =
                fixture::ending(fixture::flow(&format!("{client}:4000"), "9.9.9.9:25"), at(second));
            if !answered {
                flow.down = DirectionStats::default();
            }
            let record = timeout::record(flow, &settings.services, RecordReason::Closed);
            engine.ingest_record(at(second), &record);
        };
        // Some clients get an answer, and some have a second flow.
        let client = |n: u32| std::net::Ipv4Addr::from(0x0a00_0000 + n);
        for n in 0..70_000 {
            see(client(n), n % 1_000 == 0, 1_000 + u64::from(n) / 100);
            if n % 1_000 == 1 {
                see(client(n), false, 1_000 + u64::from(n) / 100);
            }
        }
        let state = engine.save();
        let saved: std::collections::HashSet<_> =
            state.rules[0].unlisted.iter().filter_map(|group_key| group_key.group_key.source()).collect();
        let source = |n: u32| Source::of(client(n).into(), 64);
        assert!(
            (0..70).all(|n| saved.contains(&source(n * 1_000)) && saved.contains(&source(n * 1_000 + 1)))
        );
        assert!((5_000..70_000).all(|n| saved.contains(&source(n))), "the newest");
        // A hundred of them have equal times.
        assert!((MAX_SAVED_SINGLES + 140..MAX_SAVED_SINGLES + 240).contains(&saved.len()), "{}", saved.len());
        let mut next = Engine::new(settings);
        assert_eq!(next.restore(state).groups, saved.len());
    }

    /// Other releases compare this form, so it must not change for an equal rule.
    #[test]
    fn the_definition_of_a_rule_has_the_form_that_other_releases_write() {
        let mut rule = fixture::rule();
        let hex = |rule: &Rule| -> String {
            let compiled = CompiledRule::new(rule.clone(), std::time::Duration::from_secs(300));
            definition(&compiled).iter().map(|byte| format!("{byte:02x}")).collect()
        };
        assert_eq!(hex(&rule), "0101000102000419d103cb04e207030001020100010000505000000000010000901c0000");
        // What does not decide which flows are counted is not in it.
        let before = hex(&rule);
        (rule.severity, rule.version) = (crate::rule::Severity::Low, 7);
        rule.terms[0].thresholds.at_least += 1;
        rule.matching.services.push(crate::flow::service::Service::Pop3);
        assert_eq!(hex(&rule), before);
        rule.matching.sessions_only = true;
        assert_ne!(hex(&rule), before);
    }

    /// The positions of variants are in stored definitions.
    #[test]
    fn variants_of_definitions_keep_their_positions() {
        use crate::{
            flow::{class::FlowClass, quantity::Quantity},
            network::{AssetRole, Member},
            rule::{Endpoint, GroupBy, Layer, Measure, SizeKind, Transport, WindowKind},
        };
        let mut bytes = Vec::new();
        macro_rules! positions {
            ($($value:expr),* $(,)?) => {{
                bytes.clear();
                $(
                    let start = bytes.len();
                    codec::append(&mut bytes, &$value).unwrap();
                    bytes.truncate(start + 1);
                )*
                bytes.clone()
            }};
        }
        let hour = std::time::Duration::from_secs(3_600);
        let (among, of) = (FlowClass::Flows, Endpoint::Source);
        assert_eq!(
            positions!(
                Measure::Count(among),
                Measure::Sum(Quantity::Messages),
                Measure::Distinct { of, among },
                Measure::Ratio { of: among, to: among },
                Measure::FirstSeen { of, horizon: hour, learning: hour },
            ),
            [0, 1, 2, 3, 4]
        );
        assert_eq!(
            positions!(
                FlowClass::Flows,
                FlowClass::Attempts,
                FlowClass::Sessions,
                FlowClass::Failed,
                FlowClass::Delivering,
            ),
            [0, 1, 2, 3, 4]
        );
        assert_eq!(
            positions!(
                Quantity::PayloadUp,
                Quantity::PayloadDown,
                Quantity::BytesUp,
                Quantity::BytesDown,
                Quantity::PacketsUp,
                Quantity::PacketsDown,
                Quantity::Messages,
                Quantity::DataPacketsUp,
                Quantity::DataPacketsDown,
            ),
            [0, 1, 2, 3, 4, 5, 6, 7, 8]
        );
        assert_eq!(positions!(Endpoint::Source, Endpoint::Destination, Endpoint::Port), [0, 1, 2]);
        assert_eq!(positions!(WindowKind::Sliding, WindowKind::Tumbling), [0, 1]);
        assert_eq!(positions!(Transport::Tcp, Transport::Udp), [0, 1]);
        assert_eq!(positions!(Layer::L3, Layer::Payload), [0, 1]);
        assert_eq!(
            positions!(
                SizeKind::Ratio,
                SizeKind::Count,
                SizeKind::Either,
                SizeKind::DataRatio,
                SizeKind::UpOnly,
            ),
            [0, 1, 2, 3, 4]
        );
        assert_eq!(
            positions!(GroupBy::Source, GroupBy::SourceAndDestination, GroupBy::Destination, GroupBy::Group,),
            [0, 1, 2, 3]
        );
        let net = "10.0.0.0/8".parse().unwrap();
        assert_eq!(
            positions!(
                Member::Any,
                Member::Internal,
                Member::External,
                Member::Group("g".into()),
                Member::Role(AssetRole::Mta),
                Member::Net(net),
            ),
            [0, 1, 2, 3, 4, 5]
        );
        assert_eq!(positions!(AssetRole::Workstation, AssetRole::Server, AssetRole::Mta), [0, 1, 2]);
    }
}
