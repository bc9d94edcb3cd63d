//! Trouble with the state on the disk: its cause, its beginning, and the lines of the log about it.

use std::time::Duration;

use tracing::{error, info};

use super::store::Unwritable;
use crate::{config::scalar::format_duration, control::Durability, util::error_chain::LogRateLimit};
use mailflow_engine::time::Time;
use mailflow_kernel::clock;

/// Trouble, or none.
#[derive(Debug)]
pub(crate) struct Trouble {
    on: Option<Now>,
    /// Seconds since 1970: the end of the last trouble, or the start.
    good_since: f64,
    failures: u64,
    lines: LogRateLimit,
}

#[derive(Debug)]
struct Now {
    since: Time,
    unix_seconds: f64,
    cause: String,
    /// Since when entries of the journal or the history cannot be written; none while they can, and the state alone
    /// cannot be replaced.
    entries_since: Option<Time>,
    /// The log has it.
    said: bool,
}

/// Something that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unwritten {
    /// Entries of the journal or the history.
    Entries,
    /// The state.
    State,
}

impl Default for Trouble {
    fn default() -> Self {
        let good_since = clock::unix_seconds();
        Self { on: None, good_since, failures: 0, lines: LogRateLimit::default() }
    }
}

impl Trouble {
    /// Returns true while the state cannot be written.
    pub(crate) fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// Returns true while entries of the journal or the history cannot be written.
    pub(crate) fn is_with_entries(&self) -> bool {
        self.on.as_ref().is_some_and(|now| now.entries_since.is_some())
    }

    /// Entries are written again.
    pub(crate) fn entries_written(&mut self) {
        if let Some(now) = &mut self.on {
            now.entries_since = None;
        }
    }

    /// Failures to write so far.
    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }

    /// What becomes of entries that cannot be written now: after the patience they are kept in memory.
    pub(crate) fn otherwise(&self, patience: Duration) -> Unwritable {
        let since = self.on.as_ref().and_then(|now| now.entries_since);
        if patience.is_zero() || since.is_some_and(|since| clock::now().since(since) >= patience) {
            Unwritable::InMemory
        } else {
            Unwritable::Refused
        }
    }

    /// The state could not be written. The log has a line a minute at most.
    pub(crate) fn note(&mut self, what: Unwritten, cause: String, patience: Duration, in_memory: bool) {
        self.failures += 1;
        let now = clock::now();
        let on = self.on.get_or_insert_with(|| Now {
            since: now,
            unix_seconds: clock::unix_seconds(),
            cause: String::new(),
            entries_since: None,
            said: false,
        });
        on.cause = cause;
        if what == Unwritten::Entries {
            on.entries_since.get_or_insert(now);
        }
        if !self.lines.may_log(now) {
            return;
        }
        on.said = true;
        let (error, seconds) = (&on.cause, now.since(on.since).as_secs());
        if in_memory {
            error!(
                error,
                seconds,
                failures = self.failures,
                "the state cannot be written: detection goes on without it; a crash now loses what the rules learn"
            );
        } else if on.entries_since.is_none() {
            error!(
                error,
                seconds,
                failures = self.failures,
                "the state cannot be replaced: the journal is written on, and grows"
            );
        } else {
            let patience = format_duration(patience);
            error!(
                error,
                seconds,
                patience,
                "the state cannot be written: flows wait in the kernel's table, at most for the patience; then \
                 detection goes on without the state"
            );
        }
    }

    /// The state is written again.
    pub(crate) fn end(&mut self) {
        let Some(now) = self.on.take() else { return };
        self.good_since = clock::unix_seconds();
        // The log has the end of what it has the beginning of.
        if now.said {
            let seconds = clock::now().since(now.since).as_secs();
            info!(seconds, "the state is written again, all of it; durability is back");
        }
    }

    /// As people are shown it.
    pub(crate) fn shown(&self, in_memory: bool) -> Durability {
        match &self.on {
            None => Durability { durable: true, since: self.good_since, ..Durability::default() },
            Some(now) => Durability {
                durable: false,
                since: now.unix_seconds,
                cause: Some(now.cause.clone()),
                in_memory,
                journal: !in_memory && now.entries_since.is_none(),
            },
        }
    }
}
