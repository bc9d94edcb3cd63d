//! What a poll leaves behind for the agent after this one: the journal, the history, the state.
//!
//! A flow is in the journal before it leaves the kernel's table. Where nothing can be written, flows wait in that table
//! for `state.durability_timeout`; then they leave it without being written down, and rules, alerts and outputs go on.
//! The tables are marked as ahead of the state ([`StaleCheckpointMark`]) before the first of them does. Durability begins again with
//! a fresh state, and only then with entries of the journal.

use std::{io, path::PathBuf, time::Duration};

use tracing::warn;

use super::{
    durability::{Trouble, Unwritten},
    poll_records,
    store::{Entry, State, Store, Told, Unwritable},
};
use crate::{
    config::{AlertTo, Config, FlowTo, Target},
    control::Durability,
    outputs::router::Sinks,
};
use mailflow_engine::{
    Engine,
    event::Effects,
    time::{Epoch, Time},
};
use mailflow_kernel::clock;
use mailflow_kernel::{Kernel, StaleCheckpointMark};

/// How often the state is kept while it is small ...
const OFTEN: Duration = Duration::from_secs(1);
/// ... and while it is not.
const SELDOM: Duration = Duration::from_secs(10);
/// Keeping it takes at most one part in this many of a CPU's time ...
const SHARE: u32 = 200;
/// ... and less where that takes long: with the polls, a million quiet sources are to take less than a 100th of a core.
/// The journal since then stays short all the same, see [`Store::is_long`].
const SHARE_OF_LONG: u32 = 500;
/// From here on it takes long.
const LONG: Duration = Duration::from_millis(200);
/// Polls wait for the disk, and for other processes, for at most one part in this many of the time.
const SHARE_OF_WAITS: u32 = 20;
/// Living flows up to which it is small.
const SMALL: u64 = 5_000;

/// Keeps what outlives the process, if anything does.
pub(crate) struct Keeper {
    store: Option<Store>,
    /// Files that the outputs write to.
    files: Vec<PathBuf>,
    next: Time,
    poll: Option<Entry>,
    /// How long flows wait for a disk that takes nothing.
    patience: Duration,
    /// The mark that the pinned tables are ahead of the state, where they are pinned.
    ahead: Option<StaleCheckpointMark>,
    /// The state that the tables are marked as ahead of.
    marked: Option<Option<u64>>,
    trouble: Trouble,
    /// What was judged in this poll could not be written.
    judged_is_lost: bool,
    /// Entries of this poll could not be written to the journal.
    entries_failed: bool,
}

impl Keeper {
    /// Keeps nothing.
    pub(crate) fn none() -> Self {
        Self {
            store: None,
            files: Vec::new(),
            next: Time::ZERO,
            poll: None,
            patience: Duration::ZERO,
            ahead: None,
            marked: None,
            trouble: Trouble::default(),
            judged_is_lost: false,
            entries_failed: false,
        }
    }

    /// Keeps it in `store`, which cannot be written because of `trouble`, if there is any. `ahead` marks the tables.
    pub(crate) fn new(
        store: Option<Store>,
        ahead: Option<StaleCheckpointMark>,
        trouble: Option<String>,
        config: &Config,
    ) -> Self {
        let mut keeper = Self { store, ahead, ..Self::none() };
        keeper.configure(config);
        if let Some(cause) = trouble {
            keeper.trouble.note(Unwritten::Entries, cause, keeper.patience, true);
            keeper.follow_suspension();
        }
        keeper
    }

    /// Another configuration is in force.
    pub(crate) fn configure(&mut self, config: &Config) {
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
        self.patience = config.state.durability_timeout;
        if let Some(store) = &mut self.store {
            store.set_limits(config.state.limits);
        }
    }

    /// A poll begins, whose lines are written by this epoch.
    pub(crate) fn begin(&mut self, now: Time, epoch: Epoch) {
        self.entries_failed = false;
        self.poll = Some(Entry::Poll { now, epoch: epoch.unix_nanos(Time::ZERO) });
    }

    /// Writes down what the poll is about to do.
    ///
    /// # Errors
    /// It cannot be written: then it must not be done.
    pub(crate) fn note(&mut self, entries: impl IntoIterator<Item = Entry>) -> io::Result<()> {
        let Some(store) = &mut self.store else { return Ok(()) };
        let mut entries = entries.into_iter().peekable();
        if entries.peek().is_none() {
            return Ok(());
        }
        let first = self.poll.take();
        let otherwise = self.trouble.otherwise(self.patience);
        let result = store.note(first.iter().cloned().chain(entries), otherwise);
        if result.is_err() {
            (self.poll, self.entries_failed) = (first, true);
        }
        if let Some(cause) = store.take_cause() {
            self.trouble.note(Unwritten::Entries, cause, self.patience, true);
        }
        self.follow_suspension();
        self.report(result)
    }

    /// Returns true while flows wait in the kernel's table for a disk that takes nothing.
    pub(crate) fn waits(&self) -> bool {
        self.trouble.is_with_entries() && !self.is_in_memory()
    }

    /// From now on flows leave the kernel's table although nothing can be written: at the end nothing may wait.
    pub(crate) fn wait_no_longer(&mut self) {
        self.patience = Duration::ZERO;
    }

