//! Rules over records that do not tell everything.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    engine::{
        Engine,
        event::Effects,
        flow::FlowRecord,
        inputs::Inputs,
        rule::Ends,
        settings::{Match, Settings},
        time::Time,
    },
    flowlog::history::Arrival,
};

/// Records that a rule could not judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unjudged {
    pub(super) rule: Arc<str>,
    /// What they lack.
    pub(super) lacking: Inputs,
    pub(super) records: u64,
}

/// The rules, apart by what they must be told.
pub(super) struct Judges {
    judges: Vec<Judge>,
    settings: Settings,
}

/// The rules that need the same, with an engine of their own: a record that does not tell it is none
/// of theirs.
struct Judge {
    needs: Inputs,
    /// What they look at beside sizes.
    rules: Vec<(Arc<str>, Match)>,
    engine: Engine,
    unjudged: BTreeMap<(usize, Inputs), u64>,
}

impl Judges {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut apart: Vec<(Inputs, Settings)> = Vec::new();
        for rule in &settings.rules {
            let needs = rule.inputs();
            match apart.iter_mut().find(|(needed, _)| *needed == needs) {
                Some((_, settings)) => settings.rules.push(rule.clone()),
                None => apart.push((needs, Settings { rules: vec![rule.clone()], ..settings.clone() })),
            }
        }
        let judge = |(needs, settings): (Inputs, Settings)| {
            let sizeless = settings.rules.iter().map(|rule| Match { size: None, ..rule.matching.clone() });
            let names = settings.rules.iter().map(|rule| Arc::clone(&rule.name));
            let rules = names.zip(sizeless).collect();
            Judge { needs, rules, engine: Engine::new(settings), unjudged: BTreeMap::new() }
        };
        let judges = apart.into_iter().map(judge).collect();
        Self { judges, settings: settings.clone() }
    }

    /// Lets every rule see a record that tells what it needs.
    pub(super) fn see(&mut self, Arrival { at, record }: Arrival, mut hand_on: impl FnMut(&Effects)) {
        for judge in &mut self.judges {
            let lacking = judge.needs - record.inputs;
            if lacking.is_empty() {
                hand_on(&judge.engine.record(at, Arc::clone(&record)));
            } else {
                judge.pass_over(&record, lacking, &self.settings);
                hand_on(&judge.engine.tick(at));
            }
        }
    }

    /// Lets time pass.
    pub(super) fn tick(&mut self, now: Time, mut hand_on: impl FnMut(&Effects)) {
        self.judges.iter_mut().for_each(|judge| hand_on(&judge.engine.tick(now)));
    }

    /// What could not be judged, in the order of the rules.
    pub(super) fn unjudged(&self) -> Vec<Unjudged> {
        let mut unjudged = Vec::new();
        for rule in &self.settings.rules {
            for judge in &self.judges {
                let of_rule =
                    judge.unjudged.iter().filter(|((index, _), _)| judge.rules[*index].0 == rule.name);
                unjudged.extend(of_rule.map(|((_, lacking), records)| Unjudged {
                    rule: Arc::clone(&rule.name),
                    lacking: *lacking,
                    records: *records,
                }));
            }
        }
        unjudged
    }
}

impl Judge {
    /// Counts a record for the rules that it would matter to.
    fn pass_over(&mut self, record: &FlowRecord, lacking: Inputs, settings: &Settings) {
        let ends = Ends::of(&record.flow, &settings.internal);
        for (index, (_, matching)) in self.rules.iter().enumerate() {
            if matching.check(&record.flow, record.app, ends).is_ok() {
                *self.unjudged.entry((index, lacking)).or_default() += 1;
            }
        }
    }
}
