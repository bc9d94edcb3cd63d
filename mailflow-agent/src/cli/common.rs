//! Helpers of several commands: logging, configuration, messages and exit statuses.

use super::command::ExitStatus;
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

/// Starts logging, loads the configuration, and logs its warnings. Prints errors to standard error.
pub(crate) fn load_config(path: Option<&Path>) -> Result<Config, ExitStatus> {
    init_logging();
    let config = config::load(path).map_err(|faults| report_diagnostics(&faults))?;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    Ok(config)
}

/// Prints the errors of a configuration.
pub(crate) fn report_diagnostics(faults: &Diagnostics) -> ExitStatus {
    faults.iter().for_each(|fault| print_error(format_args!("{fault}")));
    ExitStatus::Usage
}

/// Prints a line to standard error.
pub(crate) fn print_error(line: fmt::Arguments<'_>) {
    // A failure to write to standard error cannot be reported anywhere.
    let _ = writeln!(terminal::err(), "{line}");
}

/// Converts the result of a printing command into an exit status. A closed pipe is no failure, as the reader
/// may exit early.
pub(crate) fn exit_status(result: io::Result<ExitStatus>) -> ExitStatus {
    match result {
        Ok(exit) => exit,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitStatus::Good,
        Err(error) => {
            print_error(format_args!("{error}"));
            ExitStatus::Failure
        }
    }
}

/// Starts logging to standard error, as standard output is for alerts and flow records. `RUST_LOG` sets the
/// level. Messages of the kernel program are logged at all levels, as `--kernel-log` limits them.
pub(crate) fn init_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kernel=trace"));
    let colours = io::stderr().is_terminal();
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(colours);
    // Like the default formatter, but escapes values, so that they cannot control a terminal.
    let fields = format::debug_fn(|writer, field, value| {
        let value = format!("{value:?}");
        match field.name() {
            "message" => write!(writer, "{}", terminal::escape(&value)),
            name => write!(writer, "{name}={}", terminal::escape(&value)),
        }
    });
    // Otherwise the subscriber panics if it cannot report an error of writing.
    let format = format.log_internal_errors(false);
    format.fmt_fields(fields.delimited(" ")).with_writer(io::stderr).init();
}
