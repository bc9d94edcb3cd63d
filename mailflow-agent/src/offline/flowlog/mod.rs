//! Flow logs as flow records: mailflow's own lines, Suricata's, Zeek's conn.log.
//!
//! What a log does not tell is told as missing ([`Inputs`](mailflow_engine::inputs::Inputs)), never as
//! zero. docs/backtest.md says what each format has.

mod app;
mod columns;
mod ends;
mod entry;
mod eve;
mod eve_line;
mod fault;
mod fields;
pub mod history;
mod json;
mod log;
mod names;
mod options;
mod own;
mod parallel;
mod quick;
mod suricata;
mod text;
mod wrapped;
mod zeek;

pub use self::entry::{Entry, Line, Origin, Skipped};
pub use self::log::Log;
pub use self::options::{LogOptions, Reading};
pub use self::{
    fault::{Fault, LogError},
    names::Renamed,
    parallel::{Found, read_lines},
};
