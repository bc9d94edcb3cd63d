//! Write failures of the state directory: cause, duration and log messages.

use std::time::Duration;

use tracing::{error, info};

use super::state_dir::WriteFailurePolicy;
use crate::{config::scalar::format_duration, control::Durability, util::error_chain::LogRateLimit};
use mailflow_engine::time::Time;
use mailflow_kernel::clock;

/// Current write failure, if any, and counts.
#[derive(Debug)]
pub(crate) struct WriteFailures {
    ongoing: Option<OngoingFailure>,
    /// End of the last failure, or the start of the agent, in seconds since 1970.
    healthy_since: f64,
    failures: u64,
    lines: LogRateLimit,
}

#[derive(Debug)]
struct OngoingFailure {
    since: Time,
    unix_seconds: f64,
    cause: String,
    /// Time since when the journal or the input log cannot be written; `None` if only the checkpoint cannot
    /// be replaced.
    journal_since: Option<Time>,
    /// True if the failure was logged.
    logged: bool,
}

/// Kind of write that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailedWrite {
    /// Write to the journal or the input log.
    Journal,
    /// Replacement of the checkpoint.
    Checkpoint,
}

impl Default for WriteFailures {
    fn default() -> Self {
        let healthy_since = clock::unix_seconds();
        Self { ongoing: None, healthy_since, failures: 0, lines: LogRateLimit::default() }
    }
}

impl WriteFailures {
    /// Returns true while writes fail.
    pub(crate) fn is_ongoing(&self) -> bool {
        self.ongoing.is_some()
    }

    /// Returns true while writes to the journal or the input log fail.
    pub(crate) fn is_journal_failing(&self) -> bool {
        self.ongoing.as_ref().is_some_and(|now| now.journal_since.is_some())
    }

    /// Notes that the journal and the input log can be written again.
    pub(crate) fn journal_recovered(&mut self) {
        if let Some(now) = &mut self.ongoing {
            now.journal_since = None;
        }
    }

    /// Returns the number of failures.
    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }

    /// Returns the policy for records that cannot be written now. After the timeout they are kept in memory.
    pub(crate) fn policy(&self, durability_timeout: Duration) -> WriteFailurePolicy {
        let since = self.ongoing.as_ref().and_then(|now| now.journal_since);
        if durability_timeout.is_zero()
            || since.is_some_and(|since| clock::now().since(since) >= durability_timeout)
        {
            WriteFailurePolicy::KeepInMemory
        } else {
            WriteFailurePolicy::Fail
        }
    }

    /// Counts a failure. Logs at most one message a minute.
    pub(crate) fn note(
        &mut self,
        what: FailedWrite,
        cause: String,
        durability_timeout: Duration,
        in_memory: bool,
    ) {
        self.failures += 1;
        let now = clock::now();
        let ongoing = self.ongoing.get_or_insert_with(|| OngoingFailure {
            since: now,
            unix_seconds: clock::unix_seconds(),
            cause: String::new(),
            journal_since: None,
            logged: false,
        });
        ongoing.cause = cause;
        if what == FailedWrite::Journal {
            ongoing.journal_since.get_or_insert(now);
        }
        if !self.lines.may_log(now) {
            return;
        }
        ongoing.logged = true;
        let (error, seconds) = (&ongoing.cause, now.since(ongoing.since).as_secs());
        if in_memory {
            error!(
                error,
                seconds,
                failures = self.failures,
                "the state cannot be written; detection continues without it; a crash now loses what the rules learn"
            );
        } else if ongoing.journal_since.is_none() {
            error!(
                error,
                seconds,
                failures = self.failures,
                "the state cannot be replaced; the journal is still written, and grows"
            );
        } else {
            let durability_timeout = format_duration(durability_timeout);
            error!(
                error,
                seconds,
                durability_timeout,
                "the state cannot be written; flows wait in the kernel's table, at most for the durability timeout; \
                 then detection continues without the state"
            );
        }
    }

    /// Ends the failure.
    pub(crate) fn end(&mut self) {
        let Some(now) = self.ongoing.take() else { return };
        self.healthy_since = clock::unix_seconds();
        // The end of a failure is logged only if the failure was.
        if now.logged {
            let seconds = clock::now().since(now.since).as_secs();
            info!(seconds, "the state is written again; durability is restored");
        }
    }

    /// Returns the durability for the status.
    pub(crate) fn status(&self, in_memory: bool) -> Durability {
        match &self.ongoing {
            None => Durability { durable: true, since: self.healthy_since, ..Durability::default() },
            Some(now) => Durability {
                durable: false,
                since: now.unix_seconds,
                cause: Some(now.cause.clone()),
                in_memory,
                journal: !in_memory && now.journal_since.is_none(),
            },
        }
    }
}
