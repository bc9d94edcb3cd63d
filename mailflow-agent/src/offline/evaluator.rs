//! Rules over records that do not tell everything.

use std::{collections::BTreeMap, sync::Arc};

use super::flowlog::history::Arrival;
use mailflow_engine::{
    Engine,
    event::Effects,
    flow::FlowRecord,
    flow::RecordFields,
    network::Endpoints,
    settings::{Match, RuleLimits, Settings, Term},
    time::Time,
};

/// Records that a rule, or a term of its condition, could not judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unjudged {
    pub(crate) rule: Arc<str>,
    /// The term, where the rule's other terms could.
    pub(crate) term: Option<String>,
    /// What they lack.
    pub(crate) lacking: RecordFields,
    pub(crate) records: u64,
}

/// The rules, and what they could not judge. The engine leaves out what a record does not tell.
pub(crate) struct Judges {
    engine: Engine,
    settings: Settings,
    rules: Vec<Judge>,
    unjudged: BTreeMap<(usize, Option<usize>, RecordFields), u64>,
}

/// What a rule must be told.
struct Judge {
    /// Of a flow's ends and kind: what every record tells.
    ends: Match,
    sessions_only: bool,
    needs: RecordFields,
    terms: Vec<RecordFields>,
}

impl Judges {
    pub(crate) fn new(settings: &Settings) -> Self {
        let rules = settings.rules.iter().map(|rule| Judge {
            ends: Match { size: None, sessions_only: false, bounds: Vec::new(), ..rule.matching.clone() },
            sessions_only: rule.matching.sessions_only,
            needs: rule.matching.required_fields(),
            terms: rule.terms.iter().map(Term::required_fields).collect(),
        });
        Self {
            rules: rules.collect(),
            // What was logged is bounded by the log, and each alert is wanted.
            engine: Engine::new(Settings { limits: RuleLimits::WIDEST, ..settings.clone() }),
            settings: settings.clone(),
            unjudged: BTreeMap::new(),
        }
    }

    /// Lets the rules see records; hands on what comes of each.
    pub(crate) fn see(&mut self, arrivals: &[Arrival], mut hand_on: impl FnMut(&Effects)) {
        let mut effects = Effects::default();
        for some in arrivals.chunks(Engine::PREFETCH_RECORDS) {
            self.engine.prefetch(some.iter().map(|arrival| &arrival.record));
            for Arrival { at, record } in some {
                if record.fields != RecordFields::all() {
                    self.note(record);
                }
                self.engine.ingest_record_into(*at, record, &mut effects);
                hand_on(&effects);
                effects.clear();
            }
        }
    }

    /// Lets time pass.
    pub(crate) fn tick(&mut self, now: Time, mut hand_on: impl FnMut(&Effects)) {
        hand_on(&self.engine.tick(now));
    }

    /// What could not be judged, in the order of the rules and their terms.
    pub(crate) fn unjudged(&self) -> Vec<Unjudged> {
        let named = |((rule, term, lacking), records): (&(usize, Option<usize>, RecordFields), &u64)| {
            let rule = self.settings.rules.get(*rule)?;
            let term = term.and_then(|term| rule.terms.get(term)).map(|term| term.measure.name());
            Some(Unjudged { rule: Arc::clone(&rule.name), term, lacking: *lacking, records: *records })
        };
        self.unjudged.iter().filter_map(named).collect()
    }

    /// Counts a record for the rules, or terms, that it would matter to but does not tell what they need.
    fn note(&mut self, record: &FlowRecord) {
        let ends = Endpoints::of(&record.flow, &self.settings.internal);
        for (rule, judge) in self.rules.iter().enumerate() {
            let lacking = judge.needs - record.fields;
            let terms = judge.terms.iter().enumerate();
            let missed = match lacking.is_empty() {
                false => vec![(rule, None, lacking)],
                true => {
                    let terms = terms.map(|(term, needs)| (rule, Some(term), *needs - record.fields));
                    terms.filter(|(_, _, lacking)| !lacking.is_empty()).collect()
                }
            };
            if missed.is_empty()
                || judge.sessions_only && no_session(record)
                || judge.ends.check(&record.flow, record.app, &ends, self.settings.clock_offset).is_err()
            {
                continue;
            }
            // A rule of one term stands for it.
            let single = judge.terms.len() == 1;
            for (rule, term, lacking) in missed {
                let term = term.filter(|_| !single);
                *self.unjudged.entry((rule, term, lacking)).or_default() += 1;
            }
        }
    }
}

/// Returns true if the record tells that there was no session.
fn no_session(FlowRecord { flow, fields: inputs, .. }: &FlowRecord) -> bool {
    inputs.contains(RecordFields::SYN | RecordFields::SYN_ACK)
        && (flow.facts.syn == 0 || flow.facts.syn_ack == 0)
}
