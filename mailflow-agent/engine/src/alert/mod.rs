//! Alerts: incidents, the events that report them, and the evidence behind them.

pub mod event;
pub(crate) mod evidence;
mod firing;
pub(crate) mod incident;
pub(crate) mod rate_limit;
pub mod relay_hint;
pub(crate) mod spoofed_sources;
