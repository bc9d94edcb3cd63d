//! Kernel program under test, for suites that run frames through it.

use mailflow_common::PortSet;
use mailflow_engine::settings::Timeouts;
use mailflow_kernel::{Kernel, KernelError, LoadOptions, OBJECT, Programs};

/// Returns the default timeouts, an external clock, and a capacity at which the table has buckets.
pub(crate) fn options(programs: Programs) -> LoadOptions {
    LoadOptions {
        flows: 8_192,
        flows_per_source: 8_192,
        overflow: 1024,
        half_open_percent: 100,
        ipv6_prefix: 64,
        local_only: false,
        external_clock: true,
        timeouts: Timeouts::default(),
        programs,
        kernel_log: None,
        hash_keys: None,
    }
}

/// Loads the object under test: the embedded one, or another one for `cargo xtask bpf --check`.
pub(crate) fn load(options: &LoadOptions, ports: &[u16]) -> Result<Kernel, KernelError> {
    let other = std::env::var_os("MAILFLOW_BPF_OBJECT").map(|path| std::fs::read(path).unwrap());
    let ports = ports.iter().copied().collect::<PortSet>();
    Kernel::load(other.as_deref().unwrap_or(OBJECT), options, &ports)
}
