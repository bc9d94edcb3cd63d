//! Loads the program with the settings of a configuration, live and for replays.

use mailflow_common::PortSet;

use crate::config::Config;
use mailflow_kernel::{
    Kernel, KernelError, LoadOptions, MapOrigin, OBJECT, Pins, Programs, ReaderCheckpoint,
};

/// Packets that `host` interfaces count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostScope {
    /// All packets.
    Any,
    /// Packets of this machine, as there are `lan` interfaces too.
    OwnOnly,
}

/// Loads the programs for interfaces, with the clock of the kernel, or one program for test runs, whose
/// clock is set for each frame.
pub(crate) fn load(config: &Config, programs: Programs, hosts: HostScope) -> Result<Kernel, KernelError> {
    Kernel::load(OBJECT, &options(config, programs, hosts), &ports(config))
}

/// Loads the programs for the roles of the interfaces, with pinned maps and links if there are `pins`. `kernel_checkpoint`
/// belongs to the flow table with this id.
pub(crate) fn load_pinned(
    config: &Config,
    hosts: HostScope,
    pins: Option<Pins>,
    kernel_checkpoint: Option<(u32, &ReaderCheckpoint)>,
) -> Result<(Kernel, MapOrigin), KernelError> {
    let roles = config.interfaces.iter().flat_map(|entry| entry.role.possible()).copied().collect();
    let programs = Programs::Roles(roles);
    let Some(pins) = pins else { return Ok((load(config, programs, hosts)?, MapOrigin::Fresh)) };
    let options = options(config, programs, hosts);
    Kernel::load_pinned(OBJECT, &options, &ports(config), (pins, config.state.at_stop), kernel_checkpoint)
}

fn options(config: &Config, programs: Programs, hosts: HostScope) -> LoadOptions {
    LoadOptions {
        flows: config.flow_table.flows,
        flows_per_source: config.flow_table.flows_per_source(),
        overflow: config.flow_table.overflow,
        half_open_percent: config.flow_table.half_open_percent,
        ipv6_prefix: config.engine.v6_source_prefix,
        local_only: hosts == HostScope::OwnOnly,
        external_clock: matches!(programs, Programs::One(_)),
        timeouts: config.engine.timeouts,
        programs,
        kernel_log: config.kernel_log,
        hash_keys: None,
    }
}

/// Returns the watched ports.
pub(crate) fn ports(config: &Config) -> PortSet {
    config.engine.services.keys().copied().collect()
}
