//! Rules over records: the engine's clock, the windows of every subject, the incidents.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use super::{
    assets::{Networks, Site},
    event::{Effects, Qualified, Source, WindowValue},
    evidence::{Evidence, Handle},
    flow::FlowRecord,
    inputs::Inputs,
    lane::{Known, Lane, SHARDS},
    plan::{News, Plan},
    rule::Ends,
    settings::{Measure, Rule},
    spill::Overflowed,
    store::Mark,
    subject::Subject,
    tally::{Kinds, Quantities, Stage, Taken, Tally},
    time::{Epoch, Time},
    watched::{Around, Booked, Watched},
};

/// How often a part of the subjects is looked over for what can be forgotten.
const SWEEP: Duration = Duration::from_secs(1);

/// Evaluates the rules.
#[derive(Debug)]
pub(super) struct Evaluator {
    pub(super) watches: Vec<Watch>,
    pub(super) v6_source_prefix: u8,
    pub(super) epoch: Epoch,
    pub(super) clock: Time,
    /// When which incident has something to do; one entry for each, never too late.
    deadlines: BTreeSet<(Time, usize, Known, Subject)>,
    next_sweep: Time,
    shard: usize,
    pub(super) evidence: Evidence,
    late: u64,
}

/// A rule with its subjects.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) plan: Plan,
    pub(super) unknown: Lane,
    pub(super) allowed: Lane,
}

/// What became of the rules before.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// Of each rule before, its number now; none where its flows are to be counted anew.
    pub(super) numbers: Vec<Option<usize>>,
    /// The rules whose windows begin anew.
    pub(super) restarted: Vec<Arc<str>>,
}

impl Watch {
    fn new(plan: Plan) -> Self {
        Self { plan, unknown: Lane::default(), allowed: Lane::default() }
    }

    pub(super) fn lane(&mut self, known: Known) -> (&Plan, &mut Lane) {
        let lane = match known {
            Known::No => &mut self.unknown,
            Known::Allowed => &mut self.allowed,
        };
        (&self.plan, lane)
    }
}

/// How much the rules hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleStats {
    /// Subjects with a window, summed over the rules.
    pub sources: u64,
    /// Incidents that fire.
    pub firing: u64,
    /// Those of them that an allow-list suppresses.
    pub suppressed: u64,
    /// Records that counted but came too late to be judged.
    pub late: u64,
    /// Records that counted, of subjects for which there was no room.
    pub refused: u64,
    /// Records kept as evidence.
    pub evidence: u64,
}

impl Evaluator {
    /// Without any flow yet; a record comes at most `lateness` after its event time.
    pub(super) fn new(rules: Vec<Rule>, v6_source_prefix: u8, lateness: Duration, epoch: Epoch) -> Self {
        let watch = |rule: Rule| Watch::new(Plan::new(rule, lateness));
        Self {
            watches: rules.into_iter().map(watch).collect(),
            v6_source_prefix,
            epoch,
            clock: Time::ZERO,
            deadlines: BTreeSet::new(),
            next_sweep: Time::ZERO,
            shard: 0,
            evidence: Evidence::default(),
            late: 0,
        }
    }

    /// Whether some rule has something to say about flows that are open.
    pub(super) fn is_live(&self) -> bool {
        self.watches.iter().any(|watch| watch.plan.live)
    }

    /// Whether there is a rule that may count the flow of `record`.
    pub(super) fn wants(&self, record: &FlowRecord, stage: Stage, internal: &Networks) -> bool {
        let flow = &record.flow;
        // Many fail a test of the flow itself, and those are cheaper than looking up where the ends are.
        let mut fit = self
            .watches
            .iter()
            .filter(|watch| stage != Stage::Live || watch.plan.live)
            .map(|watch| &watch.plan.rule.matching)
            .filter(|matching| matching.judges(stage))
            .filter(|matching| matching.check_flow(flow, record.app, self.epoch).is_ok())
            .peekable();
        if fit.peek().is_none() {
            return false;
        }
        let ends = Ends::of(flow, internal);
        fit.any(|matching| {
            matching.source.holds(&ends.source) && matching.destination.holds(&ends.destination)
        })
    }

