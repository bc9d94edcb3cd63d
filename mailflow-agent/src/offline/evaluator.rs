//! Evaluation of rules on flow logs, whose records may lack fields that rules need.

use std::{collections::BTreeMap, sync::Arc};

use super::flowlog::timeline::TimedRecord;
use mailflow_engine::{
    Engine,
    event::Effects,
    flow::FlowRecord,
    flow::RecordFields,
    network::Endpoints,
    settings::{Match, RuleLimits, Settings, Term},
    time::Time,
};

/// Number of records that a rule, or a term of its condition, could not evaluate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotEvaluable {
    pub(crate) rule: Arc<str>,
    /// The term, if other terms of the rule could evaluate the records.
    pub(crate) term: Option<String>,
    /// Fields that the records lack.
    pub(crate) missing: RecordFields,
    pub(crate) records: u64,
}

/// Engine with the rules, and counts of the records that they cannot evaluate. The engine ignores fields
/// that a record lacks.
pub(crate) struct BacktestEvaluator {
    engine: Engine,
    settings: Settings,
    rules: Vec<RuleRequirements>,
    not_evaluable: BTreeMap<(usize, Option<usize>, RecordFields), u64>,
}

/// Fields that a rule needs.
struct RuleRequirements {
    /// Match of the rule without the parts for which a record may lack the fields.
    matching: Match,
    sessions_only: bool,
    needs: RecordFields,
    terms: Vec<RecordFields>,
}

impl BacktestEvaluator {
    pub(crate) fn new(settings: &Settings) -> Self {
        let rules = settings.rules.iter().map(|rule| RuleRequirements {
            matching: Match { size: None, sessions_only: false, bounds: Vec::new(), ..rule.matching.clone() },
            sessions_only: rule.matching.sessions_only,
            needs: rule.matching.required_fields(),
            terms: rule.terms.iter().map(Term::required_fields).collect(),
        });
        Self {
            rules: rules.collect(),
            // The size of the log bounds memory, and no alert is to be dropped.
            engine: Engine::new(Settings { limits: RuleLimits::WIDEST, ..settings.clone() }),
            settings: settings.clone(),
            not_evaluable: BTreeMap::new(),
        }
    }

    /// Evaluates the rules on records, and emits the effects of each.
    pub(crate) fn ingest(&mut self, records: &[TimedRecord], mut emit: impl FnMut(&Effects)) {
        let mut effects = Effects::default();
        for batch in records.chunks(Engine::PREFETCH_RECORDS) {
            self.engine.prefetch(batch.iter().map(|record| &record.record));
            for TimedRecord { at, record } in batch {
                if record.fields != RecordFields::all() {
                    self.count_not_evaluable(record);
                }
                self.engine.ingest_record_into(*at, record, &mut effects);
                emit(&effects);
                effects.clear();
            }
        }
    }

    /// Advances time to `now`, and emits the effects.
    pub(crate) fn tick(&mut self, now: Time, mut emit: impl FnMut(&Effects)) {
        emit(&self.engine.tick(now));
    }

    /// Returns the counts of records that could not be evaluated, in the order of the rules and their terms.
    pub(crate) fn not_evaluable(&self) -> Vec<NotEvaluable> {
        let describe = |((rule, term, missing), records): (&(usize, Option<usize>, RecordFields), &u64)| {
            let rule = self.settings.rules.get(*rule)?;
            let term = term.and_then(|term| rule.terms.get(term)).map(|term| term.measure.name());
            Some(NotEvaluable { rule: Arc::clone(&rule.name), term, missing: *missing, records: *records })
        };
        self.not_evaluable.iter().filter_map(describe).collect()
    }

    /// Counts a record for each rule or term that it would match, but whose fields it lacks.
    fn count_not_evaluable(&mut self, record: &FlowRecord) {
        let matching = Endpoints::of(&record.flow, &self.settings.internal);
        for (rule, requirements) in self.rules.iter().enumerate() {
            let missing = requirements.needs - record.fields;
            let terms = requirements.terms.iter().enumerate();
            let missed = match missing.is_empty() {
                false => vec![(rule, None, missing)],
                true => {
                    let terms = terms.map(|(term, needs)| (rule, Some(term), *needs - record.fields));
                    terms.filter(|(_, _, missing)| !missing.is_empty()).collect()
                }
            };
            if missed.is_empty()
                || requirements.sessions_only && has_no_session(record)
                || requirements
                    .matching
                    .check(&record.flow, record.app, &matching, self.settings.clock_offset)
                    .is_err()
            {
                continue;
            }
            // A rule of one term is reported as the rule.
            let single = requirements.terms.len() == 1;
            for (rule, term, missing) in missed {
                let term = term.filter(|_| !single);
                *self.not_evaluable.entry((rule, term, missing)).or_default() += 1;
            }
        }
    }
}

/// Returns true if the record shows that the connection was not established.
fn has_no_session(FlowRecord { flow, fields: inputs, .. }: &FlowRecord) -> bool {
    inputs.contains(RecordFields::SYN | RecordFields::SYN_ACK)
        && (flow.facts.syn == 0 || flow.facts.syn_ack == 0)
}
