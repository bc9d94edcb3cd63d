//! What a poll leaves behind for the agent after this one: the journal, the history, the state.

use std::{io, path::PathBuf, time::Duration};

use tracing::{error, info};

use super::{notes, sinks::Sinks};
use crate::{
    clock,
    config::{AlertTo, Config, FlowTo, Target},
    engine::{
        Engine,
        event::Effects,
        time::{Epoch, Time},
    },
    kernel::Kernel,
    state::{Entry, State, Store, Told},
};

/// How often the state is kept while it is small ...
const OFTEN: Duration = Duration::from_secs(1);
/// ... and while it is not.
const SELDOM: Duration = Duration::from_secs(10);
/// Keeping it takes at most one part in this many of the time.
const SHARE: u32 = 20;
/// Living flows up to which it is small.
const SMALL: u64 = 5_000;

/// Keeps what outlives the process, if anything does.
pub(super) struct Keeper {
    store: Option<Store>,
    /// Files that the outputs write to.
    files: Vec<PathBuf>,
    next: Time,
    poll: Option<Entry>,
    trouble: bool,
}

impl Keeper {
    /// Keeps nothing.
    pub(super) fn none() -> Self {
        Self { store: None, files: Vec::new(), next: Time::ZERO, poll: None, trouble: false }
    }

    /// Keeps it in `store`.
    pub(super) fn new(store: Option<Store>, config: &Config) -> Self {
        let mut keeper = Self { store, ..Self::none() };
        keeper.configure(config);
        keeper
    }

    /// Another configuration is in force.
    pub(super) fn configure(&mut self, config: &Config) {
        let alerts = config.outputs.alerts.iter().map(|output| match &output.to {
            AlertTo::Lines { target, .. } => Some(target),
            _ => None,
        });
        let flows = config.outputs.flow_log.iter().map(|output| match &output.to {
            FlowTo::Lines { target, .. } => Some(target),
            FlowTo::Ipfix(_) => None,
        });
        let file = |target: &Target| match target {
            Target::File(path) => Some(path.clone()),
            Target::Stdout => None,
        };
        self.files = alerts.chain(flows).flatten().filter_map(file).collect();
    }

    /// A poll begins, whose lines are written by this epoch.
    pub(super) fn begin(&mut self, now: Time, epoch: Epoch) {
        self.poll = Some(Entry::Poll { now, epoch: epoch.unix_nanos(Time::ZERO) });
    }

    /// Writes down what the poll is about to do.
    ///
    /// # Errors
    /// It cannot be written: then it must not be done.
    pub(super) fn note(&mut self, entries: impl IntoIterator<Item = Entry>) -> io::Result<()> {
        let Some(store) = &mut self.store else { return Ok(()) };
        let mut entries = entries.into_iter().peekable();
        if entries.peek().is_none() {
            return Ok(());
        }
        let first = self.poll.take();
        let result = store.note(first.iter().cloned().chain(entries));
        if result.is_err() {
            self.poll = first;
        }
        self.report(result)
    }

    /// Writes down what the rules were shown, and until when time passed, before what is told of it is.
    pub(super) fn take(&mut self, moment: (Time, Epoch), engine: &Engine, effects: &Effects) {
        let Some(store) = &mut self.store else { return };
        store.handed_over(effects.alerts.iter().map(Told::of));
        let result = store.passed(notes::passed(moment, engine));
        // What cannot be written is judged again after a crash, or not; it is no reason to stop.
        let _ = self.report(result);
    }

    /// Alerts of an agent before are handed over.
    pub(super) fn tell(&mut self, alerts: impl IntoIterator<Item = Told>) {
        if let Some(store) = &mut self.store {
            store.handed_over(alerts);
        }
    }

    /// The poll is over, and the state is kept when it is time to, whatever the outputs do.
    pub(super) fn over(&mut self, kernel: &Kernel, engine: &Engine, now: Time, sinks: &Sinks) {
        if self.poll.take().is_none() {
            // Without that note the poll is taken for one that was not finished, and looked at again.
            let _ = self.note([Entry::Over]);
        }
        self.look_at(sinks);
        // Outputs that work are given until the next poll: what they deliver by then need not be kept.
        let due = now >= if sinks.outputs().is_told() { self.next } else { self.next + OFTEN };
        if self.store.as_ref().is_some_and(|store| due || store.is_long()) {
            self.keep(kernel, engine, now, sinks);
            let took = clock::now().since(now);
            let pause = if engine.stats().open_flows < SMALL { OFTEN } else { SELDOM };
            // A state that takes long to keep is kept more seldom.
            self.next = now + pause.max(took * SHARE);
        }
    }

    /// Notes what the outputs have written and delivered by now.
    pub(super) fn look_at(&mut self, sinks: &Sinks) {
        let Some(store) = &mut self.store else { return };
        if sinks.outputs().is_told() {
            let result = store.delivered();
            let _ = self.report(result);
        }
        // Lines that are not written for long are given up: they are in their sink's queue only.
        if sinks.outputs().is_written() || self.store.as_ref().is_some_and(Store::is_full) {
            self.written();
        }
    }

    /// Before the first poll: from here on what the files have is looked at.
    pub(super) fn mark(&mut self) {
        if let Some(store) = &mut self.store {
            let result = store.mark(&self.files);
            let _ = self.report(result);
        }
    }

    /// From here on what the files have is looked at.
    fn written(&mut self) {
        if let Some(store) = &mut self.store {
            let result = store.written(&self.files);
            let _ = self.report(result);
        }
    }

    /// Keeps the state.
    pub(super) fn keep(&mut self, kernel: &Kernel, engine: &Engine, now: Time, sinks: &Sinks) {
        let Some(store) = &mut self.store else { return };
        let known = engine.known();
        let state = State {
            generation: kernel.generation(),
            tables: kernel.keep().into(),
            now: now.as_nanos(),
            seen: known.now.as_nanos(),
            seeds: known.seeds,
            flows: known.flows,
            rules: engine.save(),
            firing: sinks.firing(),
            untold: sinks.outputs().untold(),
        };
        let result = store.keep(&state).map_err(io::Error::other);
        let _ = self.report(result);
    }

    /// Says once that it cannot be written, and once that it can be again.
    fn report(&mut self, result: io::Result<()>) -> io::Result<()> {
        match &result {
            Err(error) if !self.trouble => {
                self.trouble = true;
                error!(%error, "the state cannot be written: flows stay in the kernel's table until it can");
            }
            Ok(()) if self.trouble => {
                self.trouble = false;
                info!("the state is written again");
            }
            _ => {}
        }
        result
    }
}
