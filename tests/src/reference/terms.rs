//! Conditions by the book: every contribution is kept, and every value counted anew.
//!
//! Exact where the engine is exact: up to sixty event times a subject and term.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use mailflow_agent::engine::{
    event::{AlertState, Source},
    flow::{Flow, RecordReason},
    settings::{Condition, End, GroupBy, Kind, Level, Measure, Quantity, Rule, Settings, Term, WindowKind},
};
use mailflow_common::{App, FlowKey};

use super::{Connection, Expected, Nanos, counts, nanos};

/// An alert the engine should raise.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// The rule's place, and whom it is about.
    pub of: (usize, String),
    /// Firing or resolved.
    pub state: AlertState,
    /// The event's moment, the incident's beginning, its end.
    pub times: (Nanos, Nanos, Option<Nanos>),
    /// The term that decided, by its place, and what it held.
    pub decided: (usize, u64),
}

/// What is known of a flow at some moment.
#[derive(Clone, Debug)]
struct Look {
    at: Nanos,
    flow: Flow,
    app: App,
    live: bool,
    ended: bool,
}

/// A look at each record, and at open flows that gained much between two records.
fn looks(
    settings: &Settings,
    history: &[Connection],
    polls: &[Nanos],
    records: &[Expected],
    stop: Nanos,
) -> Vec<Look> {
    let mut looks: Vec<Look> = Vec::new();
    for record in records {
        let ended = matches!(record.reason, RecordReason::Closed | RecordReason::Idle);
        looks.push(Look { at: record.at, flow: record.flow.clone(), app: record.app, live: false, ended });
    }
    for connection in history {
        let (end, _) = connection.end(settings);
        let (mut shown, mut seen, mut intervals) = ([0; 3], None, 0);
        for poll in polls.iter().filter(|poll| **poll < end && **poll < stop) {
            let Some(flow) = connection.seen(*poll) else { continue };
            let passed = (poll - flow.first.as_nanos()) / nanos(settings.timeouts.active);
            let recorded = passed > intervals;
            intervals = passed;
            let gained = seen.replace(flow.clone()).is_none_or(|before| before != flow);
            let has = [flow.up.bytes, flow.down.bytes, u64::from(flow.messages)];
            let enough = |n: usize, least| has[n] - shown[n] >= least;
            if !recorded && gained && (enough(0, 65_536) || enough(1, 65_536) || enough(2, 4)) {
                shown = has;
                looks.push(Look { at: *poll, app: connection.app(&flow), flow, live: true, ended: false });
            }
        }
    }
    looks.sort_by_key(|look| {
        let key = &look.flow.key;
        let ends = (key.client.ip(), key.client_port, key.server.ip(), key.server_port);
        (look.at, look.flow.last(), ends)
    });
    looks
}

/// The alerts of all rules, with time going on until `until`; by rule and subject. Nothing, if some
/// subject has more event times than the engine keeps apart.
pub fn said(
    settings: &Settings,
    history: &[Connection],
    polls: &[Nanos],
    records: &[Expected],
    (stop, until): (Nanos, Nanos),
) -> Option<Vec<Said>> {
    let looks = looks(settings, history, polls, records, stop);
    let mut all = Vec::new();
    for (place, rule) in settings.rules.iter().enumerate() {
        let mut subjects: BTreeMap<String, Vec<Look>> = BTreeMap::new();
        for look in looks.iter().filter(|look| counts(rule, &look.flow, look.app)) {
            subjects.entry(subject(settings, rule, &look.flow)).or_default().push(look.clone());
        }
        for (subject, looks) in subjects {
            let mut walk = Walk::new(settings, rule, (place, subject));
            for look in &looks {
                walk.see(look);
            }
            walk.pass(until);
            if walk.given.iter().any(|given| given.len() > 60) {
                return None;
            }
            all.append(&mut walk.said);
        }
    }
    Some(all)
}

fn subject(settings: &Settings, rule: &Rule, flow: &Flow) -> String {
    let source = Source::of(flow.client(), settings.v6_source_prefix);
    match rule.group_by {
        GroupBy::Source => source.to_string(),
        GroupBy::SourceAndDestination => format!("{source} -> {}", flow.server()),
        GroupBy::Destination => flow.server().to_string(),
        GroupBy::Group => "group ".to_owned(),
    }
}

