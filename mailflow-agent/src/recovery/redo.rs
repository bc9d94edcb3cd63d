//! What an agent before had begun and not finished, done again: what its rules judged, and its polls.
//!
//! It knows the tables and whoever hears of alerts by what they do, so that tests can let it go on over tables of
//! their own.

use std::{collections::HashSet, io};

use mailflow_common::{FlowKey, SourceOverflowKey};

use super::state_dir::{AlertEventId, InputLogRecord, JournalRecord};
use mailflow_engine::{
    Engine,
    event::{self, Alert, Effects},
    flow::{Finished, Flow, FlowRecord, RecordReason},
    spill::Spill,
    time::{Epoch, Time},
};

/// The tables, where they are those of the agent before.
pub trait MapAccess {
    /// Returns true if the maps still have the flow.
    ///
    /// # Errors
    /// They cannot be asked; the same below.
    fn contains_flow(&self, flow: &Flow) -> io::Result<bool>;
    /// Returns true if the map of superseded flows still has the flow.
    ///
    /// # Errors
    /// See [`MapAccess::holds`].
    fn contains_superseded(&self, flow: &Flow) -> io::Result<bool>;
    /// Returns true if the overflow map still has the source.
    ///
    /// # Errors
    /// See [`MapAccess::holds`].
    fn contains_overflow(&self, key: &SourceOverflowKey) -> io::Result<bool>;
    /// A flow was taken out, and is in no number yet.
    fn account_evicted(&mut self, flow: &Flow);
    /// The same of one that another followed, with its entry's sums.
    fn account_superseded(&mut self, finished: &Finished, sums: &[u8]);
    /// The same of a source's overflow.
    fn account_overflow(&mut self, spill: &Spill);
}

/// Who hears of what comes of it.
pub trait RecoverySink {
    /// These alerts are told again now, or were told by the agent before.
    fn record_alerts(&mut self, alerts: &[Alert]);
    /// What flows gained, in a poll at `now`.
    fn add_to_metrics(&mut self, now: Time, effects: &Effects);
    /// Records and alerts that may not have been written or told.
    fn emit_missing(&mut self, effects: Effects, epoch: Epoch);
}

/// Which record of a flow: of which beginning, whether it was the last one, and of which moment.
type RecordId = (FlowKey, Time, bool, Time);

fn record_id(flow: &Flow, last: bool) -> RecordId {
    (flow.key, flow.first, last, flow.last())
}

/// What the rules have judged again.
#[derive(Debug, Default)]
pub struct ReplayOutcome {
    /// Number of records and looks at open flows.
    pub inputs_replayed: usize,
    records: HashSet<RecordId>,
    /// Alerts that were not told.
    missed: Vec<Alert>,
}

/// Lets the rules see again what they saw, and time pass as it did; alerts that were told are not told again.
pub fn replay_inputs(
    engine: &mut Engine,
    inputs: &[InputLogRecord],
    sink: &mut impl RecoverySink,
) -> ReplayOutcome {
    let delivered = delivered_alerts(inputs);
    let mut outcome = ReplayOutcome::default();
    for record in inputs {
        let effects = match record {
            InputLogRecord::Input(input) => {
                outcome.inputs_replayed += 1;
                if !input.open {
                    outcome.records.insert(record_id(&input.flow, input.reason != RecordReason::Active));
                }
                let flow_record = engine.record_for(&input.flow, input.reason);
                engine.judge_again(event::Judged { at: input.at, record: &flow_record, open: input.open })
            }
            InputLogRecord::Tick(now) => engine.tick(*now),
            InputLogRecord::ClockOffset(epoch) => {
                engine.set_epoch(Epoch::from_unix_nanos(*epoch));
                continue;
            }
            InputLogRecord::AlertDelivered(_) | InputLogRecord::Checkpoint(_) => continue,
        };
        sink.record_alerts(&effects.alerts);
        outcome
            .missed
            .extend(effects.alerts.into_iter().filter(|alert| !delivered.contains(&AlertEventId::of(alert))));
    }
    outcome
}

