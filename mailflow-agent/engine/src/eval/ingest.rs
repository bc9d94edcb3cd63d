//! The way of a record, or of what a source has beyond the flow table, into the windows.

use std::net::IpAddr;

use super::{
    contribution::{Taken, Tally},
    evaluator::Evaluator,
    group_key::{Source, Subject},
    group_state::{Around, Booked},
    group_table::Known,
    pending::Arrival,
    rule_mask::{Fit, Verdict},
    rule_state::{Watch, excuse},
    window::distinct::Mark,
};
use crate::{
    alert::evidence::Exhibit,
    effects::{Effects, Grouped, Qualified},
    flow::{
        FlowRecord,
        class::Kinds,
        fields::Inputs,
        overflow::Overflowed,
        phase::Stage,
        quantity::{Quantities, Quantity},
    },
    network::{Ends, Networks, Place, Site},
    rule::{Measure, compiled::News},
};

/// What is to be booked.
struct Case<'a> {
    /// The number of the rule.
    rule: usize,
    known: Known,
    subject: Subject,
    ends: &'a Ends<'a>,
    news: News,
}

impl Evaluator {
    /// The rules that count the flow of `record`; of most flows it is none.
    pub(crate) fn fit(&mut self, record: &FlowRecord, stage: Stage, internal: &Networks) -> Fit {
        let (mut fit, mut ends) = (Fit::default(), None);
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
        arrival: Arrival<'_>,
        tally: &mut Tally,
        internal: &Networks,
        effects: &mut Effects,
    ) {
        let Arrival { at, stage, fit, record } = arrival;
        self.advance(at, internal, effects);
        if fit.is_empty() {
            return;
        }
        let flow = &record.flow;
        let ends = self.sites.ends(flow, internal);
        let (time, has) = (record.time(), Quantities::of(flow));
        let shows = Kinds::of(record, stage);
        let source = Source::of(flow.client(), self.v6_source_prefix);
        let (mut exhibit, mut seen) = (Exhibit::new(record), false);
        for rule in 0..self.watches.len() {
            let Some(watch) = self.watches.get(rule) else { continue };
            let counts = match fit.of(rule) {
                Verdict::Counts => true,
                Verdict::Passes => false,
                Verdict::Perhaps => {
                    watch.fits(record, stage, self.epoch) && watch.plan.rule.matching.joins(&ends)
                }
            };
            if !counts {
                continue;
            }
            let taken = tally.of(rule);
            let (kinds, gains) = (shows - taken.kinds, has.since(&taken.given));
            // Nobody asks any more what was taken of a flow that has ended.
            if stage != Stage::Ended {
                tally.set(rule, Taken { kinds: taken.kinds | shows, given: has });
            }
            let known = watch.known(&ends, time, self.epoch);
            if kinds.contains(Kinds::FLOWS) {
                let suppressed = known == Known::Allowed;
                let rule = watch.plan.rule.name.clone();
                effects.qualified.push(Qualified { rule, key: flow.key, suppressed });
            }
            let subject = Subject::of(watch.plan.rule.group_by, flow, &ends.source, self.v6_source_prefix);
            let news = News {
                time,
                kinds,
                gains,
                inputs: record.inputs,
                source: mark(source.network().addr()),
                destination: mark(flow.server()),
                port: flow.key.server_port,
                completed: completed(record),
            };
            let case = Case { rule, known, subject, ends: &ends, news };
            if self.book(case, Some(&mut exhibit), internal, effects) && !seen {
                // Several rules may count it.
                seen = true;
                self.flood.see(self.clock, completed(record));
            }
        }
    }

    /// Takes what a source gained beyond the flow table. Its destinations are not known: it counts for
    /// rules that do not group by them.
    pub(crate) fn overflow(&mut self, gain: &Overflowed, internal: &Networks, effects: &mut Effects) {
        let client = gain.client;
        let source = internal.locate(client);
        let ends = Ends { source, destination: Site { place: Place::Internet, network: None, ip: client } };
        for number in 0..self.watches.len() {
            let Some(watch) = self.watches.get_mut(number) else { continue };
            let rule = &watch.plan.rule;
            let sums = rule.terms.iter().any(|term| matches!(term.measure, Measure::Sum(_)));
            let matching = &rule.matching;
            let counts = matching.source.holds(&source)
                && matching.ports.contains(&gain.port)
                && matching.protocols.iter().any(|wanted| wanted.number() == gain.protocol);
            let subject = Subject::of_client(rule.group_by, client, &source, self.v6_source_prefix);
            let Some(subject) = subject.filter(|_| counts) else { continue };
            let known = watch.known(&ends, gain.time, self.epoch);
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
                completed: gain.gains.get(Quantity::PayloadDown) > 0,
            };
            // Of a source with nothing but SYNs the rule has nothing to remember.
            let plan = &watch.plan;
            if (0..plan.frames().len()).all(|term| plan.gain(term, &news).is_none()) {
                continue;
            }
            self.book(Case { rule: number, known, subject, ends: &ends, news }, None, internal, effects);
        }
    }

    /// Books news of a subject, and judges it by them. What is behind them, if it is known, is kept. Returns true if
    /// the subject is a source, or a pair, that the rule did not remember.
    fn book(
        &mut self,
        case: Case<'_>,
        exhibit: Option<&mut Exhibit<'_>>,
        internal: &Networks,
        effects: &mut Effects,
    ) -> bool {
        let Case { rule, known, subject, ends, news } = case;
        let Some(watch) = self.watches.get_mut(rule) else { return false };
        let Watch { plan, unknown, allowed, missed, burst } = watch;
        plan.told(news.inputs);
        let lane = match known {
            Known::No => unknown,
            Known::Allowed => allowed,
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
            Booked::Nothing => {}
            Booked::Late => missed.late += 1,
            Booked::Taken => {
                if let Some(exhibit) = exhibit {
                    watched.note(&mut self.evidence, exhibit);
                }
                let (evidence, clock, epoch) = (&self.evidence, self.clock, self.epoch);
                let around = Around { plan, subject, internal, evidence, clock, epoch, overflow };
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
        new && booked == Booked::Taken
    }
}

/// Returns true if the server answered with payload: the client is at its address. Where the log does not tell, any
/// answer will do.
fn completed(record: &FlowRecord) -> bool {
    let down = &record.flow.down;
    down.payload > 0 || (!record.inputs.contains(Inputs::PAYLOAD) && down.packets > 0)
}

fn mark(ip: IpAddr) -> Mark {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
