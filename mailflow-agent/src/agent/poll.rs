//! One poll of the flow table, live and in replay.
//!
//! The agent reads the flow table in batches. For each batch the engine observes the flows, the journal stores those
//! that ended, the kernel evicts them, and the engine accounts for the evictions. A flow is in the journal before it
//! leaves the table: after a crash the next process finds it in one of the two.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::recovery::{checkpointer::Keeper, poll_records, store::Entry};
use mailflow_engine::{
    Engine,
    event::Effects,
    flow::Fate,
    time::{Epoch, Time},
};
use mailflow_kernel::{FlowBatch, Kernel, clock};

/// Kind of poll.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PollKind {
    /// Flows that ended are evicted.
    Regular,
    /// Counting has ended: each flow gets its final record, and none is evicted.
    Final,
}

/// Polls the flow table at `now`. `emit` receives the effects in order. Returns the time that the scan took, with the
/// evaluation of its batches.
pub(crate) fn poll(
    kernel: &mut Kernel,
    engine: &mut Engine,
    journal: &mut Keeper,
    (now, epoch): (Time, Epoch),
    mut emit: impl FnMut(&Effects),
) -> Result<Duration> {
    let begin = clock::now();
    engine.begin(now);
    journal.begin(now, epoch);
    scan(kernel, engine, journal, (now, PollKind::Regular), &mut emit)?;
    let scan_time = clock::now().since(begin);
    let effects = engine.tick(now);
    journal.take((now, epoch), engine, &effects);
    emit(&effects);
    Ok(scan_time)
}

/// Polls the flow table a last time, after counting has ended: each flow gets its final record.
pub(crate) fn final_poll(
    kernel: &mut Kernel,
    engine: &mut Engine,
    journal: &mut Keeper,
    (now, epoch): (Time, Epoch),
    mut emit: impl FnMut(&Effects),
) -> Result<()> {
    journal.begin(now, epoch);
    scan(kernel, engine, journal, (now, PollKind::Final), &mut emit)
        .context("reading the flow table a last time")?;
    let effects = engine.shutdown(now);
    journal.take((now, epoch), engine, &effects);
    emit(&effects);
    Ok(())
}

/// Scans the flow table: observe, store, evict, account.
fn scan(
    kernel: &mut Kernel,
    engine: &mut Engine,
    journal: &mut Keeper,
    (now, kind): (Time, PollKind),
    emit: &mut impl FnMut(&Effects),
) -> Result<()> {
    let mut scan = kernel.scan(now)?;
    while let Some(batch) = scan.next_batch()? {
        match batch {
            FlowBatch::Superseded(pending) => {
                let entries = pending.entries();
                store(journal, entries.map(|(flow, sums)| Entry::Finished(flow.clone(), sums.to_vec())))?;
                let superseded = scan.delete_superseded(pending)?;
                emit(&engine.finish(&superseded));
            }
            FlowBatch::Active(flows) if kind == PollKind::Final => emit(&engine.look_last(now, flows)),
            FlowBatch::Active(flows) => {
                let observed = engine.look(flows);
                let stored = store(journal, poll_records::living(&observed, engine.ending()));
                emit(&observed);
                // A flow that is not in the journal stays in the table, and the next poll observes it again.
                if stored.is_err() || engine.ending().is_empty() {
                    continue;
                }
                let Some(outcomes) = scan.evict(engine.ending()) else { continue };
                let evictions = engine.ending().iter().zip(&outcomes);
                let changed = evictions.filter(|(_, outcome)| **outcome == Fate::Lives);
                // Recovery looks up a flow without this entry, and finds it in the table: a failure loses nothing.
                let _ = store(journal, changed.map(|(flow, _)| Entry::Lives(flow.clone())));
                emit(&engine.end(&outcomes));
            }
            FlowBatch::Overflow(pending) => {
                store(journal, pending.idle().cloned().map(Entry::Spilled))?;
                let sources = scan.delete_idle_sources(pending)?;
                emit(&engine.overflow(&sources));
            }
        }
    }
    Ok(())
}

/// Appends entries to the journal.
fn store(journal: &mut Keeper, entries: impl IntoIterator<Item = Entry>) -> Result<()> {
    journal.note(entries).map_err(|error| anyhow!("failed to write the journal: {error}"))
}
