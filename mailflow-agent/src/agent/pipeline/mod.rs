//! One poll after the other: snapshot, engine, sinks.

use std::time::Duration;

use anyhow::Result;
use tracing::info;

use super::{network_lists::ListWatch, pin_watch::PinWatch, poll};
use crate::{
    config::{Config, FlowTableConfig},
    metrics::{EngineStats, KernelSnapshot},
    outputs::router::EffectRouter,
    recovery::{checkpointer::Checkpointer, state_dir::JournalRecord},
    status::{
        duplicate_detector::DuplicateDetector,
        kernel_snapshot::{self, TablePressure},
        unlisted_networks::InsideNetworkMonitor,
        window_sampler::WindowSampler,
    },
};
use mailflow_engine::{Engine, event::Effects};
use mailflow_kernel::clock;
use mailflow_kernel::{Kernel, Lookout, Verify};

/// Everything a poll passes through.
pub(crate) struct Pipeline {
    /// What is in force.
    pub(super) config: Config,
    /// The program is loaded for `host` interfaces beside `lan` ones.
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
    /// Who looks at the hooks.
    pub(crate) fn lookout(&self) -> Option<&Lookout> {
        self.kernel.lookout()
    }

    /// What is known of flows and sources.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Reads the kernel's table and hands on what follows from it.
    pub(crate) fn poll(&mut self) -> Result<()> {
        let begin = clock::now();
        let Self { kernel, engine, sinks, tables, room, delivery, lists, keeper, windows, .. } = self;
        let (inside, pin_watch) = (&mut self.inside, &mut self.pin_watch);
        keeper.record_output_progress(sinks);
        pin_watch.check(begin, kernel, &sinks.status);
        if let Some(internal) = lists.poll(begin, &sinks.status) {
            engine.set_internal(internal);
            // What was judged by the list before is not to be judged again by this one.
            keeper.write_checkpoint(kernel, engine, begin, sinks);
        }
        let now = clock::now();
        let moment = (now, clock::epoch());
        kernel.follow(now, Verify::WhenDue);
        sinks.outputs.watch(&kernel.bound());
        inside.check(kernel, engine.internal(), &sinks.status, (now, false));
        let before = kernel.totals()?;
        // The wall clock may have been set: hours and the ends of allow-lists are its.
        engine.set_clock_offset(moment.1);
        let looked = poll::look(kernel, engine, keeper, moment, |effects| sinks.route(moment, effects));
        let drain = match looked {
            // Nothing is wrong with the tables: this poll is done again once the disk takes it, or without it.
            Err(_) if keeper.is_waiting_for_disk() => None,
            looked => Some(looked?),
        };
        keeper.end_poll(kernel, engine, now, sinks);
        sinks.status.set_durability(keeper.durability(), keeper.usage());
        let Some(drain) = drain else { return Ok(()) };
        let view = kernel_snapshot::take_snapshot(kernel, &before, tables, delivery, drain)?;
        room.log_change(&view);
        let shown = windows.sample(engine, now);
        let (rules, thresholds) = (engine.rule_counts(), engine.term_thresholds());
        let memory = EngineStats { stats: engine.stats(), rules, thresholds };
        let mut numbers = sinks.status.snapshot();
        if let Some(shown) = shown {
            numbers.windows = shown;
        }
        let unlisted = numbers.unlisted.iter();
        let unlisted = unlisted.map(|found| (found.interface.clone(), found.prefix.to_string())).collect();
        numbers.kernel =
            Some(KernelSnapshot { unlisted, unlisted_flows: numbers.unlisted_clients.flows, ..view });
        numbers.engine = Some(memory);
        drop(numbers);
        sinks.status.agent.observe_poll(clock::now().since(now));
        Ok(())
    }

    /// Follows a change of the machine's interfaces.
    pub(crate) fn follow(&mut self) {
        let Self { kernel, sinks, engine, inside, .. } = self;
        let now = clock::now();
        kernel.follow(now, Verify::Now);
        sinks.outputs.watch(&kernel.bound());
        if let Some(view) = &mut sinks.status.snapshot().kernel {
            view.attached = kernel.places().map(kernel_snapshot::attachment).collect();
            view.entries = kernel.bound().into_iter().map(kernel_snapshot::entry).collect();
        }
        inside.check(kernel, engine.internal(), &sinks.status, (now, true));
    }

    /// How often to poll.
    pub(crate) fn poll_interval(&self) -> Duration {
        self.config.poll_interval
    }

    /// The programs are not to count on after the stop, whatever the configuration says.
    pub(crate) fn detach_at_stop(&mut self) {
        self.kernel.detach_at_stop();
    }

    /// Stops counting, makes the last records and writes what waits.
    pub(crate) fn stop(self, grace: Duration) -> Result<()> {
        let Self { mut kernel, mut engine, mut sinks, mut keeper, .. } = self;
        let now = clock::now();
        let moment = (now, clock::epoch());
        let stays = kernel.stays();
        let take = |effects: &Effects| sinks.route(moment, effects);
        if !stays {
            keeper.stop_waiting();
        }
        let read = if stays {
            poll::look(&mut kernel, &mut engine, &mut keeper, moment, take).map(drop)
        } else {
            kernel.detach();
            poll::last_look(&mut kernel, &mut engine, &mut keeper, moment, take)
        };
        // As after every poll.
        let _ = keeper.append([JournalRecord::PollEnd]);
        let written = sinks.outputs.close(grace);
        keeper.record_output_progress(&sinks);
        if stays {
            keeper.write_checkpoint(&kernel, &engine, now, &sinks);
            info!("the programs stay and count on");
            kernel.leave();
        } else {
            kernel.unpin();
            keeper.write_checkpoint(&kernel, &engine, now, &sinks);
        }
        read.and(written)
    }
}

/// The windows from the beginning, as these settings ask for them.
pub(super) fn windows(config: &Config) -> WindowSampler {
    WindowSampler::new(config.outputs.max_windows, config.poll_interval)
}
