//! Error formatting, log rate limits, and the panic hook.

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

/// Exit status after a panic, the same as Rust's own.
const PANICKED: i32 = 101;

/// Writes a line to standard error. Ignores errors, unlike `eprintln!`, which panics.
fn write_stderr_line(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Threads whose panic ends the process at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicScope {
    /// All threads.
    AllThreads,
    /// All threads except the main thread, which unwinds and so restores the terminal.
    ExceptMain,
}

/// Installs a panic hook that ends the process with a message: a process without one of its threads looks
/// alive, but does not work.
pub fn exit_on_panic(scope: PanicScope) {
    panic::set_hook(Box::new(move |info| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("without a name");
        write_stderr_line(format_args!(
            "mailflow-agent: thread {name}: {info}\nThis is a defect; please report it. The process ends."
        ));
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            write_stderr_line(trace);
        }
        if scope == PanicScope::AllThreads || name != "main" {
            exit(PANICKED);
        }
    }));
}

/// Minimum time between two log lines about one problem.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Rate limit of log lines: one a minute.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogRateLimit {
    last: Option<Time>,
}

impl LogRateLimit {
    /// Returns true if a line may be written now, and starts the next interval.
    pub fn may_log(&mut self, now: Time) -> bool {
        let may = self.last.is_none_or(|last| now.since(last) >= LINE_INTERVAL);
        if may {
            self.last = Some(now);
        }
        may
    }
}

/// Formats an error with its causes. A cause that the text contains already is not repeated.
pub fn format_error_chain(error: &anyhow::Error) -> String {
    let mut format_error_chain = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        match format_error_chain.as_str() {
            "" => format_error_chain = cause,
            text if text.ends_with(&cause) => {}
            _ => format_error_chain.extend([": ", &cause]),
        }
    }
    format_error_chain
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::outputs::jsonl_file::OpenError;

    /// Runs one of the ignored tests as a process of its own.
    fn as_a_process(test: &str, stderr: std::process::Stdio) -> std::process::Output {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("util::error_chain::tests::{test}"), "--ignored", "--nocapture"]);
        command.env_remove("RUST_BACKTRACE").stderr(stderr).output().unwrap()
    }

    #[test]
    #[ignore = "a part of the test below"]
    fn panics_in_a_thread() {
        exit_on_panic(PanicScope::AllThreads);
        let panics = std::thread::Builder::new().name("sink".into()).spawn(|| panic!("out of ink")).unwrap();
        let _ = panics.join();
        // The process must not reach this exit.
        exit(0);
    }

    #[test]
    fn a_panic_in_a_thread_ends_the_process_with_a_message() {
        let output = as_a_process("panics_in_a_thread", std::process::Stdio::piped());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(PANICKED), "{text}");
        assert!(
            text.contains("mailflow-agent: thread sink: panicked at ") && text.contains("out of ink"),
            "{text}"
        );
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = as_a_process("panics_in_a_thread", full.into());
        assert_eq!(output.status.code(), Some(PANICKED), "where nothing can be said");
    }

    #[test]
    fn one_line_a_minute() {
        let mut limited = LogRateLimit::default();
        let mut may = |seconds: u64| limited.may_log(Time::from_nanos(seconds * 1_000_000_000));
        assert_eq!(
            [0, 1, 59, 60, 61, 119, 120, 500].map(&mut may),
            [true, false, false, true, false, false, true, true]
        );
    }

    #[test]
    fn repeated_cause_is_printed_once() {
        let source = io::Error::from_raw_os_error(libc::ENOENT);
        let error = anyhow::Error::new(OpenError::File { path: "/nosuch/flows.json".into(), source });
        let reason = "No such file or directory (os error 2)";
        assert_eq!(
            format_error_chain(&error),
            format!("cannot open /nosuch/flows.json for appending: {reason}")
        );
        assert_eq!(
            format_error_chain(&error.context("the flow log")),
            format!("the flow log: cannot open /nosuch/flows.json for appending: {reason}")
        );
    }
}
