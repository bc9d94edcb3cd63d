//! Restores the state of the previous process, and redoes what it did not complete.

use std::{collections::HashSet, io};

use anyhow::Result;
use mailflow_common::SourceOverflowKey;
use tracing::{info, warn};

use super::{
    checkpointer::Checkpointer,
    redo::{self, MapAccess, RecoverySink},
    state_dir::{AlertEventId, RecoveredState, WrittenLines},
};
use crate::outputs::router::EffectRouter;
use mailflow_engine::{
    Engine,
    event::Effects,
    flow::{Flow, SourceOverflow, SupersededFlow},
    time::{Time, WallClockOffset},
};
use mailflow_kernel::clock;
use mailflow_kernel::{Kernel, MapOrigin};

/// Counts of a recovery.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RecoverySummary {
    /// Rule inputs that were replayed.
    pub(crate) inputs_replayed: usize,
    /// Alerts that were not delivered.
    pub(crate) alerts: usize,
    /// Flows that were accounted for from the journal.
    pub(crate) flows_accounted: usize,
}

/// Restores the kernel reader, the engine and the outputs, and redoes the polls that the previous process
/// did not complete.
pub(crate) fn restore(
    kernel: &mut Kernel,
    map_origin: MapOrigin,
    engine: &mut Engine,
    sinks: &EffectRouter,
    checkpointer: &mut Checkpointer,
    recovered: RecoveredState,
) -> Result<RecoverySummary> {
    let RecoveredState { checkpoint: Some(mut checkpoint), journal, inputs, mut written_lines, .. } =
        recovered
    else {
        return Ok(RecoverySummary::default());
    };
    if map_origin != MapOrigin::Fresh {
        engine.restore_flows(&checkpoint.flows);
    }
    if checkpoint.rules.is_readable() {
        for rule in engine.restore(checkpoint.rules).dropped_rules {
            info!(%rule, "rule was removed or changed; its windows start empty");
        }
    } else {
        warn!("the checkpoint of the rules has another format; windows start empty");
    }
    let (lagging, none) = (HashSet::new(), WrittenLines::default());
    let mut emitter = RecoveryEmitter { sinks, checkpointer, lagging, written_lines: none, alerts: 0 };
    let replayed = redo::replay_inputs(engine, &inputs);
    engine.set_clock_offset(clock::epoch());
    // Alerts that were delivered after the checkpoint are in the input log.
    let delivered = redo::delivered_alerts(&inputs);
    checkpoint.pending_deliveries.retain(|pending| !delivered.contains(&AlertEventId::of(&pending.alert)));
    emitter.lagging =
        checkpoint.pending_deliveries.iter().flat_map(|pending| pending.sinks.clone()).collect();
    emitter
        .checkpointer
        .track_alerts(checkpoint.pending_deliveries.iter().map(|pending| AlertEventId::of(&pending.alert)));
    sinks.outputs().redeliver(&checkpoint.pending_deliveries, &mut written_lines);
    emitter.written_lines = written_lines;
    let mut summary =
        RecoverySummary { inputs_replayed: replayed.inputs_replayed, ..RecoverySummary::default() };
    let maps = (map_origin != MapOrigin::Fresh).then_some(kernel);
    let journal = (journal, Time::from_nanos(checkpoint.now));
    summary.flows_accounted =
        redo::redo_polls(engine, maps, journal, replayed, (&mut emitter, clock::epoch()))?;
    summary.alerts = checkpoint.pending_deliveries.len() + emitter.alerts;
    // Receivers of firing alerts know them from a process that no longer runs.
    sinks.outputs().resend_firing(&engine.firing_with_relay_hints());
    sinks.status.publish_firing(engine);
    info!(
        records = summary.inputs_replayed,
        alerts = summary.alerts,
        flows = summary.flows_accounted,
        "recovered the state of the previous process"
    );
    Ok(summary)
}

impl MapAccess for Kernel {
    fn contains_flow(&self, flow: &Flow) -> io::Result<bool> {
        self.has_flow(flow)
    }

    fn contains_superseded(&self, flow: &Flow) -> io::Result<bool> {
        self.has_superseded_flow(flow)
    }

    fn contains_overflow(&self, key: &SourceOverflowKey) -> io::Result<bool> {
        self.has_source(key)
    }

    fn account_evicted(&mut self, flow: &Flow) {
        self.account_evicted(flow);
    }

    fn account_superseded(&mut self, finished: &SupersededFlow, sums: &[u8]) {
        self.account_superseded(finished, sums);
    }

    fn account_overflow(&mut self, spill: &SourceOverflow) {
        self.account_evicted_source(spill);
    }
}

/// Sends the effects of recovery to the metrics and the outputs.
struct RecoveryEmitter<'a> {
    sinks: &'a EffectRouter,
    checkpointer: &'a mut Checkpointer,
    /// Outputs that had not delivered all alerts.
    lagging: HashSet<String>,
    /// Lines that are already in the output files.
    written_lines: WrittenLines,
    /// Number of emitted alerts.
    alerts: usize,
}

impl RecoverySink for RecoveryEmitter<'_> {
    fn add_to_metrics(&mut self, now: Time, effects: &Effects) {
        self.sinks.add_to_metrics(now, effects);
    }

    fn emit_missing(&mut self, effects: Effects, epoch: WallClockOffset) {
        self.checkpointer.track_alerts(effects.alerts.iter().map(AlertEventId::of));
        let lagging = |name: &str| self.lagging.contains(name);
        self.sinks.outputs().deliver_missing(&effects, epoch, &mut self.written_lines, &lagging);
        self.alerts += effects.alerts.len();
    }
}
