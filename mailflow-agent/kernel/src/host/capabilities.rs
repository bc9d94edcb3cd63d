//! Capabilities: those that loading needs, and those that are given up once everything is loaded and attached.

use std::fs;

use caps::{CapSet, Capability, CapsHashSet};

use super::kernel_version::KernelVersion;
use crate::error::KernelError;

/// Capabilities that loading and attaching need, with their bit (linux/capability.h).
const REQUIRED: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];

/// Implies all three.
const CAP_SYS_ADMIN: u32 = 21;

/// Checks for the capabilities that loading needs, so that a refusal has a name.
///
/// # Errors
/// [`KernelError::Capabilities`] names what is missing.
pub fn check_capabilities() -> Result<(), KernelError> {
    let path = "/proc/thread-self/status";
    let status =
        fs::read_to_string(path).map_err(|source| KernelError::Machine { what: path.to_owned(), source })?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    match missing(effective) {
        missing if missing.is_empty() => Ok(()),
        missing => Err(KernelError::Capabilities { missing: missing.join(", ") }),
    }
}

fn missing(effective: u64) -> Vec<&'static str> {
    let has = |bit: u32| effective >> bit & 1 == 1;
    REQUIRED
        .into_iter()
        .filter(|(name, bit)| !(has(*bit) || has(CAP_SYS_ADMIN) && *name != "CAP_NET_ADMIN"))
        .map(|(name, _)| name)
        .collect()
}

/// First kernel on which a process may use its maps and programs whatever `kernel.unprivileged_bpf_disabled`
/// is.
const UNPRIVILEGED_MAP_USE: KernelVersion = KernelVersion(5, 19);

/// Returns the capabilities that the agent needs after the start on a kernel, with the reasons.
pub fn needed_after_start(version: KernelVersion) -> Vec<(Capability, &'static str)> {
    let mut needed = Vec::new();
    if version < KernelVersion::TCX {
        needed.push((Capability::CAP_NET_ADMIN, "filters of clsact come and go only with it"));
    }
    if version < UNPRIVILEGED_MAP_USE {
        needed.push((Capability::CAP_BPF, "the kernel refuses every bpf(2) command without it"));
    }
    needed
}

/// Capabilities that the helper process keeps, with the reasons.
pub const HELPER_CAPABILITIES: [(Capability, &str); 2] = [
    (
        Capability::CAP_NET_ADMIN,
        "the kernel says only then which programs are at a hook, and which is the first",
    ),
    (Capability::CAP_SYS_ADMIN, "the names of others' programs; the shipped unit does without"),
];

/// Gives up all capabilities of this thread but those of [`HELPER_CAPABILITIES`].
///
/// # Errors
/// The system refuses.
pub fn keep_helper_capabilities() -> Result<(), caps::errors::CapsError> {
    keep_only(HELPER_CAPABILITIES.map(|(capability, _)| capability)).map(drop)
}

/// Gives up all capabilities of this thread, and so of those that it starts.
pub fn drop_all() {
    // A failure leaves the capabilities of the start; `threads_with_capabilities` reports them.
    let _ = set_capabilities(&CapsHashSet::new());
}

/// Gives up all capabilities of this thread but those that the agent needs on this kernel. Returns the names
/// of those left.
///
/// # Errors
/// The system refuses.
pub fn drop_unneeded(version: KernelVersion) -> Result<Vec<String>, caps::errors::CapsError> {
    let remaining = keep_only(needed_after_start(version).into_iter().map(|(capability, _)| capability))?;
    Ok(names(&remaining))
}

/// Returns the capabilities of a process by name; none if they cannot be read.
pub fn of_process(process: u32) -> Vec<String> {
    let process = i32::try_from(process).ok();
    names(&caps::read(process, CapSet::Permitted).unwrap_or_default())
}

fn names(capabilities: &CapsHashSet) -> Vec<String> {
    let mut names: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
    names.sort();
    names
}

/// Gives up unwanted capabilities. Returns those that are left.
fn keep_only(wanted: impl IntoIterator<Item = Capability>) -> Result<CapsHashSet, caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let keep = wanted.into_iter().filter(|capability| permitted.contains(capability)).collect();
    set_capabilities(&keep)?;
    Ok(keep)
}

fn set_capabilities(keep: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    // The bounding set first, as that takes CAP_SETPCAP; without it the set stays. It matters little: this
    // process starts no other program.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::runtime::thread_all_supported() {
            if !keep.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
    }
    // Not known before Linux 4.3, which is older than the program's floor.
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, keep)?;
    caps::set(None, CapSet::Permitted, keep)
}

/// Returns the threads of this process but the first that have capabilities, with these as hexadecimal
/// digits.
pub fn threads_with_capabilities() -> Vec<(String, String)> {
    let first = std::process::id().to_string();
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let threads = tasks.filter(|task| task.file_name().to_str() != Some(&first));
    let privileged = threads.filter_map(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        let field =
            |name: &str| Some(status.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned());
        let permitted = field("CapPrm:")?;
        permitted.bytes().any(|digit| digit != b'0').then_some((field("Name:")?, permitted))
    });
    privileged.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_kernels_need_more_capabilities() {
        let needed = |version| {
            needed_after_start(version)
                .into_iter()
                .map(|(capability, _)| capability.to_string())
                .collect::<Vec<_>>()
        };
        assert!(needed(KernelVersion(6, 6)).is_empty());
        assert_eq!(needed(KernelVersion(6, 1)), ["CAP_NET_ADMIN"]);
        assert_eq!(needed(KernelVersion(5, 10)), ["CAP_NET_ADMIN", "CAP_BPF"]);
    }

    #[test]
    fn a_thread_drops_its_capabilities() {
        let remaining = std::thread::spawn(|| {
            drop_all();
            let sets = [
                CapSet::Effective,
                CapSet::Permitted,
                CapSet::Inheritable,
                CapSet::Ambient,
                CapSet::Bounding,
            ];
            sets.map(|set| caps::read(None, set).unwrap().len())
        });
        assert_eq!(remaining.join().unwrap(), [0; 5], "this test needs root");
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing(0), ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
        assert_eq!(missing(1 << 12 | 1 << 38), ["CAP_BPF"]);
        assert_eq!(missing(1 << CAP_SYS_ADMIN), ["CAP_NET_ADMIN"]);
        assert!(missing(1 << 12 | 1 << 38 | 1 << 39).is_empty());
    }
}
