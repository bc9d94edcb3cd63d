//! Where the engine's events go: flow log, alerts, metrics. Sinks consume and never call back.

pub mod alert_log;
pub mod community_id;
pub mod eve;
pub mod flow_log;
pub mod lines;
pub mod metrics;
