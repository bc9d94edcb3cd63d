//! What the rules know, in a form that can be kept on disk: a restart in the middle of a window forgets
//! no flow and repeats no alert.

use std::{collections::HashMap, sync::Arc};

use mailflow_common::FlowKey;
use serde::{Deserialize, Serialize};

use super::codec::{SavedFlowKey, SavedOverflowKey, SavedRecord};
use crate::{
    Engine,
    alert::{
        event::Alert,
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
        group_table::{AllowStatus, GroupTable, SavedOverflowedGroups},
        pending::RuleInput,
        window::{state::WindowState, value::TermValue},
    },
    flow::{
        DirectionStats, Flow, FlowRecord, RecordReason, class::FlowClasses, phase::RecordPhase,
        quantity::Quantities,
    },
    network::Networks,
    rule::{Match, compiled::CompiledRule},
    time::Time,
};

/// Most subjects of a rule with a single flow that nobody answered that are saved, the newest. A flood of spoofed sources
/// would make the state as large as the rules' memory, and each poll that saves it as long as the copying takes.
const MAX_SAVED_SINGLES: usize = 1 << 16;

/// What the rules know. Its form may change between versions; [`RulesCheckpoint::VERSION`] says which it is.
#[derive(Debug, Serialize, Deserialize)]
pub struct RulesCheckpoint {
    version: u32,
    clock: Time,
    /// When what is told of many subjects is looked at next.
    next_expiry: Time,
    flood: SavedFlood,
    rules: Vec<SavedRule>,
    /// What the rules have taken of flows that are open.
    flows: Vec<SavedContribution>,
    /// What was seen last of sources beyond the flow table.
    spills: Vec<(SavedOverflowKey, Quantities)>,
    records: Vec<SavedRecord>,
    /// Records that the rules have not seen yet, when they should, and whether they are looks at open flows.
    arrivals: Vec<(Time, SavedRecord, bool)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedRule {
    name: String,
    /// What it matches, by what it groups, what it measures: what is kept means nothing to another.
    meaning: String,
    learnt: Vec<Time>,
    unknown: Vec<SavedGroup>,
    allowed: Vec<SavedGroup>,
    /// Of `unknown` and `allowed`.
    overflowed: [SavedOverflowedGroups; 2],
    burst: SavedRateLimit,
    /// Examples of the alert about many subjects; places in `records`.
    examples: Vec<usize>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedGroup {
    subject: GroupKey,
    stores: Vec<WindowState>,
    /// Instead of them, if there was but one flow.
    first: Option<FirstRecord>,
    /// True if any of its flows was answered with payload.
    completed: bool,
    /// Places in `records`.
    evidence: Vec<usize>,
    life: SavedIncident,
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedIncident {
    Quiet(Option<Time>),
    Firing {
        starts_at: Time,
        starts_at_unix: i128,
        holds_until: Time,
        next_repeat: Time,
        decided: usize,
        thresholds: Vec<u64>,
        /// The flows that were told last; places in `records`.
        shown: Vec<usize>,
        /// The client that it began with, which alerts about a server keep.
        source: Option<Source>,
        /// True if it is told together with others.
        joined: bool,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedContribution {
    key: SavedFlowKey,
    first: Time,
    taken: Vec<(usize, u8, Quantities)>,
}

/// What became of a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreOutcome {
    /// Subjects whose windows go on.
    pub subjects: usize,
    /// Alerts that go on firing.
    pub firing: usize,
    /// Rules that were known but mean something else now, or are gone: their windows begin anew.
    pub forgotten: Vec<String>,
}

impl RulesCheckpoint {
    /// The form written by this version.
    pub const VERSION: u32 = 4;

    /// Returns true if this version can read it.
    pub fn is_readable(&self) -> bool {
        self.version == Self::VERSION
    }
}

impl Engine {
    /// What the rules know, and what they have not seen yet.
    pub fn save(&self) -> RulesCheckpoint {
        let evaluator = &self.evaluator;
        let mut records =
            RecordTable { evidence: &evaluator.evidence, places: HashMap::new(), records: Vec::new() };
        let rules = evaluator.watches.iter().map(|watch| SavedRule {
            name: watch.plan.rule.name.to_string(),
            meaning: meaning(&watch.plan),
            learnt: watch.plan.learnt(),
            unknown: subjects(&watch.plan, &watch.unknown, &mut records),
            allowed: subjects(&watch.plan, &watch.allowed, &mut records),
            overflowed: [&watch.unknown, &watch.allowed].map(GroupTable::save_overflow),
            burst: watch.burst.save(),
            examples: watch.burst.examples().iter().map(|record| records.place_of(record)).collect(),
        });
        let rules = rules.collect();
        let flows = self.table.tallies().filter(|(_, _, tally)| !tally.is_empty());
        let flows = flows.map(|(key, first, tally)| SavedContribution {
            key: (&key).into(),
            first,
            taken: tally.entries().map(|(rule, taken)| (rule, taken.kinds.bits(), taken.given)).collect(),
        });
        RulesCheckpoint {
            version: RulesCheckpoint::VERSION,
            clock: evaluator.clock,
            next_expiry: evaluator.next_expiry,
            flood: evaluator.flood.save(),
            rules,
            flows: flows.collect(),
            spills: self.spills.seen().map(|(key, seen)| (key.into(), *seen)).collect(),
            records: records.records,
            arrivals: self.arrivals.waiting().map(waiting).collect(),
        }
    }

    /// The alerts that fire, each as it was last told, with what is known of its source now; those that an allow-list suppresses are not among them.
    pub fn firing(&self) -> Vec<Alert> {
        let lanes = self.evaluator.watches.iter().map(|watch| &watch.unknown);
        let firing = lanes.flat_map(GroupTable::iter).filter_map(|(_, watched)| match watched.state() {
            IncidentState::Firing(firing) if !firing.0.joined() => Some(firing.0.told().clone()),
            IncidentState::Firing(_) | IncidentState::Quiet(_) => None,
        });
        let mut firing: Vec<_> = firing.collect();
        firing.extend(self.evaluator.together().cloned());
        firing.sort_by(|one, other| {
            (one.starts_at, &one.fingerprint).cmp(&(other.starts_at, &other.fingerprint))
        });
        self.hint(&mut firing);
        firing
    }

    /// Goes on from a state, before anything else was seen. Its times must be of the same clock.
    pub fn restore(&mut self, state: RulesCheckpoint) -> RestoreOutcome {
        let mut restored = RestoreOutcome::default();
        let mut records = RestoredRecords::new(state.records);
        let mut numbers = Vec::new();
        for rule in state.rules {
            let number = self.evaluator.place(&rule);
            numbers.push(number);
            let Some(number) = number else {
                restored.forgotten.push(rule.name);
                continue;
            };
            let internal = &self.settings.internal;
            self.evaluator.put(number, rule, &mut records, internal, &mut restored);
        }
        self.evaluator.clock = self.evaluator.clock.max(state.clock);
        self.evaluator.next_expiry = state.next_expiry;
        self.evaluator.flood = FloodDetector::restored(state.flood);
        self.evaluator.begin_but(&numbers);
        self.evaluator.schedule();
        for SavedContribution { key, first, taken } in state.flows {
            let mut tally = FlowContribution::default();
            for (rule, kinds, given) in taken {
                if let Some(number) = numbers.get(rule).copied().flatten() {
                    tally.set(number, Counted { kinds: FlowClasses::from_bits_truncate(kinds), given });
                }
            }
            let (up, down) = (DirectionStats::default(), DirectionStats::default());
            let facts = mailflow_common::Facts::default();
            let flow = Flow {
                key: (&key).into(),
                first,
                up,
                down,
                messages: 0,
                rejected: 0,
                mac: None,
                interface: None,
                facts,
            };
            self.table.mark(&flow, tally);
        }
        for (place, seen) in state.spills {
            self.spills.put((&place).into(), seen);
        }
        for (at, record, live) in state.arrivals {
            let Some(record) = record.record() else { continue };
            let stage = if live { RecordPhase::Live } else { RecordPhase::of(record.reason) };
            let fit = self.evaluator.fit(&record, stage, &self.settings.internal);
            self.arrivals.push(at, stage, fit, record);
        }
        restored
    }
}

impl Evaluator {
    /// The rules that go on with nothing have watched for no time yet.
    fn begin_but(&mut self, going_on: &[Option<usize>]) {
        for (number, watch) in self.watches.iter_mut().enumerate() {
            if !going_on.contains(&Some(number)) {
                watch.plan.begin(self.clock);
            }
        }
    }

    /// The rule that goes on with what was kept for one, if there is one.
    fn place(&self, rule: &SavedRule) -> Option<usize> {
        let same = |plan: &CompiledRule| *plan.rule.name == *rule.name && meaning(plan) == rule.meaning;
        self.watches.iter().position(|watch| same(&watch.plan))
    }

    fn put(
        &mut self,
        number: usize,
        rule: SavedRule,
        records: &mut RestoredRecords,
        internal: &Networks,
        restored: &mut RestoreOutcome,
    ) {
        let Self { watches, evidence, epoch, .. } = self;
        let Some(watch) = watches.get_mut(number) else { return };
        watch.plan.set_learnt(&rule.learnt);
        watch.burst =
            AlertRateLimit::restored((&watch.plan.rule, internal), rule.burst, records.all(&rule.examples));
        let lanes = [(AllowStatus::No, rule.unknown), (AllowStatus::Allowed, rule.allowed)];
        for ((known, subjects), overflowed) in lanes.into_iter().zip(rule.overflowed) {
            let (plan, lane) = watch.lane(known);
            lane.restore_overflow(overflowed);
            for SavedGroup { subject, stores, first, completed, evidence: places, life } in subjects {
                if first.is_none() && stores.len() != plan.frames().len() {
                    continue;
                }
                let mut trail = EvidenceChain::default();
                for place in places {
                    if let Some(handle) = records.handle(place, evidence, HandshakeClass::of(completed)) {
                        evidence.note(&mut trail, handle);
                    }
                }
                let state = match life {
                    SavedIncident::Quiet(end) => IncidentState::Quiet(end),
                    SavedIncident::Firing {
                        starts_at,
                        starts_at_unix,
                        holds_until,
                        next_repeat,
                        decided,
                        thresholds,
                        shown,
                        source,
                        joined,
                    } => {
                        restored.firing += 1;
                        let mut terms = plan.values(&stores, plan.usual_levels(), starts_at);
                        for (term, threshold) in terms.iter_mut().zip(thresholds) {
                            term.threshold = threshold;
                        }
                        let shown =
                            AlertPayload { terms, flows: records.all(&shown), ..AlertPayload::default() };
                        let start = (starts_at, starts_at_unix);
                        let mut told =
                            incident::firing(&plan.rule, &subject, internal, start, decided, shown);
                        told.source = source.or(told.source);
                        crate::eval::rule_state::excuse(plan, known, &mut told, internal, *epoch);
                        IncidentState::Firing(Box::new((
                            Incident::restored(told, holds_until, next_repeat, joined),
                            decided,
                        )))
                    }
                };
                restored.subjects += 1;
                let held = first.map_or(SavedWindows::TermWindows(stores), SavedWindows::FirstRecord);
                lane.put(subject, GroupState::restored(held, trail, state, completed));
            }
        }
    }
}

fn waiting(RuleInput { at, record, open }: RuleInput<'_>) -> (Time, SavedRecord, bool) {
    (at, SavedRecord::from(record), open)
}

/// Records as they were kept, each with its handle in each ring of the evidence that it was put back into.
struct RestoredRecords {
    records: Vec<SavedRecord>,
    handles: Vec<[Option<EvidenceHandle>; 2]>,
}

impl RestoredRecords {
    fn new(records: Vec<SavedRecord>) -> Self {
        let handles = vec![[None; 2]; records.len()];
        Self { records, handles }
    }

    /// Returns the handle of a record among the evidence of subjects of this class.
    fn handle(
        &mut self,
        place: usize,
        evidence: &mut Evidence,
        class: HandshakeClass,
    ) -> Option<EvidenceHandle> {
        let known = self.handles.get_mut(place)?.get_mut(class as usize)?;
        if known.is_none() {
            *known = Some(evidence.keep(&self.records.get(place)?.record()?, class));
        }
        *known
    }

    /// Returns the records at these places.
    fn all(&self, places: &[usize]) -> Vec<Arc<FlowRecord>> {
        let records = places.iter().filter_map(|place| self.records.get(*place)?.record());
        records.map(Arc::new).collect()
    }
}

/// Records, each once.
struct RecordTable<'a> {
    evidence: &'a Evidence,
    places: HashMap<(FlowKey, Time, Time, RecordReason), usize>,
    records: Vec<SavedRecord>,
}

impl RecordTable<'_> {
    /// The places of those that a trail leads to, in the order in which they were noted.
    fn of(&mut self, trail: EvidenceChain) -> Vec<usize> {
        let found = self.evidence.noted(trail).records.into_iter();
        found.map(|(_, record)| self.place_of(record)).collect()
    }

    fn place_of(&mut self, record: &FlowRecord) -> usize {
        let which = (record.flow.key, record.flow.first, record.time(), record.reason);
        *self.places.entry(which).or_insert_with(|| {
            self.records.push(SavedRecord::from(record));
            self.records.len() - 1
        })
    }
}

fn subjects(plan: &CompiledRule, lane: &GroupTable, records: &mut RecordTable<'_>) -> Vec<SavedGroup> {
    let oldest = oldest_single(plan, lane);
    let is_saved = |watched: &GroupState| watched.single(plan).is_none_or(|time| time >= oldest);
    let held = |watched: &GroupState| match watched.held() {
        SavedWindows::FirstRecord(first) => (Vec::new(), Some(first)),
        SavedWindows::TermWindows(stores) => (stores, None),
    };
    let subject = |(subject, watched): (&GroupKey, &GroupState)| {
        let (stores, first) = held(watched);
        SavedGroup {
            subject: subject.clone(),
            stores,
            first,
            completed: watched.completed(),
            evidence: records.of(watched.trail()),
            life: match watched.state() {
                IncidentState::Quiet(end) => SavedIncident::Quiet(*end),
                IncidentState::Firing(firing) => {
                    let (starts_at, holds_until, next_repeat) = firing.0.times();
                    let thresholds =
                        firing.0.told().terms.iter().map(|term: &TermValue| term.threshold).collect();
                    let starts_at_unix = firing.0.told().starts_at_unix;
                    let (decided, source, joined) = (firing.1, firing.0.told().source, firing.0.joined());
                    let shown = firing.0.told().flows.iter().map(|record| records.place_of(record)).collect();
                    SavedIncident::Firing {
                        starts_at,
                        starts_at_unix,
                        holds_until,
                        next_repeat,
                        decided,
                        thresholds,
                        shown,
                        source,
                        joined,
                    }
                }
            },
        }
    };
    lane.iter().filter(|(_, watched)| is_saved(watched)).map(subject).collect()
}

/// Returns the time from which on subjects with a single unanswered flow are saved.
fn oldest_single(plan: &CompiledRule, lane: &GroupTable) -> Time {
    if lane.len() <= MAX_SAVED_SINGLES {
        return Time::ZERO;
    }
    let mut times: Vec<_> = lane.iter().filter_map(|(_, watched)| watched.single(plan)).collect();
    match times.len().checked_sub(MAX_SAVED_SINGLES) {
        Some(older) if older > 0 => *times.select_nth_unstable(older).1,
        _ => Time::ZERO,
    }
}

fn meaning(plan: &CompiledRule) -> String {
    let terms: Vec<_> = plan.rule.terms.iter().map(|term| (term.measure, term.window)).collect();
    // A rule that names a service means its ports. Without the field the text is also that of older states.
    let matching = Match { services: Vec::new(), ..plan.rule.matching.clone() };
    let matching = format!("{matching:?}").replace("services: [], ", "");
    format!("{matching} {:?} {terms:?}", plan.rule.group_by)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture::{self, at},
        flow::timeout,
    };

    #[test]
    fn of_sources_with_one_unanswered_flow_the_newest_are_saved() {
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
            engine.record(at(second), &record);
        };
        // Among them some with an answer, and some with a second flow.
        let client = |n: u32| std::net::Ipv4Addr::from(0x0a00_0000 + n);
        for n in 0..70_000 {
            see(client(n), n % 1_000 == 0, 1_000 + u64::from(n) / 100);
            if n % 1_000 == 1 {
                see(client(n), false, 1_000 + u64::from(n) / 100);
            }
        }
        let state = engine.save();
        let saved: std::collections::HashSet<_> =
            state.rules[0].unknown.iter().filter_map(|subject| subject.subject.source()).collect();
        let source = |n: u32| Source::of(client(n).into(), 64);
        assert!(
            (0..70).all(|n| saved.contains(&source(n * 1_000)) && saved.contains(&source(n * 1_000 + 1)))
        );
        assert!((5_000..70_000).all(|n| saved.contains(&source(n))), "the newest");
        // A hundred have the same time.
        assert!((MAX_SAVED_SINGLES + 140..MAX_SAVED_SINGLES + 240).contains(&saved.len()), "{}", saved.len());
        let mut next = Engine::new(settings);
        assert_eq!(next.restore(state).subjects, saved.len());
    }
}
