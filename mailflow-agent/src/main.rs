//! mailflow-agent: parse the arguments, and do what they say.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use mailflow_agent::cli;

fn main() -> ExitCode {
    cli::perform(cli::parse()).into()
}
