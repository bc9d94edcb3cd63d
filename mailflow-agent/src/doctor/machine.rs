//! Checks of the machine: kernel, capabilities, limits, BPF file system and clock.

use std::{fs, path::Path};

use super::Finding;
use crate::config::Config;
use mailflow_kernel::capabilities;
use mailflow_kernel::{self, BpfRefusal, ClockState, KernelVersion};

/// Runs all checks of the machine. Also returns true if further bpf(2) calls are safe.
pub(super) fn examine(config: &Config) -> (Vec<Finding>, bool) {
    let version = KernelVersion::running();
    let mut findings = vec![kernel_version(version.as_ref().map_err(ToString::to_string).copied())];
    findings.push(match mailflow_kernel::check_capabilities() {
        Ok(()) => {
            Finding::ok("capabilities", "this process has the capabilities that loading and attaching need")
        }
        Err(error) => {
            Finding::bad("capabilities", error.to_string(), "run as root, or under the shipped systemd unit")
        }
    });
    let tried = mailflow_kernel::probe_bpf();
    let bpf_safe = !tried.as_ref().is_err_and(|refusal| refusal.ends_process);
    findings.push(match tried {
        Ok(()) => Finding::ok("bpf", "creating a map and loading a program succeeded"),
        Err(BpfRefusal { call: what, error, cause, .. }) => {
            Finding::bad("bpf", format!("{what} is refused: {error}"), format!("probable cause: {cause}"))
        }
    });
    if let Ok(version) = version {
        findings.push(after_start(version));
        findings.push(memory_limit(version));
    }
    findings.push(pins(config.state.pins.as_deref()));
    findings.push(match mailflow_kernel::clock_state() {
        Ok(ClockState::Synchronized) => Finding::ok("clock", "synchronized"),
        Ok(ClockState::Unsynchronized) => Finding::warn(
            "clock",
            "the kernel reports that it is not synchronized",
            "run chrony or systemd-timesyncd: windows do not depend on it, but the times in alerts and logs do",
        ),
        Err(error) => Finding::warn("clock", format!("cannot be queried: {error}"), "see `timedatectl`"),
    });
    (findings, bpf_safe)
}

fn kernel_version(version: Result<KernelVersion, String>) -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match version {
        Err(error) => Finding::bad("kernel", error, "use Linux 5.10 or newer"),
        Ok(version) if version < KernelVersion::TCX => Finding::ok(
            "kernel",
            format!("Linux {release}: TC programs are filters of clsact, as there is no TCX before 6.6"),
        ),
        Ok(_) => Finding::ok("kernel", format!("Linux {release}: XDP and TCX")),
    }
}

fn after_start(version: KernelVersion) -> Finding {
    let list = |capabilities_kept: &[(caps::Capability, &str)]| {
        let each = capabilities_kept.iter().map(|(capability, reason)| format!("{capability} ({reason})"));
        each.collect::<Vec<_>>().join(", ")
    };
    let agent = match capabilities::needed_after_start(version) {
        none if none.is_empty() => "the agent keeps no capability".to_owned(),
        some => format!("the agent keeps, as far as granted: {}", list(&some)),
    };
    let helper_keeps = list(&capabilities::HELPER_CAPABILITIES);
    Finding::ok(
        "after start",
        format!("{agent}; the helper process keeps, as far as granted: {helper_keeps}"),
    )
}

fn memory_limit(version: KernelVersion) -> Finding {
    if version >= KernelVersion::NO_MEMLOCK {
        return Finding::ok("memory limit", "maps are charged to the control group, not to RLIMIT_MEMLOCK");
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory")).unwrap_or_default();
    match line.split_whitespace().nth(1) {
        Some("unlimited") => Finding::ok("memory limit", "RLIMIT_MEMLOCK is unlimited"),
        limit => Finding::warn(
            "memory limit",
            format!(
                "RLIMIT_MEMLOCK is {} bytes, to which maps are charged before Linux 5.11",
                limit.unwrap_or("?")
            ),
            "LimitMEMLOCK=infinity in the unit; as root the agent lifts it itself",
        ),
    }
}

fn pins(pins: Option<&Path>) -> Finding {
    let what = "pins";
    let lost = "packets are not counted while no agent runs";
    let Some(pins) = pins else {
        return Finding::warn(what, format!("switched off: {lost}"), "set state.pins");
    };
    match mailflow_kernel::is_in_bpf_file_system(pins) {
        Ok(true) if mailflow_kernel::is_private_mount(pins) == Some(true) => Finding::warn(
            what,
            format!(
                "{} is in a BPF file system of this mount namespace alone, and ends with it",
                pins.display()
            ),
            "start the agent with nsenter --net=/run/netns/NAME instead of `ip netns exec`, or set state.pins to a BPF file system that is mounted outside",
        ),
        Ok(true) => Finding::ok(what, format!("{} is in a BPF file system", pins.display())),
        Ok(false) => Finding::warn(
            what,
            format!("{} is in no BPF file system: {lost}", pins.display()),
            "mount -t bpf bpf /sys/fs/bpf; as root the agent does so itself",
        ),
        Err(error) => Finding::warn(what, format!("{}: {error}", pins.display()), "check its permissions"),
    }
}
