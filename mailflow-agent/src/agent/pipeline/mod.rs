//! Pipeline of the agent: kernel, engine, journal and outputs, and what runs at each poll.

use std::time::Duration;

use anyhow::Result;
use tracing::info;

use super::{network_lists::ListWatch, pin_watch::PinWatch, poll};
use crate::{
    config::{Config, FlowTableConfig},
    metrics::{EngineStats, KernelSnapshot},
    outputs::router::EffectRouter,
    recovery::checkpointer::Checkpointer,
    status::{
        duplicate_detector::DuplicateDetector,
        kernel_snapshot::{self, TablePressure},
        unlisted_networks::InsideNetworkMonitor,
        window_sampler::WindowSampler,
    },
};
use mailflow_engine::{Engine, event::Effects};
use mailflow_kernel::clock;
use mailflow_kernel::{HookQueryHelper, Kernel, Verification};

/// State of the poll loop.
pub(crate) struct Pipeline {
    /// Configuration in force.
    pub(super) config: Config,
    /// True if the program is loaded for both `host` and `lan` interfaces.
    pub(super) mixed: bool,
    pub(super) kernel: Kernel,
    pub(super) engine: Engine,
    pub(super) sinks: EffectRouter,
    pub(super) tables: FlowTableConfig,
    pub(super) room: TablePressure,
    pub(super) delivery: DuplicateDetector,
    pub(super) windows: WindowSampler,
    pub(super) lists: ListWatch,
    pub(super) keeper: Checkpointer,
    pub(super) inside: InsideNetworkMonitor,
    pub(super) pin_watch: PinWatch,
}

impl Pipeline {
    /// Returns the helper process that queries hooks, if it answers.
    pub(crate) fn hook_query_helper(&self) -> Option<&HookQueryHelper> {
        self.kernel.hook_query_helper()
    }

    /// Returns the engine, for queries.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Polls the flow table: network lists and interfaces first, then the scan, then checkpoint and metrics.
    pub(crate) fn poll(&mut self) -> Result<()> {
        let begin = clock::now();
        let Self { kernel, engine, sinks, tables, room, delivery, lists, keeper, windows, .. } = self;
        let (inside, pin_watch) = (&mut self.inside, &mut self.pin_watch);
        keeper.record_output_progress(sinks);
        pin_watch.check(begin, kernel, &sinks.status);
        if let Some(internal) = lists.poll(begin, &sinks.status) {
            engine.set_internal(internal);
            // After a crash, recovery evaluates the records since the last checkpoint again: these must not meet
            // the new networks.
            keeper.write_checkpoint(kernel, engine, begin, sinks);
        }
        let now = clock::now();
        let at = (now, clock::epoch());
        kernel.follow_interfaces(now, Verification::WhenDue);
        sinks.outputs.watch(&kernel.entry_bindings());
        inside.check(kernel, engine.internal(), &sinks.status, (now, false));
        let before = kernel.totals()?;
        // The wall clock may have been set: hours of rules and ends of allow-lists are wall clock times.
        engine.set_clock_offset(at.1);
        let mut has_alerts = false;
        let polled = poll::poll(kernel, engine, keeper, at, |effects| {
            has_alerts |= !effects.alerts.is_empty();
            sinks.route(at, effects);
        });
        if has_alerts {
            sinks.status.publish_firing(engine);
        }
        let scan_time = match polled {
            // The journal cannot be written, and the flows stay in the table: a later poll reads them again.
            Err(_) if keeper.is_waiting_for_disk() => None,
            polled => Some(polled?),
        };
        keeper.end_poll(kernel, engine, now, sinks);
        sinks.status.set_durability(keeper.durability(), keeper.usage());
        let Some(scan_time) = scan_time else { return Ok(()) };
        let view = kernel_snapshot::take_snapshot(kernel, &before, tables, delivery, scan_time)?;
        room.log_change(&view);
        let samples = windows.sample(engine, now);
        let (rules, thresholds) = (engine.rule_counts(), engine.term_thresholds());
        let memory = EngineStats { stats: engine.stats(), rules, thresholds };
        let mut numbers = sinks.status.snapshot();
        if let Some(samples) = samples {
            numbers.windows = samples;
        }
        let unlisted = numbers.unlisted.iter();
        let unlisted =
            unlisted.map(|network| (network.interface.clone(), network.prefix.to_string())).collect();
        numbers.kernel =
            Some(KernelSnapshot { unlisted, unlisted_flows: numbers.unlisted_clients.flows, ..view });
        numbers.engine = Some(memory);
        drop(numbers);
        sinks.status.agent.observe_poll(clock::now().since(now));
        Ok(())
    }

    /// Follows a change of the machine's interfaces, between two polls.
    pub(crate) fn follow_interfaces(&mut self) {
        let Self { kernel, sinks, engine, inside, .. } = self;
        let now = clock::now();
        kernel.follow_interfaces(now, Verification::Now);
        sinks.outputs.watch(&kernel.entry_bindings());
        if let Some(view) = &mut sinks.status.snapshot().kernel {
            view.attached = kernel.attachments().map(kernel_snapshot::attachment).collect();
            view.entries = kernel.entry_bindings().into_iter().map(kernel_snapshot::entry).collect();
        }
        inside.check(kernel, engine.internal(), &sinks.status, (now, true));
    }

    /// Returns the interval between two polls.
    pub(crate) fn poll_interval(&self) -> Duration {
        self.config.poll_interval
    }

    /// Sets that the programs are detached at the stop, whatever the configuration says.
    pub(crate) fn detach_at_stop(&mut self) {
        self.kernel.detach_at_stop();
    }

    /// Stops: polls a last time, closes the outputs and writes the checkpoint. The programs stay attached and keep
    /// counting, if the configuration says so; otherwise they are detached, and each flow gets its final record.
    pub(crate) fn stop(self, grace: Duration) -> Result<()> {
        let Self { mut kernel, mut engine, mut sinks, mut keeper, .. } = self;
        let now = clock::now();
        let at = (now, clock::epoch());
        let keeps_counting = kernel.keeps_counting();
        let emit = |effects: &Effects| sinks.route(at, effects);
        if !keeps_counting {
            keeper.stop_waiting();
        }
        let polled = if keeps_counting {
            poll::poll(&mut kernel, &mut engine, &mut keeper, at, emit).map(drop)
        } else {
            kernel.detach();
            poll::final_poll(&mut kernel, &mut engine, &mut keeper, at, emit)
        };
        keeper.complete_poll();
        let closed = sinks.outputs.close(grace);
        keeper.record_output_progress(&sinks);
        if keeps_counting {
            keeper.write_checkpoint(&kernel, &engine, now, &sinks);
            info!("the programs stay and count on");
            kernel.keep_attached();
        } else {
            kernel.unpin();
            keeper.write_checkpoint(&kernel, &engine, now, &sinks);
        }
        polled.and(closed)
    }
}

/// Returns a sampler of windows for these settings.
pub(super) fn windows(config: &Config) -> WindowSampler {
    WindowSampler::new(config.outputs.max_windows, config.poll_interval)
}
