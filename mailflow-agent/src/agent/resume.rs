//! Going on where an agent before stopped, however it did.

use std::{
    collections::{HashMap, HashSet},
    iter,
    sync::Arc,
};

use anyhow::Result;
use mailflow_common::FlowKey;
use tracing::info;

use super::{keeper::Keeper, pipeline::Sinks};
use crate::{
    clock,
    engine::{
        Engine, Known,
        event::{self, Alert, Effects},
        flow::{Finished, Flow, FlowRecord, RecordReason},
        time::{Epoch, Time},
    },
    kernel::{Begun, Kernel},
    state::{Entry, Past, Recovered, State, Told, Written},
};

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Resumed {
    /// Records that the rules judged again.
    pub(super) judged: usize,
    /// Alerts that had not been told.
    pub(super) alerts: usize,
    /// Flows that were booked from the journal.
    pub(super) booked: usize,
}

/// Brings the kernel's seam, the engine and the outputs to where the agent before was, and does what it had
/// begun and not finished.
pub(super) fn resume(
    kernel: &mut Kernel,
    begun: Begun,
    engine: &mut Engine,
    sinks: &Sinks,
    keeper: &mut Keeper,
    recovered: Recovered,
) -> Result<Resumed> {
    let Recovered { state: Some(mut state), journal, history, mut written } = recovered else {
        return Ok(Resumed::default());
    };
    let mut resumed = Resumed::default();
    if begun != Begun::Anew {
        engine.know(&known(&mut state));
    }
    let now = state.now;
    sinks.resume_alerts(state.firing);
    let epochs: HashMap<String, i128> = state.epochs.into_iter().collect();
    if state.rules.is_readable() {
        for rule in engine.restore(state.rules).forgotten {
            info!(%rule, "the rule is gone or means something else now: its windows begin anew");
        }
    }
    let judged = judge_again(engine, sinks, &history, &mut resumed);
    // What is delivered since the state was kept is in the history.
    let delivered = told(&history);
    state.untold.retain(|untold| !delivered.contains(&Told::of(&untold.event.event().0)));
    let behind: HashSet<String> = state.untold.iter().flat_map(|untold| untold.sinks.clone()).collect();
    resumed.alerts += state.untold.len();
    keeper.tell(state.untold.iter().map(|untold| Told::of(&untold.event.event().0)));
    sinks.outputs().write_untold(&state.untold, &mut written);
    let mut teller = Teller { sinks, keeper, behind, written };
    let polls = polls(journal, now);
    let mut missed = judged.missed;
    for poll in &polls {
        let epoch = Epoch::from_unix_nanos(poll.epoch);
        let mut lines = Effects::default();
        engine.begin_again(poll.now);
        for entry in &poll.entries {
            let again = Again { kernel, begun, engine, judged: &judged.records, poll };
            let effects = again.one(entry, &mut lines.records)?;
            resumed.booked += usize::from(effects.is_some());
            if let Some(mut effects) = effects {
                lines.records.append(&mut effects.records);
                // They take their lines with them, which may be in the files already.
                sinks.book(poll.now, &effects);
            }
        }
        let alerts = std::mem::take(&mut missed);
        if poll.unwritten {
            resumed.alerts += teller.tell(Effects { alerts, ..lines }, epoch);
        } else {
            missed = alerts;
        }
    }
    let epoch = polls.last().map_or_else(clock::epoch, |poll| Epoch::from_unix_nanos(poll.epoch));
    resumed.alerts += teller.tell(Effects { alerts: missed, ..Effects::default() }, epoch);
    // Whoever must know what fires has heard it from a process that is gone.
    let now = clock::epoch();
    let firing = engine.firing().into_iter().map(|alert| {
        let epoch = epochs.get(&alert.fingerprint).map_or(now, |epoch| Epoch::from_unix_nanos(*epoch));
        (Arc::new(alert), epoch)
    });
    sinks.outputs().remind(firing);
    info!(
        records = resumed.judged,
        alerts = resumed.alerts,
        flows = resumed.booked,
        "went on where the agent before stopped"
    );
    Ok(resumed)
}

fn known(state: &mut State) -> Known {
    Known { now: Time::from_nanos(state.seen), seeds: state.seeds, flows: std::mem::take(&mut state.flows) }
}

/// Which record of a flow: of which beginning, whether it was the last one, and of which moment.
type Which = (FlowKey, Time, bool, Time);

fn which(flow: &Flow, last: bool) -> Which {
    (flow.key, flow.first, last, flow.last())
}

struct JudgedAgain {
    /// The records that the rules have judged.
    records: HashSet<Which>,
    /// Alerts that were not told.
    missed: Vec<Alert>,
}

/// Lets the rules see again what they saw; alerts that were told are not told again.
fn judge_again(engine: &mut Engine, sinks: &Sinks, history: &[Past], resumed: &mut Resumed) -> JudgedAgain {
    let told = told(history);
    let mut again = JudgedAgain { records: HashSet::new(), missed: Vec::new() };
    for past in history {
        let Past::Judged(judged) = past else { continue };
        resumed.judged += 1;
        if !judged.open {
            again.records.insert(which(&judged.flow, judged.reason != RecordReason::Active));
        }
        let record = engine.record_for(&judged.flow, judged.reason);
        let shown = event::Judged { at: judged.at, record: &record, open: judged.open };
        let effects = engine.judge_again(shown);
        sinks.told(&effects.alerts);
        again.missed.extend(effects.alerts.into_iter().filter(|alert| !told.contains(&Told::of(alert))));
    }
    again
}

