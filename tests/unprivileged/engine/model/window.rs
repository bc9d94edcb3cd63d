//! Window of a term for one group key: keeps every contribution, and recomputes every value.
//!
//! Exact where the engine is exact: up to sixty event times per group key and term.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr};

use mailflow_engine::{
    event::Source,
    flow::Flow,
    settings::{Endpoint, FlowClass, Measure, Quantity, Settings, Term, Thresholds, WindowKind},
};

use super::{Nanos, nanos};

/// Contribution of an event to a term.
#[derive(Clone, Debug)]
pub(super) enum Contribution {
    Amount(u64),
    Parts(u64, u64),
    With(String),
}

/// Term with its contributions.
#[derive(Clone, Debug)]
pub(super) struct TermWindow {
    pub(super) term: Term,
    /// Highest threshold of any group key.
    pub(super) need: u64,
    pub(super) horizon: Nanos,
    /// Start of the learning period of a first-seen term.
    pub(super) learnt: Nanos,
    /// Allowed lateness of a record.
    pub(super) lateness: Nanos,
    pub(super) contributions: Vec<(Nanos, Contribution)>,
}

impl TermWindow {
    pub(super) fn length(&self) -> Nanos {
        nanos(self.term.window.length)
    }

    /// Returns true if a record with this event time can still change the window.
    pub(super) fn matters(&self, time: Nanos, clock: Nanos) -> bool {
        time + self.length() + self.lateness > clock
    }

    pub(super) fn age(&mut self, clock: Nanos) {
        if !matches!(self.term.measure, Measure::FirstSeen { .. }) {
            let mut contributions = std::mem::take(&mut self.contributions);
            contributions.retain(|(time, _)| self.matters(*time, clock));
            self.contributions = contributions;
        }
    }

    pub(super) fn add(&mut self, time: Nanos, contribution: Contribution) {
        self.contributions.push((time, contribution));
        if let Measure::Distinct { .. } = self.term.measure {
            // Only the last event of each endpoint, and only the most recent endpoints, up to the highest
            // threshold.
            let mut lasts = self.lasts();
            lasts.truncate(self.need as usize);
            self.contributions =
                lasts.into_iter().map(|(time, end)| (time, Contribution::With(end))).collect();
        }
    }

    pub(super) fn inside(&self, event: Nanos, end: Nanos) -> bool {
        let length = self.length();
        event <= end
            && match self.term.window.kind {
                WindowKind::Sliding => event + length > end,
                WindowKind::Tumbling => event >= end / length * length,
            }
    }

    pub(super) fn leaves(&self, event: Nanos) -> Nanos {
        let length = self.length();
        match self.term.window.kind {
            WindowKind::Sliding => event + length,
            WindowKind::Tumbling => (event / length + 1) * length,
        }
    }

    pub(super) fn value(&self, at: Nanos) -> u64 {
        let counted = || {
            self.contributions
                .iter()
                .filter(|(time, _)| self.inside(*time, at))
                .map(|(_, contribution)| contribution)
        };
        let sum = |part: fn(&Contribution) -> u64| counted().map(part).sum::<u64>();
        let distinct = |times: Vec<Nanos>| times.iter().filter(|time| self.inside(**time, at)).count() as u64;
        match self.term.measure {
            Measure::Count(_) | Measure::Sum(_) => {
                sum(|contribution| if let Contribution::Amount(n) = contribution { *n } else { 0 })
            }
            Measure::Ratio { .. } => {
                let of =
                    sum(|contribution| if let Contribution::Parts(of, _) = contribution { *of } else { 0 });
                let to =
                    sum(|contribution| if let Contribution::Parts(_, to) = contribution { *to } else { 0 });
                (of * Thresholds::PARTS).checked_div(to).unwrap_or(0).min(Thresholds::PARTS)
            }
            Measure::Distinct { .. } => distinct(self.lasts().into_iter().map(|(time, _)| time).collect()),
            Measure::FirstSeen { .. } => distinct(self.news()),
        }
    }

    /// Returns the times at which contributions leave the window.
    pub(super) fn leaving(&self) -> Vec<Nanos> {
        self.contributions.iter().map(|(time, _)| self.leaves(*time)).collect()
    }

    /// Returns the time at which the last flow above the limit of a ratio leaves the window.
    pub(super) fn empties(&self) -> Option<Nanos> {
        let above = self
            .contributions
            .iter()
            .filter(|(_, contribution)| matches!(contribution, Contribution::Parts(1.., _)));
        above.map(|(time, _)| self.leaves(*time)).max()
    }

    /// Returns the times at which the value may have risen.
    pub(super) fn moments(&self) -> Vec<Nanos> {
        let times = self.contributions.iter().map(|(time, _)| *time);
        match self.term.measure {
            Measure::FirstSeen { .. } => self.news().into_iter().chain(times.max()).collect(),
            _ => times.collect(),
        }
    }

    fn by_end(&self) -> BTreeMap<&str, Vec<Nanos>> {
        let mut ends: BTreeMap<&str, Vec<Nanos>> = BTreeMap::new();
        for (time, contribution) in &self.contributions {
            if let Contribution::With(end) = contribution {
                ends.entry(end).or_default().push(*time);
            }
        }
        ends.values_mut().for_each(|times| times.sort_unstable());
        ends
    }

    /// Returns the last event of each endpoint, the newest first.
    fn lasts(&self) -> Vec<(Nanos, String)> {
        let last = |(end, times): (&str, Vec<Nanos>)| Some((*times.last()?, end.to_owned()));
        let mut lasts: Vec<(Nanos, String)> = self.by_end().into_iter().filter_map(last).collect();
        lasts.sort_by_key(|last| Reverse(last.0));
        lasts
    }

    /// Returns the last time at which each endpoint was new: not seen within the horizon.
    fn news(&self) -> Vec<Nanos> {
        let new = |times: Vec<Nanos>| {
            let is_new = |time: &Nanos| !times.iter().any(|seen| seen < time && seen + self.horizon > *time);
            times.iter().copied().rfind(|time| is_new(time))
        };
        self.by_end().into_values().filter_map(new).filter(|new| *new >= self.learnt).collect()
    }
}

/// Returns the contribution of a flow, or of its delta, to a term.
pub(super) fn contribution(
    settings: &Settings,
    term: &Term,
    flow: &Flow,
    new: &[FlowClass],
    more: impl Fn(Quantity) -> u64,
) -> Option<Contribution> {
    let is = |kind: FlowClass| new.contains(&kind);
    match term.measure {
        Measure::Count(kind) => is(kind).then_some(Contribution::Amount(1)),
        Measure::Sum(quantity) => (more(quantity) > 0).then(|| Contribution::Amount(more(quantity))),
        Measure::Ratio { of, to } => {
            let parts = (u64::from(is(of)), u64::from(is(to)));
            (parts != (0, 0)).then_some(Contribution::Parts(parts.0, parts.1))
        }
        Measure::Distinct { of, among } => is(among).then(|| Contribution::With(end(settings, of, flow))),
        Measure::FirstSeen { of, .. } => {
            is(FlowClass::Flows).then(|| Contribution::With(end(settings, of, flow)))
        }
    }
}

fn end(settings: &Settings, of: Endpoint, flow: &Flow) -> String {
    let ip: IpAddr = flow.server();
    match of {
        Endpoint::Source => Source::of(flow.client(), settings.v6_source_prefix).to_string(),
        Endpoint::Destination => ip.to_string(),
        Endpoint::Port => flow.key.server_port.to_string(),
    }
}
