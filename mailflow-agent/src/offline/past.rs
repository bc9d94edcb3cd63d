//! The engine's explanations in the words of the control socket: of a running agent, and of flow logs.

use std::{net::IpAddr, path::PathBuf};

use anyhow::Result;

use super::{
    backtest::{self, Backtested, EPOCH},
    flowlog::{LogOptions, history::Arrival},
};
use crate::{
    agent::pipeline::Pipeline,
    config::Config,
    control::{Explained, Suggested},
    status::explanation::{explained, suggested},
};
use mailflow_engine::{
    Engine,
    settings::{RuleLimits, Settings},
    time::Time,
};
use mailflow_kernel::clock;

impl Pipeline {
    /// All there is to say of a source.
    pub(crate) fn explain(&self, source: IpAddr, flows: usize) -> Explained {
        explained(&self.engine().explain(source, clock::now(), flows), clock::epoch())
    }

    /// What an allow-list might name.
    pub(crate) fn suggest(&self) -> Vec<Suggested> {
        suggested(self.engine())
    }
}

/// Flow logs as one history that the rules have seen.
#[derive(Debug)]
pub struct Past {
    engine: Engine,
    end: Time,
    /// How it went.
    pub read: Backtested,
}

impl Past {
    /// Reads `logs` and lets the rules see them, as a backtest does. What cannot be read of the logs is
    /// logged and counted.
    ///
    /// # Errors
    /// A temporary file for the records cannot be written or read.
    pub fn read(config: &Config, logs: &[PathBuf], options: &LogOptions) -> Result<Self> {
        let (sorter, read) = backtest::read(config, logs, options);
        let settings = Settings { limits: RuleLimits::WIDEST, ..config.engine.clone() };
        let mut engine = Engine::new(settings);
        // What explains all records holds them all: there is no sense in a bound.
        engine.retain_all_records();
        let (sorted, end) = sorter.sorted()?;
        sorted.for_each(|arrivals| {
            for Arrival { at, record } in arrivals {
                engine.ingest_record(*at, record);
            }
        })?;
        engine.tick(end);
        Ok(Self { engine, end, read })
    }

    /// All there is to say of a source, as it was at the end of the logs.
    pub fn explain(&self, source: IpAddr, flows: usize) -> Explained {
        explained(&self.engine.explain(source, self.end, flows), EPOCH)
    }

    /// What an allow-list might name.
    pub fn suggest(&self) -> Vec<Suggested> {
        suggested(&self.engine)
    }

    /// Attempts of which the logs do not tell whether mail was delivered, and all attempts.
    pub fn undelivered_or_not(&self) -> (u64, u64) {
        self.engine.count_undetermined_attempts()
    }
}
