//! Probe of bpf(2): creates a map and loads a program, and finds the cause of a refusal.

use std::{fs, io};

use super::{capabilities, kernel_version::KernelVersion, memory};
use crate::error::KernelError;

/// Commands, types and sizes of bpf(2) (linux/bpf.h).
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
/// `r0 = 0; exit`, the same in both byte orders.
const PROBE_PROGRAM: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
const PROBE_LICENSE: &std::ffi::CStr = c"GPL";

/// The first fields of `union bpf_attr` of the two commands; the rest is zero.
#[repr(C, align(8))]
struct BpfAttributes {
    words: [u32; 4],
    license: u64,
    rest: [u64; 6],
}

/// Reason why bpf(2) cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BpfRefusal {
    /// Refused call.
    pub call: &'static str,
    /// Error of the system.
    pub error: String,
    /// Likely cause.
    pub cause: String,
    /// A signal ends a process that calls bpf(2).
    pub ends_process: bool,
}

/// Outcome of a call in a separate process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallOutcome {
    Succeeded,
    Errno(i32),
    /// A signal ended the process: seccomp filters may do so.
    Killed(i32),
}

/// Conditions that may cause a refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Conditions {
    missing_capabilities: Option<String>,
    seccomp: bool,
    /// `integrity` or `confidentiality`.
    lockdown: Option<String>,
    user_namespace: bool,
    unprivileged_disabled: bool,
    /// RLIMIT_MEMLOCK in bytes, where maps are charged to it.
    memlock: Option<u64>,
}

/// Creates a map and loads a program of two instructions, each in a separate process, as a filter of system
/// calls may end it. Both are gone afterwards.
///
/// # Errors
/// The refused call, and the likely cause.
pub fn probe_bpf() -> Result<(), BpfRefusal> {
    if let Ok(version) = KernelVersion::running() {
        memory::lift_memory_limit(version);
    }
    let map = BpfAttributes { words: [BPF_MAP_TYPE_ARRAY, 4, 8, 1], license: 0, rest: [0; 6] };
    let [low, high] = halves(PROBE_PROGRAM.as_ptr() as u64);
    let program = BpfAttributes {
        words: [BPF_PROG_TYPE_SCHED_CLS, PROBE_PROGRAM.len() as u32, low, high],
        license: PROBE_LICENSE.as_ptr() as u64,
        rest: [0; 6],
    };
    for (call, command, attributes) in
        [("creating a map", BPF_MAP_CREATE, map), ("loading a program", BPF_PROG_LOAD, program)]
    {
        let outcome = call_in_child(command, &attributes);
        let outcome =
            outcome.unwrap_or_else(|error| CallOutcome::Errno(error.raw_os_error().unwrap_or(libc::EIO)));
        if let Some((error, cause)) = likely_cause(outcome, &Conditions::read()) {
            let ends_process = matches!(outcome, CallOutcome::Killed(_));
            return Err(BpfRefusal { call, error, cause, ends_process });
        }
    }
    Ok(())
}

/// Returns the halves of a word in memory order.
fn halves(word: u64) -> [u32; 2] {
    let bytes = word.to_ne_bytes();
    let half = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [half(0), half(4)]
}

/// Calls bpf(2) in a copy of this process.
fn call_in_child(command: libc::c_long, attributes: &BpfAttributes) -> io::Result<CallOutcome> {
    // SAFETY: the copy makes only system calls, takes no lock, and ends. It has a copy of the memory that they read.
    unsafe {
        let process = libc::fork();
        if process < 0 {
            return Err(io::Error::last_os_error());
        }
        if process == 0 {
            let size = size_of::<BpfAttributes>();
            let result = libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size);
            let errno = if result < 0 { *libc::__errno_location() } else { 0 };
            libc::_exit(errno);
        }
        let mut status = 0;
        while libc::waitpid(process, &raw mut status, 0) < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(match libc::WIFEXITED(status) {
            true if libc::WEXITSTATUS(status) == 0 => CallOutcome::Succeeded,
            true => CallOutcome::Errno(libc::WEXITSTATUS(status)),
            false => CallOutcome::Killed(libc::WTERMSIG(status)),
        })
    }
}

impl Conditions {
    fn read() -> Self {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
        // The mode in force is in brackets: none [integrity] confidentiality.
        let mode = lockdown.split_whitespace().find_map(|mode| mode.strip_prefix('[')?.strip_suffix(']'));
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let map: Vec<&str> = map.split_whitespace().collect();
        let sysctl = fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled").unwrap_or_default();
        let missing_capabilities = match capabilities::check_capabilities() {
            Err(KernelError::Capabilities { missing }) => Some(missing),
            _ => None,
        };
        Self {
            missing_capabilities,
            seccomp: field("Seccomp:") == Some("2"),
            lockdown: mode.filter(|mode| *mode != "none").map(str::to_owned),
            user_namespace: !map.is_empty() && map != ["0", "0", "4294967295"],
            unprivileged_disabled: !matches!(sysctl.trim(), "" | "0"),
            memlock: memory::memory_limit(),
        }
    }
}

