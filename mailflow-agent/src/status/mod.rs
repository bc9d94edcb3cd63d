//! State of the agent for the metrics port and the control socket.

pub(crate) mod duplicate_detector;
pub(super) mod explanation;
pub(crate) mod firing_alerts;
pub(crate) mod kernel_snapshot;
pub(crate) mod shared_status;
pub(crate) mod unlisted_clients;
pub(crate) mod unlisted_networks;
pub(crate) mod window_sampler;
