//! Commands on recorded input: captures, flow logs and rule tests.

pub mod backtest;
pub mod backtest_session;
pub mod capture;
pub(crate) mod evaluator;
pub mod flowlog;
pub(crate) mod progress;
pub mod replay;
pub mod ruletest;
pub(crate) mod unread;
