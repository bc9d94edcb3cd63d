//! Runs over recorded input: captures, flow logs and rule tests.

pub mod backtest;
pub mod capture;
pub(crate) mod evaluator;
pub mod flowlog;
pub mod past;
pub(crate) mod progress;
pub mod replay;
pub mod ruletest;
pub(crate) mod unread;
