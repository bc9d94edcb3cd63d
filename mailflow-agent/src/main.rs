//! mailflow-agent: parse the arguments, and do what they say.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use mailflow_agent::{cli, commands};

fn main() -> ExitCode {
    commands::perform(cli::parse()).into()
}
