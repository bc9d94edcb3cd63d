//! Flow logs as flow records: mailflow's own lines, Suricata's EVE, Zeek's conn.log.
//!
//! Fields that a log does not record are missing in the record
//! ([`Inputs`](mailflow_engine::flow::RecordFields)), not zero. docs/rules/backtest.md lists the fields of each
//! format.

mod app;
mod endpoints;
mod envelope;
mod error;
mod eve;
mod json;
mod log;
mod options;
mod outcome;
mod parallel;
mod text;
pub mod timeline;
mod zeek;

pub use self::{
    error::{LineError, LogError},
    log::FlowLog,
    options::{LogOptions, ReadContext},
    outcome::{LineOutcome, LogOrigin, LogRecord, SkipReason},
    parallel::{BlockOutcome, read_lines},
    zeek::names::RenamedColumn,
};
