//! Backtest: evaluates the rules on flow logs, in event time.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use tracing::{error, info, warn};

use super::{
    evaluator::{BacktestEvaluator, NotEvaluable},
    flowlog::{
        FlowLog, LogError, LogOptions, ReadContext, read_lines,
        timeline::{RecordSorter, RecordTiming, SorterLimits},
    },
    progress::{Progress, Unit},
    replay::EndOfInput,
    unread::UnreadLines,
};
use crate::{
    config::Config,
    metrics::AgentMetrics,
    outputs::{gateway::Gateway, set::OutputSet},
};
use mailflow_engine::time::WallClockOffset;
use mailflow_kernel::clock;

/// Longest time that the outputs may take at the end to write their queues.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Clock offset of a backtest: times in logs are times of the wall clock.
pub(crate) const LOG_CLOCK_OFFSET: WallClockOffset = WallClockOffset::from_unix_nanos(0);

/// Counts of a backtest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BacktestSummary {
    /// Records that the rules evaluated.
    pub records: u64,
    /// Lines of other event types.
    pub other_events: u64,
    /// Flows that the agent would not count: to other ports, or of other protocols.
    pub not_watched: u64,
    /// Repeated records, which were left out.
    pub repeated: u64,
    /// Lines that could not be read.
    pub unreadable: u64,
    /// Logs that could not be read, or not to their end.
    pub damaged: u64,
}

/// Evaluates the rules on flow logs, merged into one timeline. Logs and counts what cannot be read.
///
/// # Errors
/// Fails if the alerts cannot be written, or the records not be sorted.
pub fn run(
    config: &Config,
    logs: &[PathBuf],
    options: &LogOptions,
    end_of_input: EndOfInput,
) -> Result<BacktestSummary> {
    let agent = AgentMetrics::new(env!("CARGO_PKG_VERSION"), clock::unix_seconds())?;
    let mut outputs =
        OutputSet::open_offline(&config.outputs, &agent, Gateway::new(config.gateway_name.as_deref()))?;
    let (sorter, mut result) = read(config, logs, options);
    let mut evaluator = BacktestEvaluator::new(&config.engine);
    let (sorted, end) = sorter.sorted()?;
    result.records = 0;
    result.repeated = sorted.for_each(|records| {
        result.records += records.len() as u64;
        evaluator.ingest(records, |effects| outputs.write_all(effects, LOG_CLOCK_OFFSET));
    })?;
    if end_of_input == EndOfInput::Drain {
        let longest_window = config.engine.rules.iter().map(|rule| rule.max_alert_delay()).max();
        let end = end + config.engine.timeouts.idle + longest_window.unwrap_or_default();
        evaluator.tick(end, |effects| outputs.write_all(effects, LOG_CLOCK_OFFSET));
    }
    for NotEvaluable { rule, term, missing, records } in evaluator.not_evaluable() {
        let subject = term.map_or_else(|| format!("rule {rule}"), |term| format!("rule {rule}, {term}"));
        warn!("{subject}: not evaluable for {records} records, as their log does not tell: {missing}");
    }
    outputs.close(CLOSE_TIMEOUT)?;
    let BacktestSummary { records, other_events, not_watched, repeated, unreadable, damaged } = result;
    info!(records, other_events, not_watched, repeated, unreadable, damaged, "backtested");
    Ok(result)
}

/// Reads flow logs into a sorter, for one timeline. Logs and counts what cannot be read.
pub(crate) fn read(
    config: &Config,
    logs: &[PathBuf],
    options: &LogOptions,
) -> (RecordSorter, BacktestSummary) {
    let timing = RecordTiming { timeouts: config.engine.timeouts, poll_interval: config.poll_interval };
    let mut reader = LogReader {
        context: ReadContext {
            services: &config.engine.services,
            l2_overhead: options.l2_overhead,
            columns: &options.columns,
        },
        sorter: RecordSorter::new(timing, SorterLimits::DEFAULT),
        progress: Progress::new(logs, &config.outputs, Unit::Records),
        result: BacktestSummary::default(),
    };
    logs.iter().for_each(|path| reader.read_log(path));
    let LogReader { sorter, progress, result, .. } = reader;
    progress.finish();
    (sorter, result)
}

struct LogReader<'a> {
    context: ReadContext<'a>,
    sorter: RecordSorter,
    progress: Progress,
    result: BacktestSummary,
}

impl LogReader<'_> {
    fn read_log(&mut self, path: &Path) {
        let Self { context, sorter, progress, result } = self;
        // The sorter keeps its error for `RecordSorter::sorted`; reading on would be in vain.
        if !sorter.is_healthy() {
            return;
        }
        let count_damaged = |result: &mut BacktestSummary, damage: &LogError| {
            result.damaged += 1;
            progress.suspend(|| error!("{damage}"));
        };
        let log = match FlowLog::open(path, *context) {
            Ok(log) => log,
            Err(damage) => return count_damaged(result, &damage),
        };
        let (mut read, mut unread) = (0, UnreadLines::default());
        let end = read_lines(log, sorter, |block| {
            read = block.position;
            result.records += block.records;
            result.other_events += block.other_events + block.one_way;
            result.not_watched += block.not_watched;
            result.unreadable += block.errors.len() as u64;
            unread.one_way += block.one_way;
            for (line, error) in block.errors {
                if unread.count_line(&error) {
                    let path = path.to_owned();
                    progress.suspend(|| error!("{}", LogError::Line { path, line, error }));
                }
            }
            progress.update_block(result.records, read);
            sorter.is_healthy()
        });
        if let Err(damage) = &end {
            count_damaged(result, damage);
        }
        progress.suspend(|| unread.report(path));
        self.progress.finish_file(self.result.records, end.unwrap_or(read));
    }
}