/// The alerts that were delivered.
pub(crate) fn delivered_alerts(inputs: &[InputLogRecord]) -> HashSet<&AlertEventId> {
    let delivered = inputs.iter().filter_map(|record| match record {
        InputLogRecord::AlertDelivered(id) => Some(id),
        _ => None,
    });
    delivered.collect()
}

/// Does what the polls in `journal` had begun, after a state of the moment `kept`; `tables` are there unless they
/// began anew. Tells what was missed. Gives the number of flows that were booked.
///
/// # Errors
/// The tables cannot be asked.
pub fn redo_polls(
    engine: &mut Engine,
    mut maps: Option<&mut impl MapAccess>,
    (journal, checkpoint): (Vec<JournalRecord>, Time),
    replayed: ReplayOutcome,
    (sink, epoch): (&mut impl RecoverySink, Epoch),
) -> io::Result<usize> {
    let polls = journalled_polls(journal, checkpoint);
    let ReplayOutcome { records, mut missed, .. } = replayed;
    let mut flows_accounted = 0;
    for poll in &polls {
        let mut lines = Effects::default();
        engine.begin_again(poll.now);
        for entry in &poll.entries {
            let redo = Redo { maps: maps.as_deref_mut(), engine, replayed_records: &records, poll };
            let effects = redo.redo_record(entry, &mut lines.records)?;
            flows_accounted += usize::from(effects.is_some());
            if let Some(mut effects) = effects {
                lines.records.append(&mut effects.records);
                // They take their lines with them, which may be in the files already.
                sink.add_to_metrics(poll.now, &effects);
            }
        }
        if poll.lines_missing {
            let alerts = std::mem::take(&mut missed);
            sink.emit_missing(Effects { alerts, ..lines }, Epoch::from_unix_nanos(poll.epoch));
        }
    }
    let epoch = polls.last().map_or(epoch, |poll| Epoch::from_unix_nanos(poll.epoch));
    sink.emit_missing(Effects { alerts: missed, ..Effects::default() }, epoch);
    Ok(flows_accounted)
}

/// A poll of the agent before.
struct JournalledPoll {
    now: Time,
    epoch: i128,
    entries: Vec<JournalRecord>,
    /// True if the checkpoint includes this poll.
    checkpointed: bool,
    /// True if the poll was completed.
    completed: bool,
    /// True if lines of this poll may be missing in output files.
    lines_missing: bool,
}

impl JournalledPoll {
    fn new(now: Time, epoch: i128) -> Self {
        Self { now, epoch, entries: Vec::new(), checkpointed: false, completed: false, lines_missing: true }
    }
}

/// The polls in the journal, oldest first.
fn journalled_polls(journal: Vec<JournalRecord>, checkpoint: Time) -> Vec<JournalledPoll> {
    let mut polls: Vec<JournalledPoll> = Vec::new();
    for entry in journal {
        match (entry, polls.last_mut()) {
            (JournalRecord::PollBegin { now, epoch }, _) => polls.push(JournalledPoll::new(now, epoch)),
            (JournalRecord::OutputsWritten(_), _) => {
                polls.iter_mut().for_each(|poll| poll.lines_missing = false)
            }
            // A state that was about to be written when the agent died is not there.
            (JournalRecord::Checkpoint(now), _) if now <= checkpoint.as_nanos() => {
                polls.iter_mut().for_each(|poll| poll.checkpointed = true);
            }
            (JournalRecord::Checkpoint(_), _) | (_, None) => {}
            (JournalRecord::PollEnd, Some(poll)) => poll.completed = true,
            (entry, Some(poll)) => poll.entries.push(entry),
        }
    }
    polls
}

/// Doing an entry again.
struct Redo<'a, T> {
    maps: Option<&'a mut T>,
    engine: &'a mut Engine,
    replayed_records: &'a HashSet<RecordId>,
    poll: &'a JournalledPoll,
}