/// A poll of the agent before.
struct Poll {
    now: Time,
    epoch: i128,
    entries: Vec<Entry>,
    /// Whether the state has it.
    kept: bool,
    /// Whether it was finished.
    over: bool,
    /// Whether its lines may be missing.
    unwritten: bool,
}

/// The polls in the journal, oldest first.
fn polls(journal: Vec<Entry>, state: u64) -> Vec<Poll> {
    let mut polls: Vec<Poll> = Vec::new();
    for entry in journal {
        match (entry, polls.last_mut()) {
            (Entry::Poll { now, epoch }, _) => {
                polls.push(Poll {
                    now,
                    epoch,
                    entries: Vec::new(),
                    kept: false,
                    over: false,
                    unwritten: true,
                });
            }
            (Entry::Written(_), _) => polls.iter_mut().for_each(|poll| poll.unwritten = false),
            // A state that was about to be written when the agent died is not there.
            (Entry::Kept(now), _) if now <= state => polls.iter_mut().for_each(|poll| poll.kept = true),
            (Entry::Kept(_), _) | (_, None) => {}
            (Entry::Over, Some(poll)) => poll.over = true,
            (entry, Some(poll)) => poll.entries.push(entry),
        }
    }
    polls
}

/// Doing an entry again.
struct Again<'a> {
    kernel: &'a mut Kernel,
    begun: Begun,
    engine: &'a mut Engine,
    judged: &'a HashSet<Which>,
    poll: &'a Poll,
}

impl Again<'_> {
    /// What was not done or booked is done now; its effects. `lines` gets records that were made before.
    fn one(mut self, entry: &Entry, lines: &mut Vec<FlowRecord>) -> Result<Option<Effects>> {
        let resumed = self.begun != Begun::Anew;
        match entry {
            Entry::Ended(flow) => {
                if self.lived(flow) || (!self.poll.over && resumed && self.kernel.holds(flow)?) {
                    return Ok(None);
                }
                if self.poll.kept {
                    lines.push(self.engine.last_record(flow));
                    return Ok(None);
                }
                if resumed {
                    self.kernel.book_removed(flow);
                }
                Ok(Some(self.ended(
                    flow,
                    |engine| engine.conclude_ended(flow),
                    |engine| engine.last_record(flow),
                )))
            }
            Entry::Finished(finished, sums) => {
                if !self.poll.over && resumed && self.kernel.holds_finished(&finished.flow)? {
                    return Ok(None);
                }
                if self.poll.kept {
                    lines.push(self.engine.finished_record(finished));
                    return Ok(None);
                }
                if resumed {
                    self.kernel.book_finished(finished, sums);
                }
                let Finished { flow, .. } = finished;
                let conclude = |engine: &mut Engine| engine.finish(std::slice::from_ref(finished));
                Ok(Some(self.ended(flow, conclude, |engine| engine.finished_record(finished))))
            }
            Entry::Active(flow) if self.poll.kept => {
                lines.push(self.engine.record_for(flow, RecordReason::Active));
                Ok(None)
            }
            Entry::Active(flow) if self.poll.over || self.judged.contains(&which(flow, false)) => {
                lines.push(self.engine.record_for(flow, RecordReason::Active));
                let deltas = self.engine.recall(flow).into_iter().collect();
                Ok(Some(Effects { deltas, ..Effects::default() }))
            }
            Entry::Active(flow) => Ok(Some(self.engine.look(std::slice::from_ref(flow)))),
            Entry::Spilled(spill) => {
                if !self.poll.kept && resumed && !self.kernel.holds_spill(&spill.key)? {
                    self.kernel.book_spilled(spill);
                    return Ok(Some(self.engine.overflow(std::slice::from_ref(spill))));
                }
                Ok(None)
            }
            Entry::Lives(_) | Entry::Poll { .. } | Entry::Over | Entry::Written(_) | Entry::Kept(_) => {
                Ok(None)
            }
        }
    }

    /// Whether the kernel kept the flow: it had gained packets.
    fn lived(&self, flow: &Flow) -> bool {
        let same = |entry: &Entry| matches!(entry, Entry::Lives(lives) if (lives.key, lives.first) == (flow.key, flow.first));
        self.poll.entries.iter().any(same)
    }

    /// A flow that is out of the tables: the rules see its record unless they have.
    fn ended(
        &mut self,
        flow: &Flow,
        conclude: impl FnOnce(&mut Engine) -> Effects,
        record: impl FnOnce(&Engine) -> FlowRecord,
    ) -> Effects {
        if !self.poll.over && !self.judged.contains(&which(flow, true)) {
            return conclude(self.engine);
        }
        let deltas = self.engine.forget(flow).into_iter().collect();
        Effects { deltas, records: vec![record(self.engine)], ..Effects::default() }
    }
}

/// The alerts that were delivered.
fn told(history: &[Past]) -> HashSet<&Told> {
    let told = history.iter().filter_map(|past| match past {
        Past::Told(told) => Some(told),
        Past::Judged(_) | Past::Kept(_) => None,
    });
    told.collect()
}

/// Hands over what may not have been told.
struct Teller<'a> {
    sinks: &'a Sinks,
    keeper: &'a mut Keeper,
    /// Sinks that had not delivered all.
    behind: HashSet<String>,
    /// What the files have already.
    written: Written,
}

impl Teller<'_> {
    /// How many alerts there were.
    fn tell(&mut self, effects: Effects, epoch: Epoch) -> usize {
        self.keeper.take(iter::empty(), &effects);
        let behind = |name: &str| self.behind.contains(name);
        self.sinks.outputs().write_missing(&effects, epoch, &mut self.written, &behind);
        effects.alerts.len()
    }
}
