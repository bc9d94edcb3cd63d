//! One poll after the other: snapshot, engine, sinks.

use std::time::Duration;

use anyhow::Result;
use tracing::info;

use super::{network_lists::ListWatch, pin_watch::PinWatch, poll};
use crate::{
    config::{Config, FlowTable},
    metrics::{KernelView, Memory},
    outputs::router::Sinks,
    recovery::{checkpointer::Keeper, store::Entry},
    status::{
        duplicate_detector::Delivery,
        kernel_snapshot::{self, Room},
        unlisted_networks::InsideWatch,
        window_sampler::Windows,
    },
};
use mailflow_engine::{Engine, event::Effects};
use mailflow_kernel::clock;
use mailflow_kernel::{HookQueryHelper, Kernel, Verification};

/// Everything a poll passes through.
pub(crate) struct Pipeline {
    /// What is in force.
    pub(super) config: Config,
    /// The program is loaded for `host` interfaces beside `lan` ones.
    pub(super) mixed: bool,
    pub(super) kernel: Kernel,
    pub(super) engine: Engine,
    pub(super) sinks: Sinks,
    pub(super) tables: FlowTable,
    pub(super) room: Room,
    pub(super) delivery: Delivery,
    pub(super) windows: Windows,
    pub(super) lists: ListWatch,
    pub(super) keeper: Keeper,
    pub(super) inside: InsideWatch,
    pub(super) pin_watch: PinWatch,
}

impl Pipeline {
    /// Who looks at the hooks.
    pub(crate) fn lookout(&self) -> Option<&HookQueryHelper> {
        self.kernel.hook_query_helper()
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
        keeper.look_at(sinks);
        pin_watch.look(begin, kernel, &sinks.view);
        if let Some(internal) = lists.look(begin, &sinks.view) {
            engine.set_internal(internal);
            // What was judged by the list before is not to be judged again by this one.
            keeper.keep(kernel, engine, begin, sinks);
        }
        let now = clock::now();
        let moment = (now, clock::epoch());
        kernel.follow_interfaces(now, Verification::WhenDue);
        sinks.outputs.watch(&kernel.entry_bindings());
        inside.look(kernel, engine.internal(), &sinks.view, (now, false));
        let before = kernel.totals()?;
        // The wall clock may have been set: hours and the ends of allow-lists are its.
        engine.set_epoch(moment.1);
        let looked = poll::poll(kernel, engine, keeper, moment, |effects| sinks.take(moment, effects));
        let drain = match looked {
            // Nothing is wrong with the tables: this poll is done again once the disk takes it, or without it.
            Err(_) if keeper.waits() => None,
            looked => Some(looked?),
        };
        keeper.over(kernel, engine, now, sinks);
        sinks.view.set_durability(keeper.durability(), keeper.usage());
        let Some(drain) = drain else { return Ok(()) };
        let view = kernel_snapshot::kernel_view(kernel, &before, tables, delivery, drain)?;
        room.note(&view);
        let shown = windows.show(engine, now);
        let (rules, thresholds) = (engine.rule_counts(), engine.thresholds());
        let memory = Memory { stats: engine.stats(), rules, thresholds };
        let mut numbers = sinks.view.numbers();
        if let Some(shown) = shown {
            numbers.windows = shown;
        }
        let unlisted = numbers.unlisted.iter();
        let unlisted = unlisted.map(|found| (found.interface.clone(), found.prefix.to_string())).collect();
        numbers.kernel = Some(KernelView { unlisted, unlisted_flows: numbers.clients.flows, ..view });
        numbers.memory = Some(memory);
        drop(numbers);
        sinks.view.agent.polled(clock::now().since(now));
        Ok(())
    }

    /// Follows a change of the machine's interfaces.
    pub(crate) fn follow(&mut self) {
        let Self { kernel, sinks, engine, inside, .. } = self;
        let now = clock::now();
        kernel.follow_interfaces(now, Verification::Now);
        sinks.outputs.watch(&kernel.entry_bindings());
        if let Some(view) = &mut sinks.view.numbers().kernel {
            view.attached = kernel.attachments().map(kernel_snapshot::shown).collect();
            view.entries = kernel.entry_bindings().into_iter().map(kernel_snapshot::entry).collect();
        }
        inside.look(kernel, engine.internal(), &sinks.view, (now, true));
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
        let stays = kernel.keeps_counting();
        let take = |effects: &Effects| sinks.take(moment, effects);
        if !stays {
            keeper.wait_no_longer();
        }
        let read = if stays {
            poll::poll(&mut kernel, &mut engine, &mut keeper, moment, take).map(drop)
        } else {
            kernel.detach();
            poll::final_poll(&mut kernel, &mut engine, &mut keeper, moment, take)
        };
        // As after every poll.
        let _ = keeper.note([Entry::Over]);
        let written = sinks.outputs.close(grace);
        keeper.look_at(&sinks);
        if stays {
            keeper.keep(&kernel, &engine, now, &sinks);
            info!("the programs stay and count on");
            kernel.keep_attached();
        } else {
            kernel.unpin();
            keeper.keep(&kernel, &engine, now, &sinks);
        }
        read.and(written)
    }
}

/// The windows from the beginning, as these settings ask for them.
pub(super) fn windows(config: &Config) -> Windows {
    Windows::new(config.outputs.max_windows, config.poll_interval)
}
