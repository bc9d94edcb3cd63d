//! Loading the program as a configuration asks; live and for replay.

use mailflow_common::PortSet;

use crate::config::Config;
use mailflow_kernel::{
    Kernel, KernelError, LoadOptions, MapOrigin, OBJECT, Pins, Programs, ReaderCheckpoint,
};

/// Whose packets `host` interfaces count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hosts {
    /// All that pass.
    Any,
    /// The machine's own, as `lan` interfaces stand beside.
    OwnOnly,
}

/// Every program for interfaces, with the kernel's clock; or one to run frames through, whose clock is
/// set with each frame.
pub(crate) fn load(config: &Config, programs: Programs, hosts: Hosts) -> Result<Kernel, KernelError> {
    Kernel::load(OBJECT, &options(config, programs, hosts), &ports(config))
}

/// Every program for interfaces, with tables and links that outlive the agent where there are pins. `kept` is
/// what belongs to the tables of that generation.
pub(crate) fn load_for_life(
    config: &Config,
    hosts: Hosts,
    pins: Option<Pins>,
    kept: Option<(u32, &ReaderCheckpoint)>,
) -> Result<(Kernel, MapOrigin), KernelError> {
    let Some(pins) = pins else { return Ok((load(config, Programs::All, hosts)?, MapOrigin::Fresh)) };
    let options = options(config, Programs::All, hosts);
    Kernel::load_pinned(OBJECT, &options, &ports(config), (pins, config.state.at_stop), kept)
}

fn options(config: &Config, programs: Programs, hosts: Hosts) -> LoadOptions {
    LoadOptions {
        flows: config.flow_table.flows,
        flows_per_source: config.flow_table.flows_per_source(),
        overflow: config.flow_table.overflow,
        half_open_percent: config.flow_table.half_open_percent,
        ipv6_prefix: config.engine.v6_source_prefix,
        local_only: hosts == Hosts::OwnOnly,
        external_clock: programs != Programs::All,
        timeouts: config.engine.timeouts,
        programs,
        kernel_log: config.kernel_log,
        hash_keys: None,
    }
}

/// The ports that are watched.
pub(crate) fn ports(config: &Config) -> PortSet {
    config.engine.services.keys().copied().collect()
}
