//! One look at the kernel's tables and what follows from it; live and in replay the same.

use std::{io, time::Duration};

use anyhow::{Context, Result};

use crate::recovery::{checkpointer::Checkpointer, poll_records, state_dir::JournalRecord};
use mailflow_engine::{
    Engine,
    event::Effects,
    flow::SourceOverflow,
    flow::{EvictOutcome, Flow, SupersededFlow},
    time::{Time, WallClockOffset},
};
use mailflow_kernel::clock;
use mailflow_kernel::{Kernel, Reader, Taking};

/// Reads the tables, lets the engine see them at `now`, and takes out what ended. `hand_on` gets the
/// effects in order. Gives back how long the reading took, with what followed from each part.
pub(crate) fn look(
    kernel: &mut Kernel,
    engine: &mut Engine,
    keeper: &mut Checkpointer,
    (now, epoch): (Time, WallClockOffset),
    mut hand_on: impl FnMut(&Effects),
) -> Result<Duration> {
    let begin = clock::now();
    engine.begin_poll(now);
    keeper.begin_poll(now, epoch);
    kernel.read(now, &mut Look { engine, keeper, hand_on: &mut hand_on })?;
    let took = clock::now().since(begin);
    let effects = engine.tick(now);
    keeper.log_inputs((now, epoch), engine, &effects);
    hand_on(&effects);
    Ok(took)
}

/// Reads the tables a last time: every open flow gets its record.
pub(crate) fn last_look(
    kernel: &mut Kernel,
    engine: &mut Engine,
    keeper: &mut Checkpointer,
    (now, epoch): (Time, WallClockOffset),
    mut hand_on: impl FnMut(&Effects),
) -> Result<()> {
    keeper.begin_poll(now, epoch);
    let mut reader = LastLook { engine, keeper, now, hand_on: &mut hand_on };
    kernel.read(now, &mut reader).context("reading the flow table a last time")?;
    let effects = engine.shutdown(now);
    keeper.log_inputs((now, epoch), engine, &effects);
    hand_on(&effects);
    Ok(())
}

/// The engine looks at one part after the other.
struct Look<'a> {
    engine: &'a mut Engine,
    keeper: &'a mut Checkpointer,
    hand_on: &'a mut dyn FnMut(&Effects),
}

impl Reader for Look<'_> {
    fn finished(&mut self, finished: &[SupersededFlow]) {
        (self.hand_on)(&self.engine.finish_superseded(finished));
    }

    fn living(&mut self, flows: &[Flow]) -> &[Flow] {
        let effects = self.engine.observe_batch(flows);
        let noted = self.keeper.append(poll_records::flow_records(&effects, self.engine.pending_eviction()));
        (self.hand_on)(&effects);
        // What is not in the journal stays in the table: another reading judges it again.
        if noted.is_ok() { self.engine.pending_eviction() } else { &[] }
    }

    fn removed(&mut self, fates: &[EvictOutcome]) {
        let lives = self
            .engine
            .pending_eviction()
            .iter()
            .zip(fates)
            .filter(|(_, fate)| **fate == EvictOutcome::Changed);
        let lives = lives.map(|(flow, _)| JournalRecord::EvictionRejected(flow.clone()));
        // Without that note it would be looked up at the next start, and found alive as well.
        let _ = self.keeper.append(lives);
        (self.hand_on)(&self.engine.apply_evictions(fates));
    }

    fn spilled(&mut self, spilled: &[SourceOverflow]) {
        (self.hand_on)(&self.engine.observe_overflow(spilled));
    }

    fn taking(&mut self, taking: Taking<'_>) -> io::Result<()> {
        self.keeper.append(poll_records::removal_records(taking))
    }
}

/// The same for the last time: nothing is taken out any more.
struct LastLook<'a> {
    engine: &'a mut Engine,
    keeper: &'a mut Checkpointer,
    now: Time,
    hand_on: &'a mut dyn FnMut(&Effects),
}

impl Reader for LastLook<'_> {
    fn finished(&mut self, finished: &[SupersededFlow]) {
        (self.hand_on)(&self.engine.finish_superseded(finished));
    }

    fn living(&mut self, flows: &[Flow]) -> &[Flow] {
        (self.hand_on)(&self.engine.observe_final_batch(self.now, flows));
        &[]
    }

    fn removed(&mut self, _: &[EvictOutcome]) {}

    fn spilled(&mut self, spilled: &[SourceOverflow]) {
        (self.hand_on)(&self.engine.observe_overflow(spilled));
    }

    fn taking(&mut self, taking: Taking<'_>) -> io::Result<()> {
        self.keeper.append(poll_records::removal_records(taking))
    }
}
