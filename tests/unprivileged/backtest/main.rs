//! `backtest`: the rules on flow logs, against `replay`, arithmetic and itself.
//!
//! The logs are written here, by a writer for each format that shares no code with the product.

mod corpus;
mod diagnostics;
mod escapes;
mod explain;
mod formats;
mod known;
mod order;
#[path = "../../common/agent_run.rs"]
mod run;
mod unknown;
mod writers;
