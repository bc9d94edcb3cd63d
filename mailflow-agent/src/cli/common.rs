//! Steps that several commands share: the log, the configuration, messages and exit statuses.

use super::command::Exit;
use crate::{
    config::{self, Config, Diagnostics},
    util::terminal,
};
use std::{
    fmt, io,
    io::{IsTerminal, Write},
    path::Path,
};
use tracing::warn;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::{EnvFilter, fmt::format};

/// The configuration, its warnings logged; faults go to standard error.
pub(crate) fn load(path: Option<&Path>) -> Result<Config, Exit> {
    log();
    let config = config::load(path).map_err(|faults| faulty(&faults))?;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    Ok(config)
}

/// Prints what is wrong with a configuration.
pub(crate) fn faulty(faults: &Diagnostics) -> Exit {
    faults.iter().for_each(|fault| say(format_args!("{fault}")));
    Exit::Usage
}

/// Prints a line on standard error.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    // There is no other place to say that it cannot be written.
    let _ = writeln!(terminal::err(), "{line}");
}

/// What a command that only prints ends with; whoever reads may have gone before the end.
pub(crate) fn printed(result: io::Result<Exit>) -> Exit {
    match result {
        Ok(exit) => exit,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Good,
        Err(error) => {
            say(format_args!("{error}"));
            Exit::Failure
        }
    }
}

/// Logs to standard error, which leaves standard output to alerts and flows; `RUST_LOG` sets the level.
/// What the kernel program says has been asked for by `--kernel-log`.
pub(crate) fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kernel=trace"));
    let colours = io::stderr().is_terminal();
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(colours);
    // As the format's own, but that values cannot make a terminal act.
    let fields = format::debug_fn(|writer, field, value| {
        let value = format!("{value:?}");
        match field.name() {
            "message" => write!(writer, "{}", terminal::escape(&value)),
            name => write!(writer, "{name}={}", terminal::escape(&value)),
        }
    });
    // A line that cannot be written is lost: the subscriber would panic where it cannot say so either.
    let format = format.log_internal_errors(false);
    format.fmt_fields(fields.delimited(" ")).with_writer(io::stderr).init();
}
