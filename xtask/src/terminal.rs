//! Progress output of the tasks, and commands with visible output.

use std::{
    fmt::Display,
    io::{IsTerminal, Write},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

/// Numbered steps on standard output, with their durations.
#[derive(Debug)]
pub(crate) struct Steps {
    of: usize,
    number: usize,
    began: Instant,
}

impl Steps {
    /// Creates a sequence of `of` steps.
    pub(crate) fn new(of: usize) -> Self {
        Self { of, number: 0, began: Instant::now() }
    }

    /// Starts the next step.
    pub(crate) fn next(&mut self, name: &str) {
        self.number += 1;
        println!("{}", bold(&format!("[{}/{}] {name}", self.number, self.of)));
    }

    /// Returns the time since the first step.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Prints a line about the current step.
pub(crate) fn say(line: impl Display) {
    println!("      {line}");
}

/// Prints a dot for a small action; lines follow after [`end_dots`].
pub(crate) fn dot(first: bool) {
    print!("{}", if first { "      ." } else { "." });
    // A closed terminal is no error.
    std::io::stdout().flush().ok();
}

/// Ends a line of dots.
pub(crate) fn end_dots(line: impl Display) {
    println!(" {line}");
}

/// Returns `text` in bold, if standard output is a terminal.
pub(crate) fn bold(text: &str) -> String {
    if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[1m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Formats the command as a command line.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs a command with visible output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = shown(command);
    let status = command.status().with_context(|| format!("cannot run `{line}`"))?;
    ensure!(status.success(), "`{line}` failed: {status}");
    Ok(())
}

/// Returns true if this process is root.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid(2) has no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
