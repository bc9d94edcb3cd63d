//! Offline commands: `replay` and `backtest`, and reading flow logs for `explain` and `suggest`.

use std::{io, path::Path};

use tracing::error;

use super::{
    args::{BacktestArgs, LogArgs, ReplayArgs},
    command::ExitStatus,
    common::{exit_status, load_config},
    overrides,
};
use crate::{
    offline::{
        self,
        backtest::BacktestSummary,
        backtest_session::BacktestSession,
        replay::{EndOfInput, ReplaySummary},
    },
    util::error_chain,
};

pub(crate) fn replay(path: Option<&Path>, args: ReplayArgs) -> ExitStatus {
    let mut config = match load_config(path) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    overrides::apply_replay(&mut config, &args);
    match offline::replay::run(&config, args.role, &args.captures, end_of_input(args.drain)) {
        Ok(ReplaySummary { damaged: 0, .. }) => ExitStatus::Good,
        Ok(_) => ExitStatus::Failure,
        Err(error) => {
            error!("{}", error_chain::format_error_chain(&error));
            ExitStatus::Failure
        }
    }
}

pub(crate) fn backtest(path: Option<&Path>, args: &BacktestArgs) -> ExitStatus {
    let mut config = match load_config(path) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    overrides::apply_backtest(&mut config, args);
    match offline::backtest::run(&config, &args.logs, &args.reading.options(), end_of_input(args.drain)) {
        Ok(BacktestSummary { unreadable: 0, damaged: 0, .. }) => ExitStatus::Good,
        Ok(_) => ExitStatus::Failure,
        Err(error) => {
            error!("{}", error_chain::format_error_chain(&error));
            ExitStatus::Failure
        }
    }
}

/// Reads flow logs, and runs `command` on them.
pub(crate) fn with_flow_logs(
    path: Option<&Path>,
    args: &LogArgs,
    command: impl FnOnce(&BacktestSession) -> io::Result<()>,
) -> ExitStatus {
    let config = match load_config(path) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let past = match BacktestSession::read(&config, &args.logs, &args.reading.options()) {
        Ok(past) => past,
        Err(error) => {
            error!("{}", error_chain::format_error_chain(&error));
            return ExitStatus::Failure;
        }
    };
    let whole = past.summary.unreadable == 0 && past.summary.damaged == 0;
    exit_status(command(&past).map(|()| if whole { ExitStatus::Good } else { ExitStatus::Failure }))
}

const fn end_of_input(drain: bool) -> EndOfInput {
    if drain { EndOfInput::Drain } else { EndOfInput::Stop }
}
