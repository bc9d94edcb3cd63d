//! One look at the kernel's tables and what follows from it; live and in replay the same.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{
    clock,
    engine::{
        Engine,
        event::Effects,
        flow::{Fate, Finished, Flow},
        spill::Spill,
        time::Time,
    },
    kernel::{Kernel, Reader},
};

/// Reads the tables, lets the engine see them at `now`, and takes out what ended. `hand_on` gets the
/// effects in order. Gives back how long the reading took, with what followed from each part.
pub(super) fn look(
    kernel: &mut Kernel,
    engine: &mut Engine,
    now: Time,
    mut hand_on: impl FnMut(&Effects),
) -> Result<Duration> {
    let begin = clock::now();
    engine.begin(now);
    kernel.read(now, &mut Look { engine, hand_on: &mut hand_on })?;
    let took = clock::now().since(begin);
    hand_on(&engine.tick(now));
    Ok(took)
}

/// Reads the tables a last time: every open flow gets its record.
pub(super) fn last_look(
    kernel: &mut Kernel,
    engine: &mut Engine,
    now: Time,
    mut hand_on: impl FnMut(&Effects),
) -> Result<()> {
    let mut reader = LastLook { engine, now, hand_on: &mut hand_on };
    kernel.read(now, &mut reader).context("reading the flow table a last time")?;
    hand_on(&engine.shutdown(now));
    Ok(())
}

/// The engine looks at one part after the other.
struct Look<'a> {
    engine: &'a mut Engine,
    hand_on: &'a mut dyn FnMut(&Effects),
}

impl Reader for Look<'_> {
    fn finished(&mut self, finished: &[Finished]) {
        (self.hand_on)(&self.engine.finish(finished));
    }

    fn living(&mut self, flows: &[Flow]) -> &[Flow] {
        (self.hand_on)(&self.engine.look(flows));
        self.engine.ending()
    }

    fn removed(&mut self, fates: &[Fate]) {
        (self.hand_on)(&self.engine.end(fates));
    }

    fn spilled(&mut self, spilled: &[Spill]) {
        (self.hand_on)(&self.engine.overflow(spilled));
    }
}

/// The same for the last time: nothing is taken out any more.
struct LastLook<'a> {
    engine: &'a mut Engine,
    now: Time,
    hand_on: &'a mut dyn FnMut(&Effects),
}

impl Reader for LastLook<'_> {
    fn finished(&mut self, finished: &[Finished]) {
        (self.hand_on)(&self.engine.finish(finished));
    }

    fn living(&mut self, flows: &[Flow]) -> &[Flow] {
        (self.hand_on)(&self.engine.look_last(self.now, flows));
        &[]
    }

    fn removed(&mut self, _: &[Fate]) {}

    fn spilled(&mut self, spilled: &[Spill]) {
        (self.hand_on)(&self.engine.overflow(spilled));
    }
}
