//! mailflow-agent: parses the arguments and runs the command.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use mailflow_agent::cli;

fn main() -> ExitCode {
    cli::dispatch(cli::parse()).into()
}