/// What an event gave a term.
#[derive(Clone, Debug)]
enum Gave {
    Amount(u64),
    Parts(u64, u64),
    With(String),
}

struct Walk<'a> {
    settings: &'a Settings,
    rule: &'a Rule,
    of: (usize, String),
    taken: HashMap<(FlowKey, Nanos), (BTreeSet<usize>, [u64; 7])>,
    given: Vec<Vec<(Nanos, Gave)>>,
    ended: Option<Nanos>,
    firing: Option<Firing>,
    clock: Nanos,
    said: Vec<Said>,
}

#[derive(Clone, Copy)]
struct Firing {
    starts_at: Nanos,
    holds_until: Nanos,
    repeat: Nanos,
    decided: usize,
}

const KINDS: [Kind; 5] = Kind::ALL;

fn kinds(look: &Look) -> BTreeSet<usize> {
    let facts = &look.flow.facts;
    let (attempt, answered) = (facts.syn != 0, facts.syn != 0 && facts.syn_ack != 0);
    let delivering = answered && look.flow.messages > 0;
    let is = |kind: Kind| match kind {
        Kind::Flows => !look.live,
        Kind::Attempts => !look.live && attempt,
        Kind::Sessions => !look.live && answered,
        Kind::Failed => look.ended && attempt && !delivering,
        Kind::Delivering => delivering,
    };
    (0..KINDS.len()).filter(|kind| is(KINDS[*kind])).collect()
}

fn place(kind: Kind) -> usize {
    KINDS.iter().position(|each| *each == kind).unwrap()
}

fn amounts(flow: &Flow) -> [u64; 7] {
    Quantity::ALL.map(|quantity| match quantity {
        Quantity::PayloadUp => flow.up.payload,
        Quantity::PayloadDown => flow.down.payload,
        Quantity::BytesUp => flow.up.bytes,
        Quantity::BytesDown => flow.down.bytes,
        Quantity::PacketsUp => flow.up.packets,
        Quantity::PacketsDown => flow.down.packets,
        Quantity::Messages => u64::from(flow.messages),
    })
}

impl<'a> Walk<'a> {
    fn new(settings: &'a Settings, rule: &'a Rule, of: (usize, String)) -> Self {
        let given = rule.terms.iter().map(|_| Vec::new()).collect();
        Self {
            settings,
            rule,
            of,
            taken: HashMap::new(),
            given,
            ended: None,
            firing: None,
            clock: 0,
            said: Vec::new(),
        }
    }

    /// Whether the rule says anything about flows that are open.
    fn live(&self) -> bool {
        let live = |measure: Measure| match measure {
            Measure::Sum(_) | Measure::Count(Kind::Delivering) => true,
            Measure::Distinct { among, .. } => among == Kind::Delivering,
            _ => false,
        };
        self.rule.terms.iter().any(|term| live(term.measure))
    }

    fn see(&mut self, look: &Look) {
        if look.live && !self.live() {
            return;
        }
        let time = look.flow.last().as_nanos();
        self.pass(look.at.max(time));
        let (shows, has) = (kinds(look), amounts(&look.flow));
        let of = (look.flow.key, look.flow.first.as_nanos());
        let (known, given) = self.taken.entry(of).or_default();
        let new: BTreeSet<usize> = shows.difference(known).copied().collect();
        let gains: [u64; 7] = std::array::from_fn(|n| has[n].saturating_sub(given[n]));
        known.extend(shows);
        *given = has;
        let mut any = false;
        for (term, given) in self.rule.terms.iter().zip(&mut self.given) {
            let gave = gave(self.settings, term, look, &new, &gains);
            any |= gave.is_some();
            given.extend(gave.map(|gave| (time, gave)));
        }
        if any {
            self.judge(look.at.max(time), time);
        }
    }

