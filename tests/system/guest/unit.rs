//! Agent with only the privileges of the shipped unit: a user other than root, three capabilities.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mailflow_agent::config::{Hook, Role};
use mailflow_engine::flow::EvictOutcome;
use mailflow_kernel::capabilities;
use mailflow_kernel::clock;
use mailflow_kernel::{AttachState, HookQueryHelper, Kernel, KernelVersion, Verification};
use mailflow_test_support::{
    frame::{FrameBuilder, flag::ACK},
    lab::wait_for,
    wire::Wire,
};

use crate::{
    load,
    network::{Network, PEER, VETH},
    report::{Report, same},
};

/// Argument that runs this program as that agent.
pub(crate) const UNIT: &str = "unit";

/// `CapabilityBoundingSet=` and `AmbientCapabilities=` of the unit (linux/capability.h).
const NET_ADMIN: u32 = 12;
const PERFMON: u32 = 38;
const BPF: u32 = 39;
const GIVEN: u64 = 1 << NET_ADMIN | 1 << PERFMON | 1 << BPF;

/// Packets that the agent counts.
const PACKETS: usize = 200;
/// Line that the agent prints once it counts.
const COUNTS: &str = "counts";

/// Starts the agent, sends packets past it, and reads its capabilities and counters.
pub(crate) fn check(network: &Network, report: &mut Report) {
    let mut remaining = String::new();
    report.check("with the unit's capabilities an agent loads, attaches, counts and takes out", || {
        // As distributions set it: bpf(2) needs a capability.
        fs::write("/proc/sys/kernel/unprivileged_bpf_disabled", "2")?;
        let mut agent = network.server.command("/init");
        let mut agent = agent.args([UNIT, VETH]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(agent.stdout.take().context("its output")?).lines();
        let counts = lines.next().transpose()?;
        if counts.as_deref() == Some(COUNTS) {
            let frame = FrameBuilder::tcp("10.99.0.2:40001", "93.184.215.25:25", ACK).build();
            Wire::open(&network.client, PEER)?.send(&vec![&frame; PACKETS])?;
            remaining = lines.next().transpose()?.unwrap_or_default();
        }
        let mut why = String::new();
        agent.stderr.take().context("its errors")?.read_to_string(&mut why)?;
        let status = agent.wait()?;
        ensure!(status.success(), "{status}: {why}");
        Ok(())
    });
    report.fact("held after start, of the unit's capabilities", remaining);
}

/// Runs the agent.
pub(crate) fn run(interface: &str) -> ExitCode {
    match serve(interface) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(interface: &str) -> Result<()> {
    confine().context("becoming the service's user")?;
    let helper = HookQueryHelper::start().context("the process that looks at the hooks")?;
    let helper_capabilities = capabilities::of_process(helper.process_id());
    let mut kernel = load::tc_mirror()?;
    kernel.set_hook_query_helper(helper);
    kernel.attach(interface, Role::Mirror, Hook::Tc)?;
    let remaining = capabilities::drop_unneeded(KernelVersion::running()?)?;
    println!("{COUNTS}");
    let seen = |kernel: &mut Kernel| -> Result<u64> {
        Ok(kernel.snapshot(clock::now())?.flows.iter().map(|flow| flow.up.packets).sum())
    };
    wait_for("every packet is counted", Duration::from_secs(20), || {
        Ok((seen(&mut kernel)? >= PACKETS as u64).then_some(()))
    })?;
    same("packets", seen(&mut kernel)?, PACKETS as u64)?;
    // The verification of the attachment that the agent does once a minute.
    kernel.follow_interfaces(clock::now(), Verification::Now);
    let standing: Vec<_> = kernel.attachments().map(|place| place.state).collect();
    same("standing", standing, vec![AttachState::Attached { position: Some(1) }])?;
    let flows = kernel.snapshot(clock::now())?.flows;
    same("fates", kernel.evict(&flows)?, vec![EvictOutcome::Evicted])?;
    // As after a reload, or when an interface comes back.
    kernel.unwatch(interface);
    kernel.attach(interface, Role::Mirror, Hook::Tc)?;
    kernel.follow_interfaces(clock::now(), Verification::Now);
    let standing: Vec<_> = kernel.attachments().map(|place| place.state).collect();
    same("standing, attached again", standing, vec![AttachState::Attached { position: Some(1) }])?;
    ensure!(kernel.hook_query_helper().is_some(), "the process that looks at the hooks is gone");
    kernel.detach();
    let shown = |remaining: &[String]| match remaining {
        [] => "nothing".to_owned(),
        remaining => format!("`{}`", remaining.join("`, `")),
    };
    println!("{}; helper process {}", shown(&remaining), shown(&helper_capabilities));
    Ok(())
}

/// Reduces the privileges of this process to the unit's.
fn confine() -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the struct lives through the call.
    done(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) }.into())?;
    for capability in (0..64).filter(|capability| GIVEN >> capability & 1 == 0) {
        // SAFETY: integer arguments. The loop ends at the first capability that this kernel does not know.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability) } != 0 {
            break;
        }
    }
    const NOBODY: u32 = 65_534;
    // SAFETY: integer arguments, and an empty list of groups.
    unsafe {
        done(libc::prctl(libc::PR_SET_KEEPCAPS, 1).into())?;
        done(libc::setgroups(0, std::ptr::null()).into())?;
        done(libc::setresgid(NOBODY, NOBODY, NOBODY).into())?;
        done(libc::setresuid(NOBODY, NOBODY, NOBODY).into())?;
    }
    // _LINUX_CAPABILITY_VERSION_3 and this thread; effective, permitted and inheritable sets, low words
    // first.
    let header = [0x2008_0522_u32, 0];
    let (low, high) = (GIVEN as u32, (GIVEN >> 32) as u32);
    let sets = [low, low, 0, high, high, 0];
    // SAFETY: both have the kernel's layout, and live through the call.
    done(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })?;
    // SAFETY: integer arguments.
    done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