/// Returns the error and its likely cause; `None` if the call succeeded.
fn likely_cause(outcome: CallOutcome, conditions: &Conditions) -> Option<(String, String)> {
    const SECCOMP_CAUSE: &str =
        "a seccomp filter (SystemCallFilter= of a unit, or a container's profile) forbids bpf(2)";
    let errno = match outcome {
        CallOutcome::Succeeded => return None,
        CallOutcome::Killed(signal) => {
            let cause = if signal == libc::SIGSYS { SECCOMP_CAUSE } else { "a signal ended the process" };
            return Some((format!("the process was ended by signal {signal}"), cause.to_owned()));
        }
        CallOutcome::Errno(errno) => errno,
    };
    let error = io::Error::from_raw_os_error(errno).to_string();
    let denied = matches!(errno, libc::EPERM | libc::EACCES);
    let mut causes = Vec::new();
    if let Some(missing) = conditions.missing_capabilities.as_ref().filter(|_| denied) {
        let mut cause = format!("missing capabilities: {missing}");
        if conditions.unprivileged_disabled {
            cause.push_str(" (kernel.unprivileged_bpf_disabled is set, so nothing goes without them)");
        }
        causes.push(cause);
    } else {
        if conditions.seccomp && (denied || errno == libc::ENOSYS) {
            causes.push(SECCOMP_CAUSE.to_owned());
        }
        if let Some(mode) = conditions.lockdown.as_ref().filter(|_| denied) {
            causes.push(format!("the kernel is locked down ({mode})"));
        }
        if conditions.user_namespace && denied {
            causes.push(
                "the capabilities are those of a user namespace, and the kernel wants them of the first one"
                    .to_owned(),
            );
        }
        if let Some(limit) = conditions.memlock.filter(|_| denied || errno == libc::ENOMEM) {
            causes.push(format!("RLIMIT_MEMLOCK is {limit} bytes, to which this kernel charges maps"));
        }
    }
    if causes.is_empty() {
        causes.push(match errno {
            libc::EPERM | libc::EACCES => {
                "a security module (SELinux, AppArmor, BPF LSM) or an out-of-tree lockdown forbids it"
                    .to_owned()
            }
            libc::ENOSYS => "the kernel is built without bpf(2) (CONFIG_BPF_SYSCALL)".to_owned(),
            libc::ENOMEM => "there is no memory for it, or the control group is at its limit".to_owned(),
            _ => "the kernel refuses it".to_owned(),
        });
    }
    Some((error, causes.join("; or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_root_both_calls_succeed() {
        assert_eq!(probe_bpf(), Ok(()), "this test needs root");
    }

    /// Installs a seccomp filter with this action for bpf(2), for this thread and its children.
    fn filter(action: u32) {
        // Load the number of the system call; if it is bpf's, answer with the action, otherwise allow.
        let code = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
        let mut program = [
            code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_bpf as u32),
            code(libc::BPF_RET | libc::BPF_K, 0, 0, action),
            code(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: reads the program, which lives through the call.
        unsafe {
            assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
            let mode = libc::SECCOMP_MODE_FILTER;
            assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program, 0, 0), 0);
        }
    }

    #[test]
    fn a_seccomp_filter_is_named() {
        let errno = |errno: i32| libc::SECCOMP_RET_ERRNO | errno as u32;
        for action in [errno(libc::EPERM), errno(libc::ENOSYS), libc::SECCOMP_RET_KILL_PROCESS] {
            let refused = std::thread::spawn(move || {
                filter(action);
                probe_bpf()
            });
            let refused = refused.join().unwrap().unwrap_err();
            assert_eq!(refused.call, "creating a map");
            assert!(refused.cause.starts_with("a seccomp filter"), "{refused:?}");
        }
    }

    #[test]
    fn missing_capabilities_are_named() {
        let refused = std::thread::spawn(|| {
            crate::host::capabilities::drop_all();
            probe_bpf()
        });
        let refused = refused.join().unwrap();
        // Where unprivileged programs are allowed, the map may be created.
        let refused = refused.unwrap_err();
        assert!(
            refused.cause.starts_with("missing capabilities: CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF"),
            "{refused:?}"
        );
    }

    #[test]
    fn each_refusal_has_its_cause() {
        let none = Conditions::default();
        let lockdown = Conditions { lockdown: Some("confidentiality".to_owned()), ..none.clone() };
        let both = Conditions { seccomp: true, ..lockdown.clone() };
        let limit = Conditions { memlock: Some(65_536), ..none.clone() };
        let user = Conditions { user_namespace: true, ..none.clone() };
        for (errno, conditions, cause) in [
            (libc::EPERM, &lockdown, "the kernel is locked down (confidentiality)"),
            (
                libc::EPERM,
                &both,
                "a seccomp filter (SystemCallFilter= of a unit, or a container's profile) forbids bpf(2); or the kernel is locked down (confidentiality)",
            ),
            (libc::EPERM, &limit, "RLIMIT_MEMLOCK is 65536 bytes, to which this kernel charges maps"),
            (
                libc::EPERM,
                &user,
                "the capabilities are those of a user namespace, and the kernel wants them of the first one",
            ),
            (
                libc::EPERM,
                &none,
                "a security module (SELinux, AppArmor, BPF LSM) or an out-of-tree lockdown forbids it",
            ),
            (libc::ENOSYS, &lockdown, "the kernel is built without bpf(2) (CONFIG_BPF_SYSCALL)"),
            (libc::ENOMEM, &none, "there is no memory for it, or the control group is at its limit"),
            (libc::EINVAL, &both, "the kernel refuses it"),
        ] {
            let (_, found) = likely_cause(CallOutcome::Errno(errno), conditions).unwrap();
            assert_eq!(found, cause);
        }
        assert_eq!(likely_cause(CallOutcome::Succeeded, &both), None);
    }
}