    fn judge(&mut self, clock: Nanos, time: Nanos) {
        let holds_until = self.until();
        if let Some(firing) = &mut self.firing {
            firing.holds_until = firing.holds_until.max(holds_until.unwrap_or(0));
            return;
        }
        let after = |moment: &Nanos| self.ended.is_none_or(|ended| *moment > ended);
        let mut times: Vec<Nanos> = self.given.iter().flatten().map(|(time, _)| *time).collect();
        times.sort_unstable();
        let single = matches!(
            (&self.rule.condition, self.rule.terms[0].measure),
            (Condition::Term(_), Measure::Count(_))
        );
        let moments =
            if single { times } else { [Some(time), times.last().copied()].into_iter().flatten().collect() };
        let fits = |moment: &Nanos| after(moment) && self.holds(&self.rule.condition, *moment);
        let Some(starts_at) = moments.into_iter().find(fits) else { return };
        let decided = self.leading(&self.rule.condition, starts_at).unwrap_or(0);
        let interval = nanos(self.rule.repeat_interval);
        let repeat = (1..).map(|n| starts_at + n * interval).find(|repeat| *repeat > clock).unwrap();
        let firing =
            Firing { starts_at, holds_until: holds_until.unwrap_or(0).max(starts_at), repeat, decided };
        self.say(AlertState::Firing, starts_at, &firing, None, starts_at);
        self.firing = Some(firing);
    }

    /// Lets time pass.
    fn pass(&mut self, to: Nanos) {
        while let Some(mut firing) = self.firing {
            let end = firing.holds_until + nanos(self.rule.resolve_after);
            if end.min(firing.repeat) > to {
                break;
            }
            // What was due before it was known is done when it is known.
            let due = end.min(firing.repeat).max(self.clock);
            self.clock = due;
            if end <= due {
                self.say(AlertState::Resolved, due, &firing, Some(firing.holds_until), due);
                (self.ended, self.firing) = (Some(firing.holds_until), None);
                break;
            }
            while firing.repeat <= due {
                firing.repeat += nanos(self.rule.repeat_interval);
            }
            self.say(AlertState::Firing, due, &firing, None, due);
            self.firing = Some(firing);
        }
        self.clock = self.clock.max(to);
    }

    fn say(&mut self, state: AlertState, time: Nanos, firing: &Firing, ends_at: Option<Nanos>, at: Nanos) {
        let decided = (firing.decided, self.value(firing.decided, at));
        self.said.push(Said {
            of: self.of.clone(),
            state,
            times: (time, firing.starts_at, ends_at),
            decided,
        });
    }

    fn inside(&self, term: &Term, event: Nanos, end: Nanos) -> bool {
        let length = nanos(term.window.length);
        event <= end
            && match term.window.kind {
                WindowKind::Sliding => event + length > end,
                WindowKind::Tumbling => event >= end / length * length,
            }
    }

    fn value(&self, term: usize, at: Nanos) -> u64 {
        let (given, term) = (&self.given[term], &self.rule.terms[term]);
        let counted = given.iter().filter(|(time, _)| self.inside(term, *time, at));
        let sum = |part: fn(&Gave) -> u64| counted.clone().map(|(_, gave)| part(gave)).sum::<u64>();
        match term.measure {
            Measure::Count(_) | Measure::Sum(_) => {
                sum(|gave| if let Gave::Amount(n) = gave { *n } else { 0 })
            }
            Measure::Ratio { .. } => {
                let of = sum(|gave| if let Gave::Parts(of, _) = gave { *of } else { 0 });
                let to = sum(|gave| if let Gave::Parts(_, to) = gave { *to } else { 0 });
                (of * Level::PARTS).checked_div(to).unwrap_or(0).min(Level::PARTS)
            }
            Measure::Distinct { .. } => {
                let lasts = self.lasts(given, term.level.at_least);
                lasts.iter().filter(|last| self.inside(term, **last, at)).count() as u64
            }
            Measure::FirstSeen { .. } => 0,
        }
    }

    /// The last events of the most recent distinct ends, at most `most`.
    fn lasts(&self, given: &[(Nanos, Gave)], most: u64) -> Vec<Nanos> {
        let mut lasts: BTreeMap<&str, Nanos> = BTreeMap::new();
        for (time, gave) in given {
            if let Gave::With(end) = gave {
                let last = lasts.entry(end).or_default();
                *last = (*last).max(*time);
            }
        }
        let mut lasts: Vec<Nanos> = lasts.into_values().collect();
        lasts.sort_unstable_by(|one, other| other.cmp(one));
        lasts.truncate(most as usize);
        lasts
    }

