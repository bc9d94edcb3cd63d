//! `backtest`: the rules on flow logs, compared with `replay`, arithmetic and itself.
//!
//! The logs come from a writer for each format, which shares no code with the product.

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
