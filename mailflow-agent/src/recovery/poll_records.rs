//! What a poll writes down, for the agent after this one to read in [`super::redo`].

use super::store::{Entry, Judged, Past};
use mailflow_engine::{
    Engine,
    event::{self, Effects},
    flow::{Flow, RecordReason},
    time::{Epoch, Time},
};

/// What a part of the living brought: records of those that live on, and those that ended.
pub fn living(effects: &Effects, ended: &[Flow]) -> impl Iterator<Item = Entry> {
    let active = effects.records.iter().filter(|record| record.reason == RecordReason::Active);
    let active = active.map(|record| Entry::Active(record.flow.clone()));
    active.chain(ended.iter().cloned().map(Entry::Ended))
}

/// What the rules were shown last, by which clock, and until when time has passed since.
pub fn passed((now, epoch): (Time, Epoch), engine: &Engine) -> impl Iterator<Item = Past> {
    let judged = engine.judged().map(|event::Judged { at, record, open }| {
        Past::Judged(Judged { at, flow: record.flow.clone(), reason: record.reason, open })
    });
    let epoch = Past::Epoch(epoch.unix_nanos(Time::ZERO));
    [epoch].into_iter().chain(judged).chain([Past::Passed(now)])
}
