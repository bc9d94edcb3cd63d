//! Loading the program as a configuration asks; live and for replay.

use mailflow_common::PortSet;

use crate::{
    config::Config,
    engine::settings::Timeouts,
    kernel::{Kernel, KernelError, LoadOptions, OBJECT, Programs, SilenceLimits},
};

/// Whose packets `host` interfaces count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hosts {
    /// All that pass.
    Any,
    /// The machine's own, as `lan` interfaces stand beside.
    OwnOnly,
}

/// Every program for interfaces, with the kernel's clock; or one to run frames through, whose clock is
/// set with each frame.
pub(super) fn load(config: &Config, programs: Programs, hosts: Hosts) -> Result<Kernel, KernelError> {
    let options = LoadOptions {
        flows: config.flow_table.flows,
        flows_per_source: config.flow_table.flows_per_source(),
        overflow: config.flow_table.overflow,
        ipv6_prefix: config.engine.v6_source_prefix,
        local_only: hosts == Hosts::OwnOnly,
        external_clock: programs != Programs::All,
        silences: (&config.engine.timeouts).into(),
        programs,
        kernel_log: config.kernel_log,
    };
    Kernel::load(OBJECT, &options, &ports(config))
}

/// The ports that are watched.
pub(super) fn ports(config: &Config) -> PortSet {
    config.engine.services.keys().copied().collect()
}

impl From<&Timeouts> for SilenceLimits {
    fn from(timeouts: &Timeouts) -> Self {
        Self { closed: timeouts.closed, unanswered: timeouts.unanswered, idle: timeouts.idle }
    }
}
