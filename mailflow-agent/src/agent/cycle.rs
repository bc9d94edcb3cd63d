//! One look at the kernel's tables and what follows from it; live and in replay the same.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{
    clock,
    engine::{Engine, event::Effects, flow::Finished, time::Time},
    kernel::Kernel,
};

/// Flows handed over together: what follows from them is handed on before the next are looked at.
const PART: usize = 4_096;

/// What a look cost and found.
pub(super) struct Look {
    /// Flows in the table.
    pub(super) flows: u64,
    /// How long reading it took.
    pub(super) drain: Duration,
}

/// Reads the tables, lets the engine see them at `now`, and takes out what ended. `hand_on` gets the
/// effects in order.
pub(super) fn look(
    kernel: &mut Kernel,
    engine: &mut Engine,
    now: Time,
    mut hand_on: impl FnMut(&Effects),
) -> Result<Look> {
    let begin = clock::now();
    let snapshot = kernel.read(now)?;
    let look = Look { flows: snapshot.flows.len() as u64, drain: clock::now().since(begin) };
    engine.begin(now);
    hand_on(&engine.finish(snapshot.finished));
    for part in snapshot.flows.chunks(PART) {
        hand_on(&engine.look(part));
    }
    let ending: Vec<_> = engine.ending().iter().map(|flow| flow.key).collect();
    let finals = kernel.take(&ending, now).context("taking ended flows out of the table")?;
    // They are out whatever they gained meanwhile.
    let finished: Vec<_> = finals.into_iter().map(|flow| Finished { flow, replaced: now }).collect();
    hand_on(&engine.finish(&finished));
    hand_on(&engine.tick(now));
    Ok(look)
}

/// Reads the tables a last time: every open flow gets its record.
pub(super) fn last_look(
    kernel: &mut Kernel,
    engine: &mut Engine,
    now: Time,
    mut hand_on: impl FnMut(&Effects),
) -> Result<()> {
    let snapshot = kernel.read(now).context("reading the flow table a last time")?;
    hand_on(&engine.finish(snapshot.finished));
    for part in snapshot.flows.chunks(PART) {
        hand_on(&engine.look_last(now, part));
    }
    hand_on(&engine.shutdown(now));
    Ok(())
}