    fn holds(&self, condition: &Condition, at: Nanos) -> bool {
        match condition {
            Condition::Term(term) => self.value(*term, at) >= self.rule.terms[*term].level.at_least,
            Condition::Any(parts) => parts.iter().any(|part| self.holds(part, at)),
            Condition::All(parts) => parts.iter().all(|part| self.holds(part, at)),
        }
    }

    fn leading(&self, condition: &Condition, at: Nanos) -> Option<usize> {
        match condition {
            Condition::Term(term) => self.holds(condition, at).then_some(*term),
            Condition::Any(parts) => parts.iter().find_map(|part| self.leading(part, at)),
            Condition::All(parts) => {
                let terms: Vec<usize> =
                    parts.iter().map(|part| self.leading(part, at)).collect::<Option<_>>()?;
                let ratio = |term: usize| matches!(self.rule.terms[term].measure, Measure::Ratio { .. });
                terms.iter().find(|term| !ratio(**term)).or(terms.first()).copied()
            }
        }
    }

    /// Until when each term last held at its resolve threshold: of any the last, of all the first; ratios
    /// say nothing.
    fn until(&self) -> Option<Nanos> {
        match self.lasting(&self.rule.condition) {
            Some(until) => until,
            None => {
                let mut ends = Vec::new();
                for (term, given) in self.rule.terms.iter().zip(&self.given) {
                    let failed = given.iter().filter(|(_, gave)| matches!(gave, Gave::Parts(1.., _)));
                    ends.extend(failed.map(|(time, _)| self.leaves(term, *time)).max());
                }
                ends.into_iter().max()
            }
        }
    }

    fn leaves(&self, term: &Term, event: Nanos) -> Nanos {
        let length = nanos(term.window.length);
        match term.window.kind {
            WindowKind::Sliding => event + length,
            WindowKind::Tumbling => (event / length + 1) * length,
        }
    }

    /// `None` where only ratios would speak; `Some(None)` where it never held.
    fn lasting(&self, condition: &Condition) -> Option<Option<Nanos>> {
        let speaking = |parts: &[Condition]| -> Vec<Option<Nanos>> {
            parts.iter().filter_map(|part| self.lasting(part)).collect()
        };
        match condition {
            Condition::Term(place) => {
                let term = &self.rule.terms[*place];
                if let Measure::Ratio { .. } = term.measure {
                    return None;
                }
                let events = self.given[*place].iter().map(|(time, _)| *time);
                let mut leaves: Vec<Nanos> = events.map(|event| self.leaves(term, event)).collect();
                leaves.sort_unstable();
                let held = |leaf: &&Nanos| self.value(*place, **leaf - 1) >= term.level.resolve_below;
                Some(leaves.iter().rev().find(held).copied())
            }
            Condition::Any(parts) => {
                let untils = speaking(parts);
                (!untils.is_empty()).then(|| untils.into_iter().flatten().max())
            }
            Condition::All(parts) => {
                let untils = speaking(parts);
                (!untils.is_empty())
                    .then(|| untils.into_iter().collect::<Option<Vec<Nanos>>>()?.into_iter().min())
            }
        }
    }
}

fn gave(
    settings: &Settings,
    term: &Term,
    look: &Look,
    new: &BTreeSet<usize>,
    gains: &[u64; 7],
) -> Option<Gave> {
    let is = |kind: Kind| new.contains(&place(kind));
    match term.measure {
        Measure::Count(kind) => is(kind).then_some(Gave::Amount(1)),
        Measure::Sum(quantity) => {
            let place = Quantity::ALL.iter().position(|each| *each == quantity)?;
            (gains[place] > 0).then_some(Gave::Amount(gains[place]))
        }
        Measure::Ratio { of, to } => {
            let parts = (u64::from(is(of)), u64::from(is(to)));
            (parts != (0, 0)).then_some(Gave::Parts(parts.0, parts.1))
        }
        Measure::Distinct { of, among } => is(among).then(|| Gave::With(end(settings, of, &look.flow))),
        Measure::FirstSeen { .. } => None,
    }
}

fn end(settings: &Settings, of: End, flow: &Flow) -> String {
    let ip: IpAddr = flow.server();
    match of {
        End::Source => Source::of(flow.client(), settings.v6_source_prefix).to_string(),
        End::Destination => ip.to_string(),
        End::Port => flow.key.server_port.to_string(),
    }
}
