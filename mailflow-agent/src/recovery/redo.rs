//! What an agent before had begun and not finished, done again: what its rules judged, and its polls.
//!
//! It knows the tables and whoever hears of alerts by what they do, so that tests can let it go on over tables of
//! their own.

use std::{collections::HashSet, io};

use mailflow_common::{FlowKey, SourceOverflowKey};

use super::store::{Entry, Past, Told};
use mailflow_engine::{
    Engine,
    event::{self, Alert, Effects},
    flow::SourceOverflow,
    flow::{Flow, FlowRecord, RecordReason, SupersededFlow},
    time::{Time, WallClockOffset},
};

/// The tables, where they are those of the agent before.
pub trait Tables {
    /// Returns true if the maps still have the flow.
    ///
    /// # Errors
    /// They cannot be asked; the same below.
    fn holds(&self, flow: &Flow) -> io::Result<bool>;
    /// Returns true if the map of superseded flows still has the flow.
    ///
    /// # Errors
    /// See [`Tables::holds`].
    fn holds_finished(&self, flow: &Flow) -> io::Result<bool>;
    /// Returns true if the overflow map still has the source.
    ///
    /// # Errors
    /// See [`Tables::holds`].
    fn holds_spill(&self, key: &SourceOverflowKey) -> io::Result<bool>;
    /// A flow was taken out, and is in no number yet.
    fn book_removed(&mut self, flow: &Flow);
    /// The same of one that another followed, with its entry's sums.
    fn book_finished(&mut self, finished: &SupersededFlow, sums: &[u8]);
    /// The same of a source's overflow.
    fn book_spilled(&mut self, spill: &SourceOverflow);
}

/// Who hears of what comes of it.
pub trait Hearers {
    /// These alerts are told again now, or were told by the agent before.
    fn told(&mut self, alerts: &[Alert]);
    /// What flows gained, in a poll at `now`.
    fn book(&mut self, now: Time, effects: &Effects);
    /// Records and alerts that may not have been written or told.
    fn tell(&mut self, effects: Effects, epoch: WallClockOffset);
}

/// Which record of a flow: of which beginning, whether it was the last one, and of which moment.
type Which = (FlowKey, Time, bool, Time);

fn which(flow: &Flow, last: bool) -> Which {
    (flow.key, flow.first, last, flow.last())
}

/// What the rules have judged again.
#[derive(Debug, Default)]
pub struct JudgedAgain {
    /// Number of records and looks at open flows.
    pub number: usize,
    records: HashSet<Which>,
    /// Alerts that were not told.
    missed: Vec<Alert>,
}

/// Lets the rules see again what they saw, and time pass as it did; alerts that were told are not told again.
pub fn judge_again(engine: &mut Engine, history: &[Past], hearers: &mut impl Hearers) -> JudgedAgain {
    let told = told(history);
    let mut again = JudgedAgain::default();
    for past in history {
        let effects = match past {
            Past::Judged(judged) => {
                again.number += 1;
                if !judged.open {
                    again.records.insert(which(&judged.flow, judged.reason != RecordReason::Active));
                }
                let record = engine.build_record(&judged.flow, judged.reason);
                engine.replay_input(event::RuleInput { at: judged.at, record: &record, live: judged.open })
            }
            Past::Passed(now) => engine.tick(*now),
            Past::Epoch(epoch) => {
                engine.set_clock_offset(WallClockOffset::from_unix_nanos(*epoch));
                continue;
            }
            Past::Told(_) | Past::Kept(_) => continue,
        };
        hearers.told(&effects.alerts);
        again.missed.extend(effects.alerts.into_iter().filter(|alert| !told.contains(&Told::of(alert))));
    }
    again
}

/// The alerts that were delivered.
pub(crate) fn told(history: &[Past]) -> HashSet<&Told> {
    let told = history.iter().filter_map(|past| match past {
        Past::Told(told) => Some(told),
        _ => None,
    });
    told.collect()
}

/// Does what the polls in `journal` had begun, after a state of the moment `kept`; `tables` are there unless they
/// began anew. Tells what was missed. Gives the number of flows that were booked.
///
/// # Errors
/// The tables cannot be asked.
pub fn finish(
    engine: &mut Engine,
    mut tables: Option<&mut impl Tables>,
    (journal, kept): (Vec<Entry>, Time),
    judged: JudgedAgain,
    (hearers, epoch): (&mut impl Hearers, WallClockOffset),
) -> io::Result<usize> {
    let polls = polls(journal, kept);
    let JudgedAgain { records, mut missed, .. } = judged;
    let mut booked = 0;
    for poll in &polls {
        let mut lines = Effects::default();
        engine.begin_recovered_poll(poll.now);
        for entry in &poll.entries {
            let again = Again { tables: tables.as_deref_mut(), engine, judged: &records, poll };
            let effects = again.one(entry, &mut lines.records)?;
            booked += usize::from(effects.is_some());
            if let Some(mut effects) = effects {
                lines.records.append(&mut effects.records);
                // They take their lines with them, which may be in the files already.
                hearers.book(poll.now, &effects);
            }
        }
        if poll.unwritten {
            let alerts = std::mem::take(&mut missed);
            hearers.tell(Effects { alerts, ..lines }, WallClockOffset::from_unix_nanos(poll.epoch));
        }
    }
    let epoch = polls.last().map_or(epoch, |poll| WallClockOffset::from_unix_nanos(poll.epoch));
    hearers.tell(Effects { alerts: missed, ..Effects::default() }, epoch);
    Ok(booked)
}

