//! Engine and traffic counters, connected as in the agent.

use std::collections::BTreeMap;

use anyhow::anyhow;
use mailflow_agent::{
    config,
    metrics::{LabelContext, SeriesLimits, TrafficCounters},
};
use mailflow_engine::{
    Engine,
    event::Effects,
    flow::{EvictOutcome, Flow},
};

use super::flows::{PART, at};

/// Subject of the measurement.
pub(crate) struct Subject {
    engine: Engine,
    books: Books,
    part: Vec<Flow>,
    fates: Vec<EvictOutcome>,
}

struct Books {
    ledger: TrafficCounters,
    services: BTreeMap<u16, mailflow_engine::settings::Service>,
    now: u64,
}

impl Books {
    fn enter(&mut self, effects: Effects) {
        let places = LabelContext { services: &self.services, v6_source_prefix: 64 };
        self.ledger.observe(&effects, places, at(self.now));
    }
}

impl Subject {
    /// Creates the subject with the shipped configuration.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let config =
            config::parse(config::DEFAULT_NAME, config::DEFAULT).map_err(|faults| anyhow!("{faults}"))?;
        let rules = config.engine.rules.iter().map(|rule| rule.name.clone());
        let limits = SeriesLimits { sources: config.outputs.max_sources, ..SeriesLimits::default() };
        let ledger = TrafficCounters::new(limits, rules);
        let books = Books { ledger, services: config.engine.services.clone(), now: 0 };
        let part = Vec::with_capacity(PART);
        Ok(Self { engine: Engine::new(config.engine), books, part, fates: vec![EvictOutcome::Evicted; PART] })
    }

    /// Does a whole poll, and returns its nanoseconds.
    pub(crate) fn read(&mut self, now: u64, count: u32, flow: impl Fn(u32) -> Flow) -> u64 {
        self.begin(now);
        self.look(count, flow) + self.tick(now)
    }

    pub(crate) fn begin(&mut self, now: u64) {
        self.books.now = now;
        self.engine.begin_poll(at(now));
    }

    /// Passes the batches of a poll to the engine, and evicts the ended flows.
    pub(crate) fn look(&mut self, count: u32, flow: impl Fn(u32) -> Flow) -> u64 {
        let mut spent = 0;
        for begin in (0..count).step_by(PART) {
            self.part.clear();
            self.part.extend((begin..count.min(begin + PART as u32)).map(&flow));
            let start = cpu_time();
            self.books.enter(self.engine.observe_batch(&self.part));
            let ending = self.engine.pending_eviction().len();
            self.books.enter(self.engine.apply_evictions(&self.fates[..ending]));
            spent += cpu_time() - start;
        }
        spent
    }

    /// Returns the packets up and down that were added to the metrics so far.
    pub(crate) fn packets(&self) -> (u64, u64) {
        let (up, down) = self.books.ledger.totals();
        (up.packets, down.packets)
    }

    pub(crate) fn tick(&mut self, now: u64) -> u64 {
        let start = cpu_time();
        self.books.enter(self.engine.tick(at(now)));
        cpu_time() - start
    }
}

/// Returns this thread's CPU time in nanoseconds.
pub(crate) fn cpu_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