    /// Takes a record that arrives at `at`, and what the rules have taken of its flow so far.
    pub(super) fn admit(
        &mut self,
        at: Time,
        record: &Arc<FlowRecord>,
        stage: Stage,
        tally: &mut Tally,
        internal: &Networks,
        effects: &mut Effects,
    ) {
        self.advance(at.max(record.time()), internal, effects);
        let (flow, time) = (&record.flow, record.time());
        let ends = Ends::of(flow, internal);
        let has = Quantities::of(flow);
        let shows = Kinds::of(record, stage);
        let mut handle = None;
        for index in 0..self.watches.len() {
            let Some(watch) = self.watches.get_mut(index) else { continue };
            let rule = &watch.plan.rule;
            let counts = (stage != Stage::Live || watch.plan.live)
                && rule.matching.judges(stage)
                && record.inputs.contains(rule.matching.inputs())
                && rule.matching.check(flow, record.app, &ends, self.epoch).is_ok();
            if !counts {
                continue;
            }
            let taken = tally.of(index);
            let (kinds, gains) = (shows - taken.kinds, has.since(&taken.given));
            tally.set(index, Taken { kinds: taken.kinds | shows, given: has });
            let known = known(rule, &ends, time, self.epoch);
            if kinds.contains(Kinds::FLOWS) {
                let suppressed = known == Known::Allowed;
                effects.qualified.push(Qualified { rule: Arc::clone(&rule.name), key: flow.key, suppressed });
            }
            let subject = Subject::of(rule.group_by, flow, &ends.source, self.v6_source_prefix);
            let source = Source::of(flow.client(), self.v6_source_prefix);
            let news = News {
                time,
                kinds,
                gains,
                inputs: record.inputs,
                source: mark(source.network().addr()),
                destination: mark(flow.server()),
                port: flow.key.server_port,
            };
            let shown = || *handle.get_or_insert_with(|| self.evidence.keep(record));
            let outcome = book(watch, known, &subject, self.clock, &news, shown);
            self.late += u64::from(outcome == Booked::Late);
            if outcome == Booked::Taken {
                if let Some(handle) = handle {
                    note(watch, known, &subject, &self.evidence, handle);
                }
                self.judge(index, known, &subject, &ends, time, internal, effects);
            }
        }
    }

    /// Takes what a source gained beyond the flow table. Its destinations are not known: it counts for
    /// rules that do not group by them.
    pub(super) fn overflow(&mut self, gain: &Overflowed, internal: &Networks, effects: &mut Effects) {
        let client = gain.client;
        let source = internal.locate(client);
        let ends = Ends {
            source,
            destination: Site { place: super::assets::Place::Internet, network: None, ip: client },
        };
        for index in 0..self.watches.len() {
            let Some(watch) = self.watches.get_mut(index) else { continue };
            let rule = &watch.plan.rule;
            let sums = rule.terms.iter().any(|term| matches!(term.measure, Measure::Sum(_)));
            let matching = &rule.matching;
            let counts = matching.source.holds(&source)
                && matching.ports.contains(&gain.port)
                && matching.protocols.iter().any(|wanted| wanted.number() == gain.protocol);
            let subject = Subject::of_client(rule.group_by, client, &source, self.v6_source_prefix);
            let Some(subject) = subject.filter(|_| counts) else { continue };
            let known = known(rule, &ends, gain.time, self.epoch);
            // A rule that looks at each flow cannot say anything about flows that it does not see.
            let each = matching.size.is_some() || matching.sessions_only || !matching.bounds.is_empty();
            watch.lane(known).1.overflow(subject.clone(), gain.time);
            if each || !sums {
                continue;
            }
            let news = News {
                time: gain.time,
                kinds: Kinds::empty(),
                gains: gain.gains,
                inputs: Inputs::all(),
                source: mark(client),
                destination: [0; 16],
                port: gain.port,
            };
            if book(watch, known, &subject, self.clock, &news, || ()) == Booked::Taken {
                self.judge(index, known, &subject, &ends, gain.time, internal, effects);
            }
        }
    }

    /// Lets time pass: repeats and ends what is due, in order, each at its own moment.
    pub(super) fn advance(&mut self, to: Time, internal: &Networks, effects: &mut Effects) {
        if self.clock == Time::ZERO {
            self.watches.iter_mut().for_each(|watch| watch.plan.begin(to));
        }
        while self.deadlines.first().is_some_and(|(deadline, ..)| *deadline <= to) {
            let Some((deadline, index, known, subject)) = self.deadlines.pop_first() else { break };
            self.clock = self.clock.max(deadline);
            let Self { watches, evidence, clock, epoch, .. } = self;
            let Some(watch) = watches.get_mut(index) else { continue };
            let (plan, lane) = watch.lane(known);
            let overflow = lane.overflowed(&subject);
            let Some(watched) = lane.get_mut(&subject) else { continue };
            let around = Around { plan, subject: &subject, internal, evidence, clock: *clock, overflow };
            if let Some(mut alert) = watched.act(around) {
                excuse(plan, known, &mut alert, internal, *epoch);
                effects.alerts.push(alert);
            }
            if let Some(next) = watched.deadline(plan) {
                self.deadlines.insert((next, index, known, subject));
            }
        }
        self.clock = self.clock.max(to);
        if self.next_sweep <= self.clock {
            self.sweep();
        }
    }

