//! The way of a record, or of what a source has beyond the flow table, into the windows.

use std::net::IpAddr;

use super::{
    contribution::{Counted, FlowContribution},
    evaluator::Evaluator,
    group_key::{GroupKey, Source},
    group_state::{ApplyOutcome, EvalContext},
    group_table::AllowStatus,
    pending::PendingRecord,
    rule_mask::{MaskMatch, RuleMask},
    rule_state::{RuleState, excuse},
    window::distinct::EndpointBytes,
};
use crate::{
    alert::evidence::LazyEvidence,
    effects::{Effects, Grouped, Qualified},
    flow::{
        FlowRecord,
        class::FlowClasses,
        fields::RecordFields,
        overflow::OverflowDelta,
        phase::RecordPhase,
        quantity::{Quantities, Quantity},
    },
    network::{AddressScope, Endpoints, Networks, ResolvedAddress},
    rule::{Measure, compiled::RecordDelta},
};

/// What is to be booked.
struct GroupDelta<'a> {
    /// The number of the rule.
    rule: usize,
    known: AllowStatus,
    subject: GroupKey,
    ends: &'a Endpoints<'a>,
    news: RecordDelta,
}

impl Evaluator {
    /// The rules that count the flow of `record`; of most flows it is none.
    pub(crate) fn fit(&mut self, record: &FlowRecord, stage: RecordPhase, internal: &Networks) -> RuleMask {
        let (mut fit, mut ends) = (RuleMask::default(), None);
        let Self { watches, sites, epoch, .. } = self;
        for (number, watch) in watches.iter().enumerate() {
            // Many fail a test of the flow itself, and those are cheaper than looking up where the ends are.
            if watch.fits(record, stage, *epoch) {
                let ends = ends.get_or_insert_with(|| sites.ends(&record.flow, internal));
                if watch.plan.rule.matching.joins(ends) {
                    fit.insert(number);
                }
            }
        }
        fit
    }

    /// Takes a record, and what the rules have taken of its flow so far.
    pub(crate) fn admit(
        &mut self,
        arrival: PendingRecord<'_>,
        tally: &mut FlowContribution,
        internal: &Networks,
        effects: &mut Effects,
    ) {
        let PendingRecord { at, stage, fit, record } = arrival;
        self.advance(at, internal, effects);
        if fit.is_empty() {
            return;
        }
        let flow = &record.flow;
        let ends = self.sites.ends(flow, internal);
        let (time, has) = (record.time(), Quantities::of(flow));
        let shows = FlowClasses::of(record, stage);
        let source = Source::of(flow.client(), self.v6_source_prefix);
        let (mut exhibit, mut seen) = (LazyEvidence::new(record), false);
        for rule in 0..self.watches.len() {
            let Some(watch) = self.watches.get(rule) else { continue };
            let counts = match fit.of(rule) {
                MaskMatch::Match => true,
                MaskMatch::NoMatch => false,
                MaskMatch::Recheck => {
                    watch.fits(record, stage, self.epoch) && watch.plan.rule.matching.joins(&ends)
                }
            };
            if !counts {
                continue;
            }
            let taken = tally.of(rule);
            let (kinds, gains) = (shows - taken.kinds, has.since(&taken.given));
            // Nobody asks any more what was taken of a flow that has ended.
            if stage != RecordPhase::Final {
                tally.set(rule, Counted { kinds: taken.kinds | shows, given: has });
            }
            let known = watch.known(&ends, time, self.epoch);
            if kinds.contains(FlowClasses::FLOWS) {
                let suppressed = known == AllowStatus::Allowed;
                let rule = watch.plan.rule.name.clone();
                effects.qualified.push(Qualified { rule, key: flow.key, suppressed });
            }
            let subject = GroupKey::of(watch.plan.rule.group_by, flow, &ends.source, self.v6_source_prefix);
            let news = RecordDelta {
                time,
                kinds,
                gains,
                inputs: record.inputs,
                source: mark(source.network().addr()),
                destination: mark(flow.server()),
                port: flow.key.server_port,
                completed: completed(record),
            };
            let case = GroupDelta { rule, known, subject, ends: &ends, news };
            if self.book(case, Some(&mut exhibit), internal, effects) && !seen {
                // Several rules may count it.
                seen = true;
                self.flood.see(self.clock, completed(record));
            }
        }
    }

