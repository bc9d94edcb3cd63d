//! Flow logs as flow records: mailflow's own lines, Suricata's, Zeek's conn.log.
//!
//! What a log does not tell is told as missing ([`Inputs`](mailflow_engine::inputs::Inputs)), never as
//! zero. docs/rules/backtest.md says what each format has.

mod app;
mod ends;
mod entry;
mod eve;
mod fault;
pub mod history;
mod json;
mod log;
mod options;
mod parallel;
mod text;
mod wrapped;
mod zeek;

pub use self::{
    entry::{Entry, Line, Origin, Skipped},
    fault::{Fault, LogError},
    log::Log,
    options::{LogOptions, Reading},
    parallel::{Found, read_lines},
    zeek::names::Renamed,
};
