//! Rules over records that do not tell everything.

use std::{collections::BTreeMap, sync::Arc};

use super::flowlog::timeline::TimedRecord;
use mailflow_engine::{
    Engine,
    event::Effects,
    flow::FlowRecord,
    inputs::Inputs,
    rule::Ends,
    settings::{Match, RuleLimits, Settings, Term},
    time::Time,
};

/// Records that a rule, or a term of its condition, could not judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotEvaluable {
    pub(crate) rule: Arc<str>,
    /// The term, where the rule's other terms could.
    pub(crate) term: Option<String>,
    /// What they lack.
    pub(crate) missing: Inputs,
    pub(crate) records: u64,
}

/// The rules, and what they could not judge. The engine leaves out what a record does not tell.
pub(crate) struct BacktestEvaluator {
    engine: Engine,
    settings: Settings,
    rules: Vec<RuleRequirements>,
    not_evaluable: BTreeMap<(usize, Option<usize>, Inputs), u64>,
}

/// What a rule must be told.
struct RuleRequirements {
    /// Of a flow's ends and kind: what every record tells.
    ends: Match,
    sessions_only: bool,
    needs: Inputs,
    terms: Vec<Inputs>,
}

impl BacktestEvaluator {
    pub(crate) fn new(settings: &Settings) -> Self {
        let rules = settings.rules.iter().map(|rule| RuleRequirements {
            ends: Match { size: None, sessions_only: false, bounds: Vec::new(), ..rule.matching.clone() },
            sessions_only: rule.matching.sessions_only,
            needs: rule.matching.inputs(),
            terms: rule.terms.iter().map(Term::inputs).collect(),
        });
        Self {
            rules: rules.collect(),
            // What was logged is bounded by the log, and each alert is wanted.
            engine: Engine::new(Settings { limits: RuleLimits::WIDEST, ..settings.clone() }),
            settings: settings.clone(),
            not_evaluable: BTreeMap::new(),
        }
    }

    /// Lets the rules see records; hands on what comes of each.
    pub(crate) fn ingest(&mut self, records: &[TimedRecord], mut emit: impl FnMut(&Effects)) {
        let mut effects = Effects::default();
        for batch in records.chunks(Engine::AHEAD) {
            self.engine.prefetch(batch.iter().map(|record| &record.record));
            for TimedRecord { at, record } in batch {
                if record.inputs != Inputs::all() {
                    self.count_not_evaluable(record);
                }
                self.engine.record_into(*at, record, &mut effects);
                emit(&effects);
                effects.clear();
            }
        }
    }

    /// Lets time pass.
    pub(crate) fn tick(&mut self, now: Time, mut emit: impl FnMut(&Effects)) {
        emit(&self.engine.tick(now));
    }

    /// What could not be judged, in the order of the rules and their terms.
    pub(crate) fn not_evaluable(&self) -> Vec<NotEvaluable> {
        let describe = |((rule, term, missing), records): (&(usize, Option<usize>, Inputs), &u64)| {
            let rule = self.settings.rules.get(*rule)?;
            let term = term.and_then(|term| rule.terms.get(term)).map(|term| term.measure.name());
            Some(NotEvaluable { rule: Arc::clone(&rule.name), term, missing: *missing, records: *records })
        };
        self.not_evaluable.iter().filter_map(describe).collect()
    }

    /// Counts a record for the rules, or terms, that it would matter to but does not tell what they need.
    fn count_not_evaluable(&mut self, record: &FlowRecord) {
        let ends = Ends::of(&record.flow, &self.settings.internal);
        for (rule, requirements) in self.rules.iter().enumerate() {
            let missing = requirements.needs - record.inputs;
            let terms = requirements.terms.iter().enumerate();
            let missed = match missing.is_empty() {
                false => vec![(rule, None, missing)],
                true => {
                    let terms = terms.map(|(term, needs)| (rule, Some(term), *needs - record.inputs));
                    terms.filter(|(_, _, missing)| !missing.is_empty()).collect()
                }
            };
            if missed.is_empty()
                || requirements.sessions_only && has_no_session(record)
                || requirements.ends.check(&record.flow, record.app, &ends, self.settings.epoch).is_err()
            {
                continue;
            }
            // A rule of one term stands for it.
            let single = requirements.terms.len() == 1;
            for (rule, term, missing) in missed {
                let term = term.filter(|_| !single);
                *self.not_evaluable.entry((rule, term, missing)).or_default() += 1;
            }
        }
    }
}

/// Returns true if the record tells that there was no session.
fn has_no_session(FlowRecord { flow, inputs, .. }: &FlowRecord) -> bool {
    inputs.contains(Inputs::SYN | Inputs::SYN_ACK) && (flow.facts.syn == 0 || flow.facts.syn_ack == 0)
}