    fn is_in_memory(&self) -> bool {
        self.store.as_ref().is_some_and(Store::is_suspended)
    }

    /// Writes down what the rules were shown, and until when time passed, before what is told of it is.
    pub(crate) fn take(&mut self, moment: (Time, Epoch), engine: &Engine, effects: &Effects) {
        let Some(store) = &mut self.store else { return };
        store.handed_over(effects.alerts.iter().map(Told::of));
        let result = store.passed(poll_records::passed(moment, engine));
        // What cannot be written is judged again after a crash; it is no reason to stop.
        self.judged_is_lost = result.is_err();
        match &result {
            Ok(()) if !self.entries_failed => self.trouble.entries_written(),
            Ok(()) => {}
            Err(_) => {
                if self.trouble.otherwise(self.patience) == Unwritable::InMemory {
                    store.suspend();
                }
            }
        }
        let _ = self.report(result);
        self.follow_suspension();
    }

    /// Alerts of an agent before are handed over.
    pub(crate) fn tell(&mut self, alerts: impl IntoIterator<Item = Told>) {
        if let Some(store) = &mut self.store {
            store.handed_over(alerts);
        }
    }

    /// The poll is over, and the state is kept when it is time to, whatever the outputs do.
    pub(crate) fn over(&mut self, kernel: &Kernel, engine: &Engine, now: Time, sinks: &Sinks) {
        if self.poll.take().is_none() && !self.judged_is_lost {
            // Without that note the poll is taken for one that was not finished, and looked at again.
            let _ = self.note([Entry::Over]);
        }
        self.look_at(sinks);
        // Outputs that work are given until the next poll: what they deliver by then need not be kept.
        let calm = !sinks.outputs().is_told() && !self.trouble.is_on();
        let due = now >= if calm { self.next + OFTEN } else { self.next };
        if self.store.as_ref().is_some_and(|store| due || store.is_long() && !self.trouble.is_on()) {
            let (begun, used) = (clock::now(), clock::thread_cpu_time());
            self.keep(kernel, engine, now, sinks);
            let (took, used) = (clock::now().since(begun), clock::thread_cpu_time().saturating_sub(used));
            let pause = if engine.stats().open_flows < SMALL { OFTEN } else { SELDOM };
            // A state that takes long to keep is kept more seldom.
            let share = if used < LONG { SHARE } else { SHARE_OF_LONG };
            self.next = now + pause.max(used * share).max(took * SHARE_OF_WAITS);
        }
    }

    /// Notes what the outputs have written and delivered by now.
    pub(crate) fn look_at(&mut self, sinks: &Sinks) {
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
    pub(crate) fn mark(&mut self) {
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
    pub(crate) fn keep(&mut self, kernel: &Kernel, engine: &Engine, now: Time, sinks: &Sinks) {
        let Some(store) = &mut self.store else { return };
        let known = engine.known();
        let state = State {
            generation: kernel.generation(),
            tables: kernel.checkpoint().into(),
            now: now.as_nanos(),
            seen: known.now.as_nanos(),
            seeds: known.seeds,
            flows: known.flows,
            rules: engine.save(),
            firing: sinks.firing(),
            untold: sinks.outputs().untold(),
        };
        let result = store.keep(&state);
        match result {
            Ok(()) => {
                self.clear_mark();
                self.trouble.end();
            }
            Err(error) => {
                let in_memory = self.is_in_memory();
                self.trouble.note(Unwritten::State, error.to_string(), self.patience, in_memory);
                // It may be the state that could be replaced, and the journal that could not.
                self.follow_suspension();
            }
        }
    }

    /// Notes a failed write.
    fn report(&mut self, result: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &result {
            let in_memory = self.is_in_memory();
            self.trouble.note(Unwritten::Entries, error.to_string(), self.patience, in_memory);
        }
        result
    }

    /// Marks the tables as ahead of the state on the disk while nothing is written.
    fn follow_suspension(&mut self) {
        let Some(store) = self.store.as_ref().filter(|store| store.is_suspended()) else { return };
        let state = store.state();
        let stands = self.ahead.as_ref().is_none_or(|ahead| ahead.is_marked(state));
        if self.marked == Some(state) && stands {
            return;
        }
        if let Some(ahead) = &self.ahead
            && let Err(error) = ahead.mark(state)
            && self.marked != Some(state)
        {
            warn!(%error, "the pinned tables cannot be marked as ahead of the state");
        }
        self.marked = Some(state);
    }

    fn clear_mark(&mut self) {
        if self.marked.take().is_some()
            && let Some(ahead) = &self.ahead
            && let Err(error) = ahead.clear()
        {
            warn!(%error, "the mark of the pinned tables cannot be removed");
        }
    }

    /// The state on the disk, for people; none where none is kept.
    pub(crate) fn durability(&self) -> Option<Durability> {
        let store = self.store.as_ref()?;
        Some(self.trouble.shown(store.is_suspended()))
    }

    /// Bytes of the state's files, and the failures to write them so far.
    pub(crate) fn usage(&self) -> Option<(u64, u64)> {
        self.store.as_ref().map(|store| (store.bytes(), self.trouble.failures()))
    }
}
