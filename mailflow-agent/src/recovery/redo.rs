//! Crash recovery: replays the input log into the rules, and redoes journalled polls that the previous
//! process did not complete.
//!
//! The kernel maps and the outputs are traits, so that tests can run recovery on maps of their own.

use std::{
    collections::{HashMap, HashSet},
    io,
};

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
pub fn replay_inputs(engine: &mut Engine, inputs: &[InputLogRecord]) -> ReplayOutcome {
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
    let last_records = last_records(&polls);
    let ReplayOutcome { records, mut missed, .. } = replayed;
    let mut flows_accounted = 0;
    for poll in &polls {
        let mut lines = Effects::default();
        engine.begin_recovered_poll(poll.now);
        for (number, record) in &poll.records {
            let stayed = evicted_flow(record).is_some_and(|flow| last_records.get(&flow) > Some(number));
            if stayed {
                continue;
            }
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
    /// Records, each with its number in the journal.
    records: Vec<(usize, JournalRecord)>,
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
    for (number, record) in journal.into_iter().enumerate() {
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
            (record, Some(poll)) => poll.records.push((number, record)),
        }
    }
    polls
}

/// Key and start of a flow.
type FlowId = (FlowKey, Time);

/// Returns the flow that a record was to evict. A later record of the flow shows that it stayed: the kernel rejects
/// the eviction of a flow that has gained packets.
fn evicted_flow(record: &JournalRecord) -> Option<FlowId> {
    match record {
        JournalRecord::FlowEnded(flow) => Some((flow.key, flow.first)),
        _ => None,
    }
}

/// Returns the number of the last record of each flow.
fn last_records(polls: &[JournalledPoll]) -> HashMap<FlowId, usize> {
    let flow = |record: &JournalRecord| match record {
        JournalRecord::FlowEnded(flow)
        | JournalRecord::EvictionRejected(flow)
        | JournalRecord::FlowInterim(flow)
        | JournalRecord::FlowSuperseded(SupersededFlow { flow, .. }, _) => Some((flow.key, flow.first)),
        _ => None,
    };
    let records = polls.iter().flat_map(|poll| &poll.records);
    records.filter_map(|(number, record)| Some((flow(record)?, *number))).collect()
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
                if !self.poll.completed && self.query_maps(|maps| maps.contains_flow(flow))? {
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
                // The map has no entry of it any more.
                let spill = SourceOverflow { is_final: true, ..spill.clone() };
                maps.account_overflow(&spill);
                Ok(Some(self.engine.observe_overflow(&[spill])))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, recovery::journal::record::tests::some_flow};

    /// Maps with these flows, and the packets of the evicted ones.
    #[derive(Default)]
    struct Maps {
        flows: Vec<Flow>,
        evicted: Vec<u64>,
    }

    impl MapAccess for Maps {
        fn contains_flow(&self, flow: &Flow) -> io::Result<bool> {
            Ok(self.flows.iter().any(|other| (other.key, other.first) == (flow.key, flow.first)))
        }

        fn contains_superseded(&self, _: &Flow) -> io::Result<bool> {
            Ok(false)
        }

        fn contains_overflow(&self, _: &SourceOverflowKey) -> io::Result<bool> {
            Ok(false)
        }

        fn account_evicted(&mut self, flow: &Flow) {
            self.evicted.push(flow.up.packets);
        }

        fn account_superseded(&mut self, _: &SupersededFlow, _: &[u8]) {}

        fn account_overflow(&mut self, _: &SourceOverflow) {}
    }

    /// Final records.
    #[derive(Default)]
    struct Records(Vec<FlowRecord>);

    impl RecoverySink for Records {
        fn add_to_metrics(&mut self, _: Time, _: &Effects) {}

        fn emit_missing(&mut self, effects: Effects, _: WallClockOffset) {
            self.0.extend(effects.records);
        }
    }

    fn begin(seconds: u64) -> JournalRecord {
        JournalRecord::PollBegin { now: Time::from_nanos(seconds * 1_000_000_000), epoch: 0 }
    }

    /// Redoes the journal of a process that was killed. Returns the packets of the evicted flows, and of the final
    /// records.
    fn redo(journal: Vec<JournalRecord>, flows: Vec<Flow>) -> (Vec<u64>, Vec<u64>) {
        let mut engine = Engine::new(config::parse("f", "{}").unwrap().engine);
        let (mut maps, mut records) = (Maps { flows, ..Maps::default() }, Records::default());
        let (journal, epoch) = ((journal, Time::ZERO), WallClockOffset::default());
        redo_polls(&mut engine, Some(&mut maps), journal, ReplayOutcome::default(), (&mut records, epoch))
            .unwrap();
        let records = records.0.iter().filter(|record| record.reason != RecordReason::Active);
        (maps.evicted, records.map(|record| record.flow.up.packets).collect())
    }

    fn grown(flow: &Flow) -> Flow {
        let mut grown = flow.clone();
        grown.up.packets += 100;
        grown
    }

    #[test]
    fn a_flow_whose_eviction_was_rejected_is_accounted_for_once() {
        let flow = some_flow(1);
        let ended = || JournalRecord::FlowEnded(flow.clone());
        let grown = grown(&flow);
        let rejected =
            vec![begin(1), ended(), JournalRecord::EvictionRejected(flow.clone()), JournalRecord::PollEnd];
        assert_eq!(redo(rejected.clone(), vec![grown.clone()]), (vec![], vec![]));
        // It ends again.
        let again = [begin(2), JournalRecord::FlowEnded(grown.clone()), JournalRecord::PollEnd];
        let packets = || vec![grown.up.packets];
        assert_eq!(redo([rejected, again.to_vec()].concat(), vec![]), (packets(), packets()));
    }

    #[test]
    fn a_flow_whose_rejected_eviction_could_not_be_journalled_is_accounted_for_once() {
        let flow = some_flow(1);
        let grown = grown(&flow);
        // The poll has no end, as a record of it is missing.
        let lost = vec![begin(1), JournalRecord::FlowEnded(flow)];
        assert_eq!(redo(lost.clone(), vec![grown.clone()]), (vec![], vec![]));
        let packets = || vec![grown.up.packets];
        for later in [
            vec![begin(2), JournalRecord::FlowEnded(grown.clone()), JournalRecord::PollEnd],
            vec![
                begin(2),
                JournalRecord::FlowInterim(grown.clone()),
                JournalRecord::PollEnd,
                begin(3),
                JournalRecord::FlowEnded(grown.clone()),
                JournalRecord::PollEnd,
            ],
        ] {
            assert_eq!(redo([lost.clone(), later].concat(), vec![]), (packets(), packets()));
        }
    }
}
