//! One poll of the flow table, live and in replay.
//!
//! The agent reads the flow table in batches. For each batch the engine observes the flows, the journal stores those
//! that ended, the kernel evicts them, and the engine accounts for the evictions. A flow is in the journal before it
//! leaves the table: after a crash the next process finds it in one of the two.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::recovery::{checkpointer::Checkpointer, poll_records, state_dir::JournalRecord};
use mailflow_engine::{
    Engine,
    event::Effects,
    flow::EvictOutcome,
    time::{Time, WallClockOffset},
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
    journal: &mut Checkpointer,
    (now, epoch): (Time, WallClockOffset),
    mut emit: impl FnMut(&Effects),
) -> Result<Duration> {
    let begin = clock::now();
    engine.begin_poll(now);
    journal.begin_poll(now, epoch);
    scan(kernel, engine, journal, (now, PollKind::Regular), &mut emit)?;
    let scan_time = clock::now().since(begin);
    let effects = engine.tick(now);
    journal.log_inputs((now, epoch), engine, &effects);
    emit(&effects);
    Ok(scan_time)
}

/// Polls the flow table a last time, after counting has ended: each flow gets its final record.
pub(crate) fn final_poll(
    kernel: &mut Kernel,
    engine: &mut Engine,
    journal: &mut Checkpointer,
    (now, epoch): (Time, WallClockOffset),
    mut emit: impl FnMut(&Effects),
) -> Result<()> {
    journal.begin_poll(now, epoch);
    scan(kernel, engine, journal, (now, PollKind::Final), &mut emit)
        .context("reading the flow table a last time")?;
    let effects = engine.shutdown(now);
    journal.log_inputs((now, epoch), engine, &effects);
    emit(&effects);
    Ok(())
}

/// Scans the flow table: observe, store, evict, account.
fn scan(
    kernel: &mut Kernel,
    engine: &mut Engine,
    journal: &mut Checkpointer,
    (now, kind): (Time, PollKind),
    emit: &mut impl FnMut(&Effects),
) -> Result<()> {
    let mut scan = kernel.scan(now)?;
    while let Some(batch) = scan.next_batch()? {
        match batch {
            FlowBatch::Superseded(pending) => {
                let entries = pending.entries();
                store(
                    journal,
                    entries.map(|(flow, sums)| JournalRecord::FlowSuperseded(flow.clone(), sums.to_vec())),
                )?;
                let superseded = scan.delete_superseded(pending)?;
                emit(&engine.finish_superseded(&superseded));
            }
            FlowBatch::Active(flows) if kind == PollKind::Final => {
                emit(&engine.observe_final_batch(now, flows))
            }
            FlowBatch::Active(flows) => {
                let observed = engine.observe_batch(flows);
                let stored = store(journal, poll_records::flow_records(&observed, engine.pending_eviction()));
                emit(&observed);
                // A flow that is not in the journal stays in the table, and the next poll observes it again.
                if stored.is_err() || engine.pending_eviction().is_empty() {
                    continue;
                }
                let Some(outcomes) = scan.evict(engine.pending_eviction()) else { continue };
                let evictions = engine.pending_eviction().iter().zip(&outcomes);
                let changed = evictions.filter(|(_, outcome)| **outcome == EvictOutcome::Changed);
                // After a failure the journal gets no end of this poll, and recovery looks up its flows in the table.
                let _ =
                    store(journal, changed.map(|(flow, _)| JournalRecord::EvictionRejected(flow.clone())));
                emit(&engine.apply_evictions(&outcomes));
            }
            FlowBatch::Overflow(pending) => {
                store(journal, pending.idle().cloned().map(JournalRecord::SourceOverflow))?;
                let sources = scan.delete_idle_sources(pending)?;
                emit(&engine.observe_overflow(&sources));
            }
        }
    }
    Ok(())
}

/// Appends entries to the journal.
fn store(journal: &mut Checkpointer, entries: impl IntoIterator<Item = JournalRecord>) -> Result<()> {
    journal.append(entries).map_err(|error| anyhow!("failed to write the journal: {error}"))
}
