//! Commands that judge what was recorded: captures and flow logs.

use std::{io, path::Path};

use tracing::error;

use super::{
    args::{BacktestArgs, LogArgs, ReplayArgs},
    command::Exit,
    common::{load, printed},
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

pub(crate) fn replay(path: Option<&Path>, args: ReplayArgs) -> Exit {
    let mut config = match load(path) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    overrides::apply_replay(&mut config, &args);
    match offline::replay::run(&config, args.role, &args.captures, end_of_input(args.drain)) {
        Ok(ReplaySummary { damaged: 0, .. }) => Exit::Good,
        Ok(_) => Exit::Failure,
        Err(error) => {
            error!("{}", error_chain::told(&error));
            Exit::Failure
        }
    }
}

pub(crate) fn backtest(path: Option<&Path>, args: &BacktestArgs) -> Exit {
    let mut config = match load(path) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    overrides::apply_backtest(&mut config, args);
    match offline::backtest::run(&config, &args.logs, &args.reading.options(), end_of_input(args.drain)) {
        Ok(BacktestSummary { unreadable: 0, damaged: 0, .. }) => Exit::Good,
        Ok(_) => Exit::Failure,
        Err(error) => {
            error!("{}", error_chain::told(&error));
            Exit::Failure
        }
    }
}

/// What is said of flow logs without an agent.
pub(crate) fn past(
    path: Option<&Path>,
    args: &LogArgs,
    tell: impl FnOnce(&BacktestSession) -> io::Result<()>,
) -> Exit {
    let config = match load(path) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let past = match BacktestSession::read(&config, &args.logs, &args.reading.options()) {
        Ok(past) => past,
        Err(error) => {
            error!("{}", error_chain::told(&error));
            return Exit::Failure;
        }
    };
    let whole = past.summary.unreadable == 0 && past.summary.damaged == 0;
    printed(tell(&past).map(|()| if whole { Exit::Good } else { Exit::Failure }))
}

const fn end_of_input(drain: bool) -> EndOfInput {
    if drain { EndOfInput::Drain } else { EndOfInput::Stop }
}
