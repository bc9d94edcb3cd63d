//! Flow logs instead of an interface: the rules over what was logged, in event time.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use tracing::{error, info, warn};

use super::{
    evaluator::{Judges, Unjudged},
    flowlog::{
        Log, LogError, LogOptions, Reading,
        history::{Limits, Rhythm, Sorter},
        read_lines,
    },
    progress::{Progress, Unit},
    replay::AtEnd,
    unread::Unread,
};
use crate::{
    config::Config,
    metrics::Agent,
    outputs::{gateway::Gateway, set::Outputs},
};
use mailflow_engine::time::WallClockOffset;
use mailflow_kernel::clock;

/// How long what is waiting to be written may take at the end.
const GRACE: Duration = Duration::from_secs(60);
/// Logs tell the wall clock's time.
pub(crate) const EPOCH: WallClockOffset = WallClockOffset::from_unix_nanos(0);

/// How a backtest went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backtested {
    /// Records that the rules saw.
    pub records: u64,
    /// Lines of other event types.
    pub other_events: u64,
    /// Flows that the agent would not count: to other ports, or of other protocols.
    pub not_watched: u64,
    /// Records that stood in the logs before.
    pub repeated: u64,
    /// Lines that could not be read.
    pub unreadable: u64,
    /// Logs that could not be read, or not to their end.
    pub damaged: u64,
}

/// Evaluates the rules on flow logs as one history.
///
/// # Errors
/// The alerts cannot be written. What cannot be read of the logs is logged and counted.
pub fn run(config: &Config, logs: &[PathBuf], options: &LogOptions, at_end: AtEnd) -> Result<Backtested> {
    let agent = Agent::new(env!("CARGO_PKG_VERSION"), clock::unix_seconds())?;
    let mut outputs =
        Outputs::open_for_the_past(&config.outputs, &agent, Gateway::new(config.gateway_name.as_deref()))?;
    let (sorter, mut result) = read(config, logs, options);
    let mut judges = Judges::new(&config.engine);
    let (sorted, end) = sorter.sorted()?;
    result.records = 0;
    result.repeated = sorted.for_each(|arrivals| {
        result.records += arrivals.len() as u64;
        judges.see(arrivals, |effects| outputs.write_all(effects, EPOCH));
    })?;
    if at_end == AtEnd::Drain {
        let longest = config.engine.rules.iter().map(|rule| rule.max_alert_delay()).max();
        let end = end + config.engine.timeouts.idle + longest.unwrap_or_default();
        judges.tick(end, |effects| outputs.write_all(effects, EPOCH));
    }
    for Unjudged { rule, term, lacking, records } in judges.unjudged() {
        let what = term.map_or_else(|| format!("rule {rule}"), |term| format!("rule {rule}, {term}"));
        warn!("{what}: not evaluable for {records} records, as their log does not tell: {lacking}");
    }
    outputs.close(GRACE)?;
    let Backtested { records, other_events, not_watched, repeated, unreadable, damaged } = result;
    info!(records, other_events, not_watched, repeated, unreadable, damaged, "backtested");
    Ok(result)
}

/// Reads flow logs as one history. What cannot be read is logged and counted.
pub(crate) fn read(config: &Config, logs: &[PathBuf], options: &LogOptions) -> (Sorter, Backtested) {
    let rhythm = Rhythm { timeouts: config.engine.timeouts, poll_interval: config.poll_interval };
    let mut reader = Reader {
        reading: Reading {
            services: &config.engine.services,
            l2_overhead: options.l2_overhead,
            columns: &options.columns,
        },
        sorter: Sorter::new(rhythm, Limits::USUAL),
        progress: Progress::new(logs, &config.outputs, Unit::Records),
        result: Backtested::default(),
    };
    logs.iter().for_each(|path| reader.log(path));
    let Reader { sorter, progress, result, .. } = reader;
    progress.end();
    (sorter, result)
}

struct Reader<'a> {
    reading: Reading<'a>,
    sorter: Sorter,
    progress: Progress,
    result: Backtested,
}

impl Reader<'_> {
    fn log(&mut self, path: &Path) {
        let Self { reading, sorter, progress, result } = self;
        // Otherwise it is known already that this fails.
        if !sorter.is_good() {
            return;
        }
        let damaged = |result: &mut Backtested, damage: &LogError| {
            result.damaged += 1;
            progress.pause(|| error!("{damage}"));
        };
        let log = match Log::open(path, *reading) {
            Ok(log) => log,
            Err(damage) => return damaged(result, &damage),
        };
        let (mut read, mut unread) = (0, Unread::default());
        let end = read_lines(log, sorter, |found| {
            read = found.position;
            result.records += found.records;
            result.other_events += found.other_events + found.one_way;
            result.not_watched += found.not_watched;
            result.unreadable += found.faults.len() as u64;
            unread.one_way += found.one_way;
            for (line, fault) in found.faults {
                if unread.is_first_of_its_reason(&fault) {
                    let path = path.to_owned();
                    progress.pause(|| error!("{}", LogError::Line { path, line, fault }));
                }
            }
            progress.at_block(result.records, read);
            sorter.is_good()
        });
        if let Err(damage) = &end {
            damaged(result, damage);
        }
        progress.pause(|| unread.report(path));
        self.progress.file_done(self.result.records, end.unwrap_or(read));
    }
}
