//! Records that a poll writes, for [`super::redo`] in the next process.

use super::state_dir::{InputLogRecord, JournalRecord, LoggedInput};
use mailflow_engine::{
    Engine,
    event::{self, Effects},
    flow::{Flow, RecordReason},
    time::{Time, WallClockOffset},
};

/// Returns the journal records of a batch of flows: interim records of open flows, and ended flows.
pub fn flow_records(effects: &Effects, ended: &[Flow]) -> impl Iterator<Item = JournalRecord> {
    let active = effects.records.iter().filter(|record| record.reason == RecordReason::Active);
    let active = active.map(|record| JournalRecord::FlowInterim(record.flow.clone()));
    active.chain(ended.iter().cloned().map(JournalRecord::FlowEnded))
}

/// Returns the records of the input log for a poll: the clock offset, the rule inputs, and the time.
pub fn rule_inputs(
    (now, epoch): (Time, WallClockOffset),
    engine: &Engine,
) -> impl Iterator<Item = InputLogRecord> {
    let inputs = engine.rule_inputs().map(|event::RuleInput { at, record, live: open }| {
        InputLogRecord::Input(LoggedInput { at, flow: record.flow.clone(), reason: record.reason, open })
    });
    let epoch = InputLogRecord::ClockOffset(epoch.unix_nanos(Time::ZERO));
    [epoch].into_iter().chain(inputs).chain([InputLogRecord::Tick(now)])
}
