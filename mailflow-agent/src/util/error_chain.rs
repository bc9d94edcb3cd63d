//! Errors as a line of text, how often the log has one, and the end of a process that panics.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt::Display,
    io::{self, Write},
    panic,
    process::exit,
    thread,
    time::Duration,
};

use mailflow_engine::time::Time;

/// Exit status of a process that panicked, as Rust's own.
const PANICKED: i32 = 101;

/// Writes a line to standard error. A line that cannot be written is lost, unlike with `eprintln!`, which panics.
fn say(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Threads whose panic ends the process at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// All.
    Any,
    /// All but the first one, which unwinds and so gives back the terminal.
    Others,
}

/// From now on a panic in a thread ends the process with a message: a process without one of its threads looks alive
/// and is not.
pub fn end_on_panic(ended_by: EndedBy) {
    panic::set_hook(Box::new(move |info| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("without a name");
        say(format_args!(
            "mailflow-agent: thread {name}: {info}\nThis is a defect; please report it. The process ends."
        ));
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            say(trace);
        }
        if ended_by == EndedBy::Any || name != "main" {
            exit(PANICKED);
        }
    }));
}

/// Least time between two lines of the log about one trouble that lasts or comes and goes.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// A limit of lines of the log: one a minute.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limited {
    last: Option<Time>,
}

impl Limited {
    /// Returns true if a line may be written now; then none may for a minute.
    pub fn may_say(&mut self, now: Time) -> bool {
        let may = self.last.is_none_or(|last| now.since(last) >= LINE_INTERVAL);
        if may {
            self.last = Some(now);
        }
        may
    }
}

/// An error with its causes. Many of ours say the system's reason themselves, and that is not said twice.
pub fn told(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        match told.as_str() {
            "" => told = cause,
            said if said.ends_with(&cause) => {}
            _ => told.extend([": ", &cause]),
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::outputs::jsonl_file::OpenError;

    /// Runs one of these tests, which are ignored otherwise, as a process of its own.
    fn as_a_process(test: &str, stderr: std::process::Stdio) -> std::process::Output {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("util::error_chain::tests::{test}"), "--ignored", "--nocapture"]);
        command.env_remove("RUST_BACKTRACE").stderr(stderr).output().unwrap()
    }

    #[test]
    #[ignore = "a part of the test below"]
    fn panics_in_a_thread() {
        end_on_panic(EndedBy::Any);
        let panics = std::thread::Builder::new().name("sink".into()).spawn(|| panic!("out of ink")).unwrap();
        let _ = panics.join();
        // A process that goes on without its thread.
        exit(0);
    }

    #[test]
    fn a_panic_in_a_thread_ends_the_process_with_a_message() {
        let output = as_a_process("panics_in_a_thread", std::process::Stdio::piped());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(PANICKED), "{said}");
        assert!(
            said.contains("mailflow-agent: thread sink: panicked at ") && said.contains("out of ink"),
            "{said}"
        );
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = as_a_process("panics_in_a_thread", full.into());
        assert_eq!(output.status.code(), Some(PANICKED), "where nothing can be said");
    }

    #[test]
    fn a_line_a_minute() {
        let mut limited = Limited::default();
        let mut may = |seconds: u64| limited.may_say(Time::from_nanos(seconds * 1_000_000_000));
        assert_eq!(
            [0, 1, 59, 60, 61, 119, 120, 500].map(&mut may),
            [true, false, false, true, false, false, true, true]
        );
    }

    #[test]
    fn a_reason_is_told_once() {
        let source = io::Error::from_raw_os_error(libc::ENOENT);
        let error = anyhow::Error::new(OpenError::File { path: "/nosuch/flows.json".into(), source });
        let reason = "No such file or directory (os error 2)";
        assert_eq!(told(&error), format!("cannot open /nosuch/flows.json for appending: {reason}"));
        assert_eq!(
            told(&error.context("the flow log")),
            format!("the flow log: cannot open /nosuch/flows.json for appending: {reason}")
        );
    }
}
