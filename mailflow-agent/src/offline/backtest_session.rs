//! `explain` and `suggest`, as messages of the control protocol: of the running agent, and of flow logs.

use std::{net::IpAddr, path::PathBuf};

use anyhow::Result;

use super::{
    backtest::{self, BacktestSummary, LOG_CLOCK_OFFSET},
    flowlog::{LogOptions, timeline::TimedRecord},
};
use crate::{
    agent::pipeline::Pipeline,
    config::Config,
    control::{AllowSuggestion, SourceExplanation},
    status::explanation::{convert_explanation, list_suggestions},
};
use mailflow_engine::{
    Engine,
    settings::{RuleLimits, Settings},
    time::Time,
};
use mailflow_kernel::clock;

impl Pipeline {
    /// Explains the state of the rules and the recent flows of a source.
    pub(crate) fn explain(&self, source: IpAddr, flows: usize) -> SourceExplanation {
        convert_explanation(&self.engine().explain(source, clock::now(), flows), clock::epoch())
    }

    /// Suggests allow-list entries.
    pub(crate) fn suggest(&self) -> Vec<AllowSuggestion> {
        list_suggestions(self.engine())
    }
}

/// Engine that has evaluated flow logs, for `explain` and `suggest`.
#[derive(Debug)]
pub struct BacktestSession {
    engine: Engine,
    end: Time,
    /// Counts of what was read.
    pub summary: BacktestSummary,
}

impl BacktestSession {
    /// Reads `logs` and evaluates the rules on them, as a backtest does. Logs and counts what cannot be read.
    ///
    /// # Errors
    /// Fails if a temporary file for the records cannot be written or read.
    pub fn read(config: &Config, logs: &[PathBuf], options: &LogOptions) -> Result<Self> {
        let (sorter, summary) = backtest::read(config, logs, options);
        let settings = Settings { limits: RuleLimits::WIDEST, ..config.engine.clone() };
        let mut engine = Engine::new(settings);
        // An explanation of all records holds all of them anyway, so a bound saves no memory.
        engine.retain_all_records();
        let (sorted, end) = sorter.sorted()?;
        sorted.for_each(|records| {
            for TimedRecord { at, record } in records {
                engine.ingest_record(*at, record);
            }
        })?;
        engine.tick(end);
        Ok(Self { engine, end, summary })
    }

    /// Explains the state of the rules and the recent flows of a source, at the end of the logs.
    pub fn explain(&self, source: IpAddr, flows: usize) -> SourceExplanation {
        convert_explanation(&self.engine.explain(source, self.end, flows), LOG_CLOCK_OFFSET)
    }

    /// Suggests allow-list entries.
    pub fn suggest(&self) -> Vec<AllowSuggestion> {
        list_suggestions(&self.engine)
    }

    /// Returns the number of attempts for which the logs do not show whether mail was delivered, and of all
    /// attempts.
    pub fn count_unknown_outcomes(&self) -> (u64, u64) {
        self.engine.count_undetermined_attempts()
    }
}
