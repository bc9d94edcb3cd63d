//! What a poll leaves behind for the agent after this one: the journal, the history, the state.

use std::{io, path::PathBuf, time::Duration};

use tracing::{error, info};

use crate::{
    clock,
    config::{AlertTo, Config, FlowTo, Target},
    control::Firing,
    engine::{
        Engine,
        event::{self, Effects},
        flow::RecordReason,
        time::{Epoch, Time},
    },
    kernel::{Kernel, Taking},
    state::{Entry, Judged, State, Store, Told},
};

/// How often the state is kept while it is small ...
const OFTEN: Duration = Duration::from_secs(1);
/// ... and while it is not.
const SELDOM: Duration = Duration::from_secs(10);
/// Keeping it takes at most one part in this many of the time.
const SHARE: u32 = 20;
/// Living flows up to which it is small.
const SMALL: u64 = 5_000;
/// What is not written after this long is given up when the state is kept.
const PATIENCE: Duration = Duration::from_secs(60);

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
    pub(super) fn note(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        let Some(store) = &mut self.store else { return Ok(()) };
        if entries.is_empty() {
            return Ok(());
        }
        let first = self.poll.take();
        let all: Vec<Entry> = first.iter().cloned().chain(entries).collect();
        let result = store.note(&all);
        if result.is_err() {
            self.poll = first;
        }
        self.report(result)
    }

    /// Writes down what the rules were shown and what is told, before it is.
    pub(super) fn take(&mut self, effects: &Effects) {
        let Some(store) = &mut self.store else { return };
        let judged = |judged: &event::Judged| Judged {
            at: judged.at,
            flow: judged.record.flow.clone(),
            reason: judged.record.reason,
            open: judged.open,
        };
        let judged: Vec<Judged> = effects.judged.iter().map(judged).collect();
        store.handed_over(effects.alerts.iter().map(Told::of));
        if !judged.is_empty() {
            let result = store.judged(&judged);
            // What cannot be written is judged again after a crash, or not; it is no reason to stop.
            let _ = self.report(result);
        }
    }

    /// The poll is over. `drained` tells whether the outputs have written all they were handed, `firing` which
    /// alerts fire.
    pub(super) fn over(
        &mut self,
        kernel: &Kernel,
        engine: &Engine,
        now: Time,
        drained: bool,
        firing: impl FnOnce() -> Vec<(u64, Firing)>,
    ) {
        if self.poll.take().is_none() {
            // Without that note the poll is taken for one that was not finished, and looked at again.
            let _ = self.note(vec![Entry::Over]);
        }
        if drained {
            self.written();
        }
        let long = self.store.as_ref().is_some_and(Store::is_long);
        let late = now >= self.next + PATIENCE;
        // What the outputs have not written is known to the journal, and forgotten with it.
        if self.store.is_some() && ((now >= self.next && drained) || long || late) {
            self.keep(kernel, engine, now, firing());
            let took = clock::now().since(now);
            let pause = if engine.stats().open_flows < SMALL { OFTEN } else { SELDOM };
            // A state that takes long to keep is kept more seldom.
            self.next = now + pause.max(took * SHARE);
        }
    }

    /// Before the first poll: from here on what the files have is looked at.
    pub(super) fn mark(&mut self) {
        if let Some(store) = &mut self.store {
            let result = store.mark(&self.files);
            let _ = self.report(result);
        }
    }

    /// The outputs have written all they were handed.
    pub(super) fn written(&mut self) {
        if let Some(store) = &mut self.store {
            let result = store.written(&self.files);
            let _ = self.report(result);
        }
    }

    /// Keeps the state.
    pub(super) fn keep(&mut self, kernel: &Kernel, engine: &Engine, now: Time, firing: Vec<(u64, Firing)>) {
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
            firing,
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

/// The entries of what a part of the living brought: records of those that live on, and those that ended.
pub(super) fn entries(effects: &Effects, ended: &[crate::engine::flow::Flow]) -> Vec<Entry> {
    let active = effects.records.iter().filter(|record| record.reason == RecordReason::Active);
    let active = active.map(|record| Entry::Active(record.flow.clone()));
    active.chain(ended.iter().cloned().map(Entry::Ended)).collect()
}

/// The entries of what is taken out of the tables beside the living.
pub(super) fn taken(taking: Taking<'_>) -> Vec<Entry> {
    match taking {
        Taking::Finished(finished) => {
            finished.iter().cloned().map(|(finished, sums)| Entry::Finished(finished, sums)).collect()
        }
        Taking::Spilled(spilled) => spilled.iter().cloned().map(Entry::Spilled).collect(),
    }
}
