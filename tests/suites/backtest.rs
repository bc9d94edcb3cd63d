//! `backtest`: the rules on flow logs, compared with `replay`, arithmetic and itself.
//!
//! The logs come from a writer for each format, which shares no code with the product.

#[path = "backtest/corpus.rs"]
mod corpus;
#[path = "backtest/escapes.rs"]
mod escapes;
#[path = "backtest/faults.rs"]
mod faults;
#[path = "backtest/formats.rs"]
mod formats;
#[path = "backtest/known.rs"]
mod known;
#[path = "backtest/order.rs"]
mod order;
#[path = "backtest/roundtrip.rs"]
mod roundtrip;
#[path = "backtest/run.rs"]
mod run;
#[path = "backtest/unknown.rs"]
mod unknown;
#[path = "backtest/why.rs"]
mod why;
#[path = "backtest/writers.rs"]
mod writers;
