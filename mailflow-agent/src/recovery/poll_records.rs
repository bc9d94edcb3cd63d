//! What a poll writes down, for the agent after this one to read in [`super::redo`].

use super::state_dir::{InputLogRecord, JournalRecord, LoggedInput};
use mailflow_engine::{
    Engine,
    event::{self, Effects},
    flow::{Flow, RecordReason},
    time::{Epoch, Time},
};
use mailflow_kernel::Taking;

/// What a part of the living brought: records of those that live on, and those that ended.
pub fn flow_records(effects: &Effects, ended: &[Flow]) -> impl Iterator<Item = JournalRecord> {
    let active = effects.records.iter().filter(|record| record.reason == RecordReason::Active);
    let active = active.map(|record| JournalRecord::FlowInterim(record.flow.clone()));
    active.chain(ended.iter().cloned().map(JournalRecord::FlowEnded))
}

/// What is taken out of the tables beside the living.
pub(crate) fn removal_records(taking: Taking<'_>) -> Vec<JournalRecord> {
    match taking {
        Taking::Finished(finished) => finished
            .iter()
            .cloned()
            .map(|(finished, sums)| JournalRecord::FlowSuperseded(finished, sums))
            .collect(),
        Taking::Spilled(spilled) => spilled.iter().cloned().map(JournalRecord::SourceOverflow).collect(),
    }
}

/// What the rules were shown last, by which clock, and until when time has passed since.
pub fn rule_inputs((now, epoch): (Time, Epoch), engine: &Engine) -> impl Iterator<Item = InputLogRecord> {
    let inputs = engine.judged().map(|event::Judged { at, record, open }| {
        InputLogRecord::Input(LoggedInput { at, flow: record.flow.clone(), reason: record.reason, open })
    });
    let epoch = InputLogRecord::ClockOffset(epoch.unix_nanos(Time::ZERO));
    [epoch].into_iter().chain(inputs).chain([InputLogRecord::Tick(now)])
}
