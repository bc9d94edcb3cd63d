//! Takeover: an agent that is killed, and its successor.

use std::{os::unix::process::ExitStatusExt, process::ExitCode, time::Duration};

use anyhow::{Result, bail, ensure};
use mailflow_agent::config::{Hook, Role};
use mailflow_kernel::clock;
use mailflow_kernel::{Attachment, Kernel};
use mailflow_test_support::{
    frame::{FrameBuilder, flag::ACK},
    lab::wait_for,
    wire::Wire,
};

use crate::{
    frames::take_all,
    live, load,
    network::{Network, PEER, VETH},
    report::{Report, same},
};

/// Argument that runs this program as the agent that is killed.
pub(crate) const CRASH: &str = "crash";

/// Packets that are sent past both agents.
const PACKETS: usize = 500;

/// Attaches, and dies as by `kill -9`.
pub(crate) fn crash(interface: &str) -> ExitCode {
    let attached = load::tc_mirror().and_then(|mut kernel| {
        kernel.attach(interface, Role::Mirror, Hook::Tc)?;
        // SAFETY: integer arguments; nothing runs after the call.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        bail!("SIGKILL did not kill");
    });
    let Err::<(), _>(error) = attached else { return ExitCode::FAILURE };
    eprintln!("{error:#}");
    ExitCode::FAILURE
}

/// Kills an agent, checks what is left, and checks that the next agent counts each packet once.
pub(crate) fn check(kernel: &mut Kernel, network: &Network, report: &mut Report) {
    let mut stays = false;
    report.check("a killed agent was attached", || {
        let before = programs()?;
        let status = network.server.command("/init").args([CRASH, VETH]).status()?;
        same("killed by", status.signal(), Some(libc::SIGKILL))?;
        // The kernel frees programs asynchronously.
        let freed = wait_for("its program is gone", Duration::from_secs(3), || {
            Ok((programs()? == before).then_some(()))
        });
        stays = freed.is_err();
        same("filters", live::filters(&network.server, VETH)?, usize::from(stays))
    });
    report.fact(
        "TC program of a killed agent",
        if stays { "stays; the next agent takes its place" } else { "goes with it" },
    );
    report.check("the next agent counts each packet once", || {
        let loaded = programs()?;
        live::attach(kernel, network, VETH, Role::Mirror, Hook::Tc)?;
        let kind = if stays { Attachment::Clsact } else { Attachment::Tcx };
        let hooks: Vec<_> = kernel.attachments().map(|place| place.attachment).collect();
        same("hooks", hooks, vec![kind])?;
        if stays {
            wait_for("the killed agent's program is gone", Duration::from_secs(10), || {
                Ok((programs()? < loaded).then_some(()))
            })?;
        }
        take_all(kernel)?;
        let frame = |client| FrameBuilder::tcp(client, "93.184.215.25:25", ACK).build();
        // The last frame is of another flow: once it is counted, all others have passed the hook.
        let mut frames = vec![frame("10.99.0.2:40000"); PACKETS];
        frames.push(frame("10.99.0.2:40001"));
        Wire::open(&network.client, PEER)?.send(&frames)?;
        let packets = |kernel: &mut Kernel, client_port: u16| -> Result<u64> {
            let flows = kernel.snapshot(clock::now())?.flows;
            Ok(flows
                .iter()
                .filter(|flow| flow.key.client_port == client_port)
                .map(|flow| flow.up.packets)
                .sum())
        };
        wait_for("the last packet is counted", Duration::from_secs(10), || {
            Ok((packets(kernel, 40_001)? > 0).then_some(()))
        })?;
        same("packets", packets(kernel, 40_000)?, PACKETS as u64)?;
        live::detach(kernel, network, VETH)
    });
}

/// Returns the number of programs in the kernel, by BPF_PROG_GET_NEXT_ID.
fn programs() -> Result<usize> {
    const GET_NEXT_ID: libc::c_int = 11;
    let mut count = 0;
    let mut attributes = [0_u32; 3];
    loop {
        // SAFETY: the attributes belong to this command: start, next id, flags.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, GET_NEXT_ID, attributes.as_mut_ptr(), size_of_val(&attributes))
        };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            ensure!(error.raw_os_error() == Some(libc::ENOENT), "BPF_PROG_GET_NEXT_ID: {error}");
            return Ok(count);
        }
        count += 1;
        attributes[0] = attributes[1];
    }
}