/// A poll of the agent before.
struct Poll {
    now: Time,
    epoch: i128,
    entries: Vec<Entry>,
    /// True if the checkpoint includes this poll.
    kept: bool,
    /// True if the poll was completed.
    over: bool,
    /// True if lines of this poll may be missing in output files.
    unwritten: bool,
}

impl Poll {
    fn new(now: Time, epoch: i128) -> Self {
        Self { now, epoch, entries: Vec::new(), kept: false, over: false, unwritten: true }
    }
}

/// The polls in the journal, oldest first.
fn polls(journal: Vec<Entry>, state: Time) -> Vec<Poll> {
    let mut polls: Vec<Poll> = Vec::new();
    for entry in journal {
        match (entry, polls.last_mut()) {
            (Entry::Poll { now, epoch }, _) => polls.push(Poll::new(now, epoch)),
            (Entry::Written(_), _) => polls.iter_mut().for_each(|poll| poll.unwritten = false),
            // A state that was about to be written when the agent died is not there.
            (Entry::Kept(now), _) if now <= state.as_nanos() => {
                polls.iter_mut().for_each(|poll| poll.kept = true);
            }
            (Entry::Kept(_), _) | (_, None) => {}
            (Entry::Over, Some(poll)) => poll.over = true,
            (entry, Some(poll)) => poll.entries.push(entry),
        }
    }
    polls
}

/// Doing an entry again.
struct Again<'a, T> {
    tables: Option<&'a mut T>,
    engine: &'a mut Engine,
    judged: &'a HashSet<Which>,
    poll: &'a Poll,
}

impl<T: Tables> Again<'_, T> {
    /// What was not done or booked is done now; its effects. `lines` gets records that were made before.
    fn one(mut self, entry: &Entry, lines: &mut Vec<FlowRecord>) -> io::Result<Option<Effects>> {
        match entry {
            Entry::Ended(flow) => {
                if self.lived(flow) || (!self.poll.over && self.asks(|tables| tables.holds(flow))?) {
                    return Ok(None);
                }
                if self.poll.kept {
                    lines.push(self.engine.final_record(flow));
                    return Ok(None);
                }
                if let Some(tables) = &mut self.tables {
                    tables.book_removed(flow);
                }
                Ok(Some(self.ended(
                    flow,
                    |engine| engine.redo_final_record(flow),
                    |engine| engine.final_record(flow),
                )))
            }
            Entry::Finished(finished, sums) => {
                let SupersededFlow { flow, .. } = finished;
                if !self.poll.over && self.asks(|tables| tables.holds_finished(flow))? {
                    return Ok(None);
                }
                if self.poll.kept {
                    lines.push(self.engine.superseded_record(finished));
                    return Ok(None);
                }
                if let Some(tables) = &mut self.tables {
                    tables.book_finished(finished, sums);
                }
                let conclude = |engine: &mut Engine| engine.finish_superseded(std::slice::from_ref(finished));
                Ok(Some(self.ended(flow, conclude, |engine| engine.superseded_record(finished))))
            }
            Entry::Active(flow) if self.poll.kept => {
                lines.push(self.engine.build_record(flow, RecordReason::Active));
                Ok(None)
            }
            Entry::Active(flow) if self.poll.over || self.judged.contains(&which(flow, false)) => {
                lines.push(self.engine.build_record(flow, RecordReason::Active));
                let deltas = self.engine.redo_delta(flow).into_iter().collect();
                Ok(Some(Effects { deltas, ..Effects::default() }))
            }
            Entry::Active(flow) => Ok(Some(self.engine.redo_interim_record(flow))),
            Entry::Spilled(spill) => {
                if self.poll.kept || self.asks(|tables| tables.holds_spill(&spill.key))? {
                    return Ok(None);
                }
                let Some(tables) = &mut self.tables else { return Ok(None) };
                tables.book_spilled(spill);
                Ok(Some(self.engine.observe_overflow(std::slice::from_ref(spill))))
            }
            Entry::Lives(_) | Entry::Poll { .. } | Entry::Over | Entry::Written(_) | Entry::Kept(_) => {
                Ok(None)
            }
        }
    }

    /// What the tables say; no where they are others.
    fn asks(&self, asked: impl FnOnce(&T) -> io::Result<bool>) -> io::Result<bool> {
        self.tables.as_deref().map_or(Ok(false), asked)
    }

    /// Returns true if the kernel kept the flow: it had gained packets.
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
        let deltas = self.engine.drop_flow(flow).into_iter().collect();
        Effects { deltas, records: vec![record(self.engine)], ..Effects::default() }
    }
}
