//! A rule with its subjects.

use std::sync::Arc;

use super::{
    group_state::Watched,
    group_table::{Known, Lane},
    window::{state::Frame, value::Value},
};
use crate::{
    alert::{event::Alert, rate_limit::Burst},
    flow::{FlowRecord, phase::Stage},
    network::{Ends, Networks},
    rule::{Measure, compiled::Plan},
    time::{Epoch, Time},
};

/// A rule with its subjects.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) plan: Plan,
    pub(crate) unknown: Lane,
    pub(crate) allowed: Lane,
    pub(super) missed: Missed,
    pub(crate) burst: Burst,
}

/// Records that a rule counts and could not take, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Missed {
    /// They came too late to be judged.
    pub(super) late: u64,
    /// There was no room for their subjects.
    pub(super) refused: u64,
    /// Subjects that made room for others.
    pub(super) evicted: u64,
}

impl Watch {
    pub(super) fn new(plan: Plan) -> Self {
        let (unknown, allowed) = (Lane::default(), Lane::default());
        Self { plan, unknown, allowed, missed: Missed::default(), burst: Burst::default() }
    }

    /// How many subjects it remembers, those with flows on an allow-list apart.
    pub(super) fn subjects(&self) -> u64 {
        (self.unknown.len() + self.allowed.len()) as u64
    }

    pub(crate) fn lane(&mut self, known: Known) -> (&Plan, &mut Lane) {
        let lane = match known {
            Known::No => &mut self.unknown,
            Known::Allowed => &mut self.allowed,
        };
        (&self.plan, lane)
    }

    /// What the windows of one of its subjects hold at `now`: the number of each term, and its value where that
    /// is not zero. Ratios are left out: they say nothing without the number they are a part of.
    pub(crate) fn held<'a>(
        &'a self,
        watched: &'a Watched,
        now: Time,
    ) -> impl Iterator<Item = (usize, Value)> + 'a {
        let stores = watched.terms(&self.plan);
        let counted = |frame: &Frame| !matches!(frame.measure, Measure::Ratio { .. });
        let terms = self.plan.frames().iter().enumerate().filter(move |(_, frame)| counted(frame));
        let values = terms.map(move |(term, _)| (term, self.plan.value(&stores, term, now)));
        values.filter(|(_, value)| value.number() > 0)
    }

    /// Returns true if the rule counts the flow of `record`, as far as that can be told without its ends.
    pub(super) fn fits(&self, record: &FlowRecord, stage: Stage, epoch: Epoch) -> bool {
        let matching = &self.plan.rule.matching;
        (stage != Stage::Live || self.plan.live)
            && matching.judges(stage)
            && record.inputs.contains(matching.inputs())
            && matching.check_flow(&record.flow, record.app, epoch).is_ok()
    }

    /// Which flows one between these ends is taken together with.
    pub(super) fn known(&self, ends: &Ends<'_>, time: Time, epoch: Epoch) -> Known {
        if self.plan.allowed(ends, time, epoch).is_some() { Known::Allowed } else { Known::No }
    }
}

/// Says why an alert about flows on an allow-list is suppressed.
pub(crate) fn excuse(plan: &Plan, known: Known, alert: &mut Alert, internal: &Networks, epoch: Epoch) {
    if known == Known::No {
        return;
    }
    let of = |record: &Arc<FlowRecord>| {
        let ends = Ends::of(&record.flow, internal);
        plan.allowed(&ends, record.time(), epoch).map(|allow| Arc::clone(&allow.reason))
    };
    let reason = alert.flows.iter().rev().find_map(of);
    alert.suppressed = Some(reason.unwrap_or_else(|| "on an allow-list".into()));
}
