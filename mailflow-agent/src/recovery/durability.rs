//! Trouble with the state on the disk: its cause, its beginning, and the lines of the log about it.

use std::time::Duration;

use tracing::{error, info};

use super::state_dir::WriteFailurePolicy;
use crate::{config::scalar::show_duration, control::Durability, util::error_chain::Limited};
use mailflow_engine::time::Time;
use mailflow_kernel::clock;

/// Trouble, or none.
#[derive(Debug)]
pub(crate) struct WriteFailures {
    ongoing: Option<OngoingFailure>,
    /// Seconds since 1970: the end of the last trouble, or the start.
    healthy_since: f64,
    failures: u64,
    lines: Limited,
}

#[derive(Debug)]
struct OngoingFailure {
    since: Time,
    unix_seconds: f64,
    cause: String,
    /// Since when entries of the journal or the history cannot be written; none while they can, and the state alone
    /// cannot be replaced.
    journal_since: Option<Time>,
    /// The log has it.
    logged: bool,
}

/// Something that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailedWrite {
    /// Entries of the journal or the history.
    Journal,
    /// The state.
    Checkpoint,
}

impl Default for WriteFailures {
    fn default() -> Self {
        let healthy_since = clock::unix_seconds();
        Self { ongoing: None, healthy_since, failures: 0, lines: Limited::default() }
    }
}

impl WriteFailures {
    /// Returns true while the state cannot be written.
    pub(crate) fn is_ongoing(&self) -> bool {
        self.ongoing.is_some()
    }

    /// Returns true while entries of the journal or the history cannot be written.
    pub(crate) fn is_journal_failing(&self) -> bool {
        self.ongoing.as_ref().is_some_and(|now| now.journal_since.is_some())
    }

    /// Entries are written again.
    pub(crate) fn journal_recovered(&mut self) {
        if let Some(now) = &mut self.ongoing {
            now.journal_since = None;
        }
    }

    /// Failures to write so far.
    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }

    /// What becomes of entries that cannot be written now: after the patience they are kept in memory.
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

    /// The state could not be written. The log has a line a minute at most.
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
        if !self.lines.may_say(now) {
            return;
        }
        ongoing.logged = true;
        let (error, seconds) = (&ongoing.cause, now.since(ongoing.since).as_secs());
        if in_memory {
            error!(
                error,
                seconds,
                failures = self.failures,
                "the state cannot be written: detection goes on without it; a crash now loses what the rules learn"
            );
        } else if ongoing.journal_since.is_none() {
            error!(
                error,
                seconds,
                failures = self.failures,
                "the state cannot be replaced: the journal is written on, and grows"
            );
        } else {
            let durability_timeout = show_duration(durability_timeout);
            error!(
                error,
                seconds,
                durability_timeout,
                "the state cannot be written: flows wait in the kernel's table, at most for the patience; then \
                 detection goes on without the state"
            );
        }
    }

    /// The state is written again.
    pub(crate) fn end(&mut self) {
        let Some(now) = self.ongoing.take() else { return };
        self.healthy_since = clock::unix_seconds();
        // The log has the end of what it has the beginning of.
        if now.logged {
            let seconds = clock::now().since(now.since).as_secs();
            info!(seconds, "the state is written again, all of it; durability is back");
        }
    }

    /// As people are shown it.
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