impl<T: MapAccess> Redo<'_, T> {
    /// What was not done or booked is done now; its effects. `lines` gets records that were made before.
    fn redo_record(
        mut self,
        entry: &JournalRecord,
        lines: &mut Vec<FlowRecord>,
    ) -> io::Result<Option<Effects>> {
        match entry {
            JournalRecord::FlowEnded(flow) => {
                if self.eviction_was_rejected(flow)
                    || (!self.poll.completed && self.query_maps(|maps| maps.contains_flow(flow))?)
                {
                    return Ok(None);
                }
                if self.poll.checkpointed {
                    lines.push(self.engine.last_record(flow));
                    return Ok(None);
                }
                if let Some(maps) = &mut self.maps {
                    maps.account_evicted(flow);
                }
                Ok(Some(self.finish_evicted(
                    flow,
                    |engine| engine.conclude_ended(flow),
                    |engine| engine.last_record(flow),
                )))
            }
            JournalRecord::FlowSuperseded(finished, sums) => {
                let Finished { flow, .. } = finished;
                if !self.poll.completed && self.query_maps(|maps| maps.contains_superseded(flow))? {
                    return Ok(None);
                }
                if self.poll.checkpointed {
                    lines.push(self.engine.finished_record(finished));
                    return Ok(None);
                }
                if let Some(maps) = &mut self.maps {
                    maps.account_superseded(finished, sums);
                }
                let conclude = |engine: &mut Engine| engine.finish(std::slice::from_ref(finished));
                Ok(Some(self.finish_evicted(flow, conclude, |engine| engine.finished_record(finished))))
            }
            JournalRecord::FlowInterim(flow) if self.poll.checkpointed => {
                lines.push(self.engine.record_for(flow, RecordReason::Active));
                Ok(None)
            }
            JournalRecord::FlowInterim(flow)
                if self.poll.completed || self.replayed_records.contains(&record_id(flow, false)) =>
            {
                lines.push(self.engine.record_for(flow, RecordReason::Active));
                let deltas = self.engine.recall(flow).into_iter().collect();
                Ok(Some(Effects { deltas, ..Effects::default() }))
            }
            JournalRecord::FlowInterim(flow) => Ok(Some(self.engine.conclude_interval(flow))),
            JournalRecord::SourceOverflow(spill) => {
                if self.poll.checkpointed || self.query_maps(|maps| maps.contains_overflow(&spill.key))? {
                    return Ok(None);
                }
                let Some(maps) = &mut self.maps else { return Ok(None) };
                maps.account_overflow(spill);
                Ok(Some(self.engine.overflow(std::slice::from_ref(spill))))
            }
            JournalRecord::EvictionRejected(_)
            | JournalRecord::PollBegin { .. }
            | JournalRecord::PollEnd
            | JournalRecord::OutputsWritten(_)
            | JournalRecord::Checkpoint(_) => Ok(None),
        }
    }

    /// What the tables say; no where they are others.
    fn query_maps(&self, query: impl FnOnce(&T) -> io::Result<bool>) -> io::Result<bool> {
        self.maps.as_deref().map_or(Ok(false), query)
    }

    /// Returns true if the kernel kept the flow: it had gained packets.
    fn eviction_was_rejected(&self, flow: &Flow) -> bool {
        let same = |entry: &JournalRecord| matches!(entry, JournalRecord::EvictionRejected(rejected) if (rejected.key, rejected.first) == (flow.key, flow.first));
        self.poll.entries.iter().any(same)
    }

    /// A flow that is out of the tables: the rules see its record unless they have.
    fn finish_evicted(
        &mut self,
        flow: &Flow,
        conclude: impl FnOnce(&mut Engine) -> Effects,
        record: impl FnOnce(&Engine) -> FlowRecord,
    ) -> Effects {
        if !self.poll.completed && !self.replayed_records.contains(&record_id(flow, true)) {
            return conclude(self.engine);
        }
        let deltas = self.engine.forget(flow).into_iter().collect();
        Effects { deltas, records: vec![record(self.engine)], ..Effects::default() }
    }
}
