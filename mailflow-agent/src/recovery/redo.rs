//! Crash recovery: replays the input log into the rules, and redoes journalled polls that the previous
//! process did not complete.
//!
//! The kernel maps and the outputs are traits, so that tests can run recovery on maps of their own.

use std::{collections::HashSet, io};

use mailflow_common::{FlowKey, SourceOverflowKey};

use super::state_dir::{AlertEventId, InputLogRecord, JournalRecord};
use mailflow_engine::{
    Engine,
    event::{self, Alert, Effects},
    flow::{Flow, FlowRecord, RecordReason, SourceOverflow, SupersededFlow},
    time::{Time, WallClockOffset},
};

/// Access to the kernel maps of the previous process.
pub trait MapAccess {
    /// Returns true if the flow is still in the flow table.
    ///
    /// # Errors
    /// Fails if the maps cannot be read.
    fn contains_flow(&self, flow: &Flow) -> io::Result<bool>;
    /// Returns true if the flow is still in the map of superseded flows.
    ///
    /// # Errors
    /// Fails if the maps cannot be read.
    fn contains_superseded(&self, flow: &Flow) -> io::Result<bool>;
    /// Returns true if the source is still in the overflow map.
    ///
    /// # Errors
    /// Fails if the maps cannot be read.
    fn contains_overflow(&self, key: &SourceOverflowKey) -> io::Result<bool>;
    /// Accounts for a flow that the previous process evicted.
    fn account_evicted(&mut self, flow: &Flow);
    /// Accounts for a superseded flow that the previous process removed, with the counts of its map entry.
    fn account_superseded(&mut self, finished: &SupersededFlow, sums: &[u8]);
    /// Accounts for overflow counters that the previous process removed.
    fn account_overflow(&mut self, spill: &SourceOverflow);
}

/// Receiver of the effects of recovery.
pub trait RecoverySink {
    /// Notes alerts that are emitted now, or were emitted by the previous process.
    fn record_alerts(&mut self, alerts: &[Alert]);
    /// Adds the deltas of a poll at `now` to the metrics, without writing lines.
    fn add_to_metrics(&mut self, now: Time, effects: &Effects);
    /// Emits records and alerts that may be missing in outputs.
    fn emit_missing(&mut self, effects: Effects, epoch: WallClockOffset);
}

/// Identity of a record: flow key, start of the flow, true for a final record, and event time.
type RecordId = (FlowKey, Time, bool, Time);

fn record_id(flow: &Flow, last: bool) -> RecordId {
    (flow.key, flow.first, last, flow.last())
}

/// Outcome of the replay of the input log.
#[derive(Debug, Default)]
pub struct ReplayOutcome {
    /// Number of replayed records and open flows.
    pub inputs_replayed: usize,
    records: HashSet<RecordId>,
    /// Alerts that were not delivered.
    missed: Vec<Alert>,
}

/// Replays the inputs of the rules, and the passing of time. Alerts that were delivered are not emitted
/// again.
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
                let flow_record = engine.build_record(&input.flow, input.reason);
                engine.replay_input(event::RuleInput { at: input.at, record: &flow_record, live: input.open })
            }
            InputLogRecord::Tick(now) => engine.tick(*now),
            InputLogRecord::ClockOffset(epoch) => {
                engine.set_clock_offset(WallClockOffset::from_unix_nanos(*epoch));
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

/// Returns the identities of the delivered alerts.
pub(crate) fn delivered_alerts(inputs: &[InputLogRecord]) -> HashSet<&AlertEventId> {
    let delivered = inputs.iter().filter_map(|record| match record {
        InputLogRecord::AlertDelivered(id) => Some(id),
        _ => None,
    });
    delivered.collect()
}

/// Redoes the polls in `journal` that a checkpoint of the given time does not include, and emits what was
/// missed. `maps` is `None` if the maps are new. Returns the number of flows that were accounted for.
///
/// # Errors
/// Fails if the maps cannot be read.
pub fn redo_polls(
    engine: &mut Engine,
    mut maps: Option<&mut impl MapAccess>,
    (journal, checkpoint): (Vec<JournalRecord>, Time),
    replayed: ReplayOutcome,
    (sink, epoch): (&mut impl RecoverySink, WallClockOffset),
) -> io::Result<usize> {
    let polls = journalled_polls(journal, checkpoint);
    let ReplayOutcome { records, mut missed, .. } = replayed;
    let mut flows_accounted = 0;
    for poll in &polls {
        let mut lines = Effects::default();
        engine.begin_recovered_poll(poll.now);
        for record in &poll.records {
            let redo = Redo { maps: maps.as_deref_mut(), engine, replayed_records: &records, poll };
            let effects = redo.redo_record(record, &mut lines.records)?;
            flows_accounted += usize::from(effects.is_some());
            if let Some(mut effects) = effects {
                lines.records.append(&mut effects.records);
                // The effects have no records here: their lines may be in the output files already.
                sink.add_to_metrics(poll.now, &effects);
            }
        }
        if poll.lines_missing {
            let alerts = std::mem::take(&mut missed);
            sink.emit_missing(Effects { alerts, ..lines }, WallClockOffset::from_unix_nanos(poll.epoch));
        }
    }
    let epoch = polls.last().map_or(epoch, |poll| WallClockOffset::from_unix_nanos(poll.epoch));
    sink.emit_missing(Effects { alerts: missed, ..Effects::default() }, epoch);
    Ok(flows_accounted)
}

/// Poll of the previous process.
struct JournalledPoll {
    now: Time,
    epoch: i128,
    records: Vec<JournalRecord>,
    /// True if the checkpoint includes this poll.
    checkpointed: bool,
    /// True if the poll was completed.
    completed: bool,
    /// True if lines of this poll may be missing in output files.
    lines_missing: bool,
}

impl JournalledPoll {
    fn new(now: Time, epoch: i128) -> Self {
        Self { now, epoch, records: Vec::new(), checkpointed: false, completed: false, lines_missing: true }
    }
}

/// Groups the journal records by poll, oldest first.
fn journalled_polls(journal: Vec<JournalRecord>, checkpoint: Time) -> Vec<JournalledPoll> {
    let mut polls: Vec<JournalledPoll> = Vec::new();
    for record in journal {
        match (record, polls.last_mut()) {
            (JournalRecord::PollBegin { now, epoch }, _) => polls.push(JournalledPoll::new(now, epoch)),
            (JournalRecord::OutputsWritten(_), _) => {
                polls.iter_mut().for_each(|poll| poll.lines_missing = false)
            }
            // A mark may belong to a checkpoint that was not written because the process was killed.
            (JournalRecord::Checkpoint(now), _) if now <= checkpoint.as_nanos() => {
                polls.iter_mut().for_each(|poll| poll.checkpointed = true);
            }
            (JournalRecord::Checkpoint(_), _) | (_, None) => {}
            (JournalRecord::PollEnd, Some(poll)) => poll.completed = true,
            (record, Some(poll)) => poll.records.push(record),
        }
    }
    polls
}

/// Context to redo one journal record.
struct Redo<'a, T> {
    maps: Option<&'a mut T>,
    engine: &'a mut Engine,
    replayed_records: &'a HashSet<RecordId>,
    poll: &'a JournalledPoll,
}