    /// The value of each term of each rule for each subject at `now`, where it is not zero; ordered.
    /// Ratios are left out: they say nothing without the number they are a part of.
    pub(super) fn values(&self, now: Time) -> Vec<WindowValue> {
        let mut values = Vec::new();
        for watch in &self.watches {
            let before = values.len();
            for (subject, watched) in watch.unknown.iter() {
                for (term, frame) in watch.plan.frames().iter().enumerate() {
                    let value = watch.plan.value(watched.stores(), term, now);
                    let name =
                        watch.plan.name(term).filter(|_| !matches!(frame.measure, Measure::Ratio { .. }));
                    if let Some(name) = name.filter(|_| value.number() > 0) {
                        let (rule, term) = (Arc::clone(&watch.plan.rule.name), Arc::clone(name));
                        values.push(WindowValue { rule, term, subject: subject.clone(), value });
                    }
                }
            }
            // Stable: a rule's terms stay in their order.
            values[before..].sort_by(|one, other| one.subject.cmp(&other.subject));
        }
        values
    }

    /// How much is held.
    pub(super) fn stats(&self) -> RuleStats {
        let firing = self.deadlines.len() as u64;
        let suppressed = self.deadlines.iter().filter(|(_, _, known, _)| *known == Known::Allowed);
        let suppressed = suppressed.count() as u64;
        let evidence = self.evidence.len() as u64;
        let mut stats = RuleStats { late: self.late, firing, suppressed, evidence, ..RuleStats::default() };
        for lane in self.watches.iter().flat_map(|watch| [&watch.unknown, &watch.allowed]) {
            stats.sources += lane.len() as u64;
            stats.refused += lane.refused();
        }
        stats
    }

    /// Judges by other rules from now on.
    pub(super) fn reconfigure(
        &mut self,
        rules: Vec<Rule>,
        lateness: Duration,
        internal: &Networks,
        effects: &mut Effects,
    ) -> Changed {
        let mut before: Vec<Option<Watch>> =
            std::mem::take(&mut self.watches).into_iter().map(Some).collect();
        let mut changed = Changed { numbers: vec![None; before.len()], restarted: Vec::new() };
        for (number, rule) in rules.into_iter().enumerate() {
            let mut plan = Plan::new(rule, lateness);
            let named = |watch: &Option<Watch>| {
                watch.as_ref().is_some_and(|watch| watch.plan.rule.name == plan.rule.name)
            };
            let place = before.iter().position(named);
            let past = place.and_then(|place| before.get_mut(place)?.take());
            let Some(mut past) = past else {
                plan.begin(self.clock);
                self.watches.push(Watch::new(plan));
                continue;
            };
            if plan.continues(&past.plan) {
                if let Some(place) = place.and_then(|place| changed.numbers.get_mut(place)) {
                    *place = Some(number);
                }
                plan.inherit(&past.plan);
                self.watches.push(Watch { plan, ..past });
                continue;
            }
            changed.restarted.push(Arc::clone(&plan.rule.name));
            plan.begin(self.clock);
            let mut watch = Watch::new(plan);
            if watch.plan.rule.group_by == past.plan.rule.group_by {
                for known in [Known::No, Known::Allowed] {
                    let (plan, lane) = watch.lane(known);
                    for (subject, watched) in past.lane(known).1.iter_mut() {
                        if let Some(watched) = watched.renewed(plan) {
                            lane.put(subject.clone(), watched);
                        }
                    }
                }
            } else {
                self.end(past, internal, effects);
            }
            self.watches.push(watch);
        }
        for watch in before.into_iter().flatten() {
            self.end(watch, internal, effects);
        }
        self.schedule();
        changed
    }

