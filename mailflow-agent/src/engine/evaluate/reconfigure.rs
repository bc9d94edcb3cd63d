//! Other rules while there are windows and incidents.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{
    super::{
        event::{Alert, Source, Value},
        settings::Rule,
    },
    Counted, Evaluator, Shape, State, Watch,
};

/// What became of the rules before.
#[derive(Debug, Default)]
pub(in super::super) struct Changed {
    /// The rules whose windows begin anew.
    pub(in super::super) restarted: Vec<Arc<str>>,
    /// The ends of the incidents whose rule is gone.
    pub(in super::super) alerts: Vec<Alert>,
    /// Of each rule before, its index now; none where its flows are to be counted anew.
    moved: Vec<Option<usize>>,
}

impl Evaluator {
    /// From now on these are the rules. One of the same name keeps its windows, unless its match or window
    /// is another; its incidents go on in any case. The new thresholds hold from a source's next flow on.
    pub(in super::super) fn reconfigure(&mut self, rules: Vec<Rule>, lateness: Duration) -> Changed {
        let mut changed = Changed { moved: vec![None; self.watches.len()], ..Changed::default() };
        let before = std::mem::take(&mut self.watches);
        let mut before: HashMap<Arc<str>, (usize, Watch)> = before
            .into_iter()
            .enumerate()
            .map(|(n, watch)| (Arc::clone(&watch.rule.name), (n, watch)))
            .collect();
        for (index, rule) in rules.into_iter().enumerate() {
            let shape = Shape::new(&rule, lateness);
            let mut sources = HashMap::default();
            if let Some((was, watch)) = before.remove(&rule.name) {
                sources = watch.sources;
                if watch.rule.matching == rule.matching && watch.rule.window == rule.window {
                    changed.moved[was] = Some(index);
                } else {
                    changed.restarted.push(Arc::clone(&rule.name));
                    sources.values_mut().for_each(|watched| watched.window = Default::default());
                }
            }
            self.watches.push(Watch { rule, shape, sources });
        }
        let mut gone: Vec<(Source, State)> = Vec::new();
        for (_, watch) in before.into_values() {
            gone.extend(watch.sources.into_iter().map(|(source, watched)| (source, watched.state)));
        }
        for (_, state) in gone {
            if let State::Firing(incident) = state {
                changed.alerts.push(incident.resolve(self.clock, Value::Exactly(0)).0);
            }
        }
        changed.alerts.sort_by(|one, other| (&one.rule, one.source).cmp(&(&other.rule, other.source)));
        self.schedule();
        changed
    }

    /// Notes every incident's next deadline.
    pub(super) fn schedule(&mut self) {
        self.deadlines.clear();
        for (index, watch) in self.watches.iter().enumerate() {
            for (source, watched) in &watch.sources {
                if let State::Firing(incident) = &watched.state {
                    self.deadlines.insert((incident.deadline(&watch.rule), index, *source));
                }
            }
        }
    }
}

impl Changed {
    /// The rules that have counted a flow, by their indices now.
    pub(in super::super) fn moved(&self, counted: Counted) -> Counted {
        let mut now = Counted::default();
        for (was, index) in self.moved.iter().enumerate() {
            if let Some(index) = index
                && counted.has(was)
            {
                now.set(*index);
            }
        }
        now
    }
}