impl<T: MapAccess> Redo<'_, T> {
    /// Redoes a journal record that is not yet accounted for, and returns the effects. Adds records that were
    /// made before to `lines`.
    fn redo_record(
        mut self,
        record: &JournalRecord,
        lines: &mut Vec<FlowRecord>,
    ) -> io::Result<Option<Effects>> {
        match record {
            JournalRecord::FlowEnded(flow) => {
                if self.eviction_was_rejected(flow)
                    || (!self.poll.completed && self.query_maps(|maps| maps.contains_flow(flow))?)
                {
                    return Ok(None);
                }
                if self.poll.checkpointed {
                    lines.push(self.engine.final_record(flow));
                    return Ok(None);
                }
                if let Some(maps) = &mut self.maps {
                    maps.account_evicted(flow);
                }
                Ok(Some(self.finish_evicted(
                    flow,
                    |engine| engine.redo_final_record(flow),
                    |engine| engine.final_record(flow),
                )))
            }
            JournalRecord::FlowSuperseded(finished, sums) => {
                let SupersededFlow { flow, .. } = finished;
                if !self.poll.completed && self.query_maps(|maps| maps.contains_superseded(flow))? {
                    return Ok(None);
                }
                if self.poll.checkpointed {
                    lines.push(self.engine.superseded_record(finished));
                    return Ok(None);
                }
                if let Some(maps) = &mut self.maps {
                    maps.account_superseded(finished, sums);
                }
                let conclude = |engine: &mut Engine| engine.finish_superseded(std::slice::from_ref(finished));
                Ok(Some(self.finish_evicted(flow, conclude, |engine| engine.superseded_record(finished))))
            }
            JournalRecord::FlowInterim(flow) if self.poll.checkpointed => {
                lines.push(self.engine.build_record(flow, RecordReason::Active));
                Ok(None)
            }
            JournalRecord::FlowInterim(flow)
                if self.poll.completed || self.replayed_records.contains(&record_id(flow, false)) =>
            {
                lines.push(self.engine.build_record(flow, RecordReason::Active));
                let deltas = self.engine.redo_delta(flow).into_iter().collect();
                Ok(Some(Effects { deltas, ..Effects::default() }))
            }
            JournalRecord::FlowInterim(flow) => Ok(Some(self.engine.redo_interim_record(flow))),
            JournalRecord::SourceOverflow(spill) => {
                if self.poll.checkpointed || self.query_maps(|maps| maps.contains_overflow(&spill.key))? {
                    return Ok(None);
                }
                let Some(maps) = &mut self.maps else { return Ok(None) };
                maps.account_overflow(spill);
                Ok(Some(self.engine.observe_overflow(std::slice::from_ref(spill))))
            }
            JournalRecord::EvictionRejected(_)
            | JournalRecord::PollBegin { .. }
            | JournalRecord::PollEnd
            | JournalRecord::OutputsWritten(_)
            | JournalRecord::Checkpoint(_) => Ok(None),
        }
    }

    /// Queries the maps; false if they are new.
    fn query_maps(&self, query: impl FnOnce(&T) -> io::Result<bool>) -> io::Result<bool> {
        self.maps.as_deref().map_or(Ok(false), query)
    }

    /// Returns true if the kernel kept the flow, as it had gained packets.
    fn eviction_was_rejected(&self, flow: &Flow) -> bool {
        let same = |record: &JournalRecord| matches!(record, JournalRecord::EvictionRejected(rejected) if (rejected.key, rejected.first) == (flow.key, flow.first));
        self.poll.records.iter().any(same)
    }

    /// Finishes a flow that is no longer in the maps. The rules evaluate its record unless they already have.
    fn finish_evicted(
        &mut self,
        flow: &Flow,
        conclude: impl FnOnce(&mut Engine) -> Effects,
        record: impl FnOnce(&Engine) -> FlowRecord,
    ) -> Effects {
        if !self.poll.completed && !self.replayed_records.contains(&record_id(flow, true)) {
            return conclude(self.engine);
        }
        let deltas = self.engine.drop_flow(flow).into_iter().collect();
        Effects { deltas, records: vec![record(self.engine)], ..Effects::default() }
    }
}