    /// What is not watched any more has no value: its incidents end here.
    fn end(&self, mut watch: Watch, internal: &Networks, effects: &mut Effects) {
        for known in [Known::No, Known::Allowed] {
            let (plan, lane) = watch.lane(known);
            let resolve = |(subject, watched): (&Subject, &mut Watched)| {
                Some((subject.clone(), watched.resolve(plan, self.clock)?))
            };
            let mut ended: Vec<_> = lane.iter_mut().filter_map(resolve).collect();
            ended.sort_by(|one, other| one.0.cmp(&other.0));
            for (_, mut alert) in ended {
                alert.ends_at = Some(self.clock);
                excuse(plan, known, &mut alert, internal, self.epoch);
                effects.alerts.push(alert);
            }
        }
    }

    /// Notes for every incident when it has something to do.
    pub(super) fn schedule(&mut self) {
        self.deadlines.clear();
        for (index, watch) in self.watches.iter().enumerate() {
            for (known, lane) in [(Known::No, &watch.unknown), (Known::Allowed, &watch.allowed)] {
                for (subject, watched) in lane.iter() {
                    if let Some(deadline) = watched.deadline(&watch.plan) {
                        self.deadlines.insert((deadline, index, known, subject.clone()));
                    }
                }
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "what is around a judgement; a struct would only be unpacked"
    )]
    fn judge(
        &mut self,
        index: usize,
        known: Known,
        subject: &Subject,
        ends: &Ends<'_>,
        time: Time,
        internal: &Networks,
        effects: &mut Effects,
    ) {
        let Self { watches, evidence, clock, epoch, deadlines, .. } = self;
        let Some(watch) = watches.get_mut(index) else { return };
        let (plan, lane) = watch.lane(known);
        let overflow = lane.overflowed(subject);
        let Some(watched) = lane.get_mut(subject) else { return };
        let around = Around { plan, subject, internal, evidence, clock: *clock, overflow };
        if let Some(mut alert) = watched.judge(around, plan.levels(ends), time) {
            excuse(plan, known, &mut alert, internal, *epoch);
            effects.alerts.push(alert);
            if let Some(deadline) = watched.deadline(plan) {
                deadlines.insert((deadline, index, known, subject.clone()));
            }
        }
    }

    /// A part of the subjects for each second that passed, all of them at most once.
    fn sweep(&mut self) {
        let passed = self.clock.since(self.next_sweep).as_secs() + 1;
        self.next_sweep = self.clock + SWEEP;
        for _ in 0..passed.min(SHARDS as u64) {
            self.shard = (self.shard + 1) % SHARDS;
            for watch in &mut self.watches {
                for known in [Known::No, Known::Allowed] {
                    let (plan, lane) = watch.lane(known);
                    lane.sweep(plan, self.shard, self.clock);
                }
            }
        }
    }
}

/// Which flows one between these ends is taken together with.
fn known(rule: &Rule, ends: &Ends<'_>, time: Time, epoch: Epoch) -> Known {
    if rule.allowed(ends, time, epoch).is_some() { Known::Allowed } else { Known::No }
}

/// Books news of a subject; `keep` is called when they were taken.
fn book<T>(
    watch: &mut Watch,
    known: Known,
    subject: &Subject,
    clock: Time,
    news: &News,
    keep: impl FnOnce() -> T,
) -> Booked {
    let (plan, lane) = watch.lane(known);
    let Some(watched) = lane.enter(plan, subject.clone()) else { return Booked::Nothing };
    let booked = watched.book(plan, clock, news);
    if booked == Booked::Taken {
        keep();
    }
    booked
}

fn note(watch: &mut Watch, known: Known, subject: &Subject, evidence: &Evidence, handle: Handle) {
    if let Some(watched) = watch.lane(known).1.get_mut(subject) {
        watched.note(evidence, handle);
    }
}

/// Says why an alert about flows on an allow-list is suppressed.
pub(super) fn excuse(
    plan: &Plan,
    known: Known,
    alert: &mut super::event::Alert,
    internal: &Networks,
    epoch: Epoch,
) {
    if known == Known::No {
        return;
    }
    let of = |record: &Arc<FlowRecord>| {
        let ends = Ends::of(&record.flow, internal);
        plan.rule.allowed(&ends, record.time(), epoch).map(|allow| Arc::clone(&allow.reason))
    };
    let reason = alert.flows.iter().rev().find_map(of);
    alert.suppressed = Some(reason.unwrap_or_else(|| "on an allow-list".into()));
}

fn mark(ip: IpAddr) -> Mark {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
