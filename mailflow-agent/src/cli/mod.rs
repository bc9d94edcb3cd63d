//! The command line: arguments, the command they ask for, and what each command does.

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
        BacktestArgs, Column, DoctorArgs, ExplainArgs, LogArgs, ReadingArgs, ReplayArgs, RunArgs, SocketArgs,
        StatusArgs, SuggestArgs, TopArgs,
    },
    command::{Command, Exit, VERSION, parse, parse_from},
    dispatch::perform,
};