    /// Takes what a source gained beyond the flow table. Its destinations are not known: it counts for
    /// rules that do not group by them.
    pub(crate) fn overflow(&mut self, gain: &OverflowDelta, internal: &Networks, effects: &mut Effects) {
        let client = gain.client;
        let source = internal.locate(client);
        let ends = Endpoints {
            source,
            destination: ResolvedAddress { place: AddressScope::Internet, network: None, ip: client },
        };
        for number in 0..self.watches.len() {
            let Some(watch) = self.watches.get_mut(number) else { continue };
            let rule = &watch.plan.rule;
            let sums = rule.terms.iter().any(|term| matches!(term.measure, Measure::Sum(_)));
            let matching = &rule.matching;
            let counts = matching.source.holds(&source)
                && matching.ports.contains(&gain.port)
                && matching.protocols.iter().any(|wanted| wanted.number() == gain.protocol);
            let subject = GroupKey::of_client(rule.group_by, client, &source, self.v6_source_prefix);
            let Some(subject) = subject.filter(|_| counts) else { continue };
            let known = watch.known(&ends, gain.time, self.epoch);
            // A rule that looks at each flow cannot say anything about flows that it does not see.
            let each = matching.size.is_some() || matching.sessions_only || !matching.bounds.is_empty();
            watch.lane(known).1.overflow(subject.clone(), gain.time);
            if each || !sums {
                continue;
            }
            let news = RecordDelta {
                time: gain.time,
                kinds: FlowClasses::empty(),
                gains: gain.gains,
                inputs: RecordFields::all(),
                source: mark(client),
                destination: [0; 16],
                port: gain.port,
                completed: gain.gains.get(Quantity::PayloadDown) > 0,
            };
            // Of a source with nothing but SYNs the rule has nothing to remember.
            let plan = &watch.plan;
            if (0..plan.frames().len()).all(|term| plan.gain(term, &news).is_none()) {
                continue;
            }
            self.book(
                GroupDelta { rule: number, known, subject, ends: &ends, news },
                None,
                internal,
                effects,
            );
        }
    }

    /// Books news of a subject, and judges it by them. What is behind them, if it is known, is kept. Returns true if
    /// the subject is a source, or a pair, that the rule did not remember.
    fn book(
        &mut self,
        case: GroupDelta<'_>,
        exhibit: Option<&mut LazyEvidence<'_>>,
        internal: &Networks,
        effects: &mut Effects,
    ) -> bool {
        let GroupDelta { rule, known, subject, ends, news } = case;
        let Some(watch) = self.watches.get_mut(rule) else { return false };
        let RuleState { plan, unknown, allowed, missed, burst } = watch;
        plan.told(news.inputs);
        let lane = match known {
            AllowStatus::No => unknown,
            AllowStatus::Allowed => allowed,
        };
        let overflow = lane.overflowed(&subject, plan.retention, self.clock);
        missed.evicted += lane.room(&self.limits, &subject);
        let Some((subject, watched, new)) =
            lane.enter(plan, self.clock, (subject, news.completed), &self.limits)
        else {
            missed.refused += 1;
            return false;
        };
        let new = new && subject.source().is_some();
        let before = watched.heap();
        let booked = watched.book(plan, self.clock, &news);
        match booked {
            ApplyOutcome::NotApplicable => {}
            ApplyOutcome::Late => missed.late += 1,
            ApplyOutcome::Applied => {
                if let Some(exhibit) = exhibit {
                    watched.note(&mut self.evidence, exhibit);
                }
                let (evidence, clock, epoch) = (&self.evidence, self.clock, self.epoch);
                let around = EvalContext { plan, subject, internal, evidence, clock, epoch, overflow };
                if let Some(mut alert) = watched.judge(around, plan.levels(ends), news.time) {
                    excuse(plan, known, &mut alert, internal, epoch);
                    let suppressed = alert.suppressed.is_some();
                    if burst.admits(clock, suppressed, watched.completed(), &self.limits) {
                        effects.alerts.push(alert);
                    } else {
                        watched.join();
                        effects.grouped.push(Grouped::of(&alert));
                        effects.alerts.extend(burst.join(clock, alert, &self.limits));
                    }
                    if let Some(deadline) = watched.deadline(plan) {
                        self.deadlines.insert((deadline, rule, known, subject.clone()));
                    }
                }
            }
        }
        let after = watched.heap();
        lane.account(before, after);
        new && booked == ApplyOutcome::Applied
    }
}

/// Returns true if the server answered with payload: the client is at its address. Where the log does not tell, any
/// answer will do.
fn completed(record: &FlowRecord) -> bool {
    let down = &record.flow.down;
    down.payload > 0 || (!record.inputs.contains(RecordFields::PAYLOAD) && down.packets > 0)
}

fn mark(ip: IpAddr) -> EndpointBytes {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
