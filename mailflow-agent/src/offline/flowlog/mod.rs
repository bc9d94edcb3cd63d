//! Flow logs as flow records: mailflow's own lines, Suricata's, Zeek's conn.log.
//!
//! What a log does not tell is told as missing ([`Inputs`](mailflow_engine::inputs::Inputs)), never as
//! zero. docs/backtest.md says what each format has.

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
