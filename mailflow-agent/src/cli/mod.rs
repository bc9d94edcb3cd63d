//! Command line: arguments, commands, and their implementation.

mod args;
pub mod client;
mod command;
pub(crate) mod common;
pub mod config;
mod dispatch;
pub mod doctor;
pub mod explain;
pub mod man;
pub(crate) mod offline;
pub mod overrides;
pub mod rules;
pub(crate) mod run;
pub mod top;

pub use self::{
    args::{
        BacktestArgs, DoctorArgs, ExplainArgs, LogArgs, ReadingArgs, ReplayArgs, RunArgs, SocketArgs,
        StatusArgs, SuggestArgs, TopArgs, TopColumn,
    },
    command::{Command, ExitStatus, VERSION, parse, parse_from},
    dispatch::dispatch,
};
