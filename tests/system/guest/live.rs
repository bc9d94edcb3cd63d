//! Real traffic through attached programs: connections compared with TCP_INFO of both ends, and frames
//! compared with the frame table.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mailflow_agent::config::{Hook, Role};
use mailflow_common::Totals;
use mailflow_kernel::clock;
use mailflow_kernel::{AttachState, Attachment, Direction, Kernel};
use mailflow_test_support::{
    lab::{Family, Ns, transfer, wait_for},
    wire::Wire,
};

use crate::{
    frames::{self, Begins, Case, Ways, conserved, take_all},
    network::{Network, PATHS, PEER, Path, VETH, VIRTIO, mail_server},
    report::{Report, same},
};

/// Bytes up and down of the connections: small and large mails, and a download.
const TRANSFERS: [(usize, usize); 3] = [(0, 0), (60_000, 700), (3_000, 400_000)];

/// Attaches in every role to every hook, on a veth and on a NIC.
pub(crate) fn check(kernel: &mut Kernel, network: &Network, report: &mut Report) {
    for (interface, hook, row) in [
        (VETH, Hook::Tc, "TC, ingress and egress"),
        (VETH, Hook::Xdp, "native XDP on veth"),
        (VIRTIO, Hook::Xdp, "native XDP on virtio-net"),
    ] {
        for role in [Role::Lan, Role::Host] {
            let name = format!("{interface} as {}, {}", role.name(), hook_name(hook));
            report.check(format!("{name}: attached as it says"), || {
                attach(kernel, network, interface, role, hook)
            });
            if role == Role::Lan {
                report.fact(row, ingress(kernel));
            }
            sessions(kernel, network, interface, role, &name, report);
            report.check(format!("{name}: detached, nothing is left or counts"), || {
                let path = PATHS.iter().find(|path| path.interface == interface);
                let path = path.ok_or_else(|| anyhow::anyhow!("no path over {interface}"))?;
                detach(kernel, network, interface)?;
                let before = kernel.totals()?;
                session(network, role, path, Family::V4, TRANSFERS[1])?;
                same("totals", kernel.totals()?, before)
            });
        }
    }
    for (showing, hook) in [(100, Hook::Tc), (101, Hook::Xdp)] {
        let name = format!("{VETH} as mirror, {}", hook_name(hook));
        let cases = frames::cases(Ways::Both, Begins::Ethernet, showing);
        report.check(format!("{name}: {} cases of frames over the wire", cases.len()), || {
            attach(kernel, network, VETH, Role::Mirror, hook)?;
            let before = kernel.totals()?;
            send(&network.client, PEER, &cases)?;
            counted(kernel, &cases, &before)?;
            detach(kernel, network, VETH)
        });
    }
}

fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Auto => "auto",
        Hook::Xdp => "XDP",
        Hook::Tc => "TC",
    }
}

/// Attaches, and checks the attachment with the kernel's tools.
pub(crate) fn attach(
    kernel: &mut Kernel,
    network: &Network,
    interface: &str,
    role: Role,
    hook: Hook,
) -> Result<()> {
    network.server.enter(|| kernel.attach(interface, role, hook))??;
    let attached = kernel.attachments().filter(|place| place.state != AttachState::Detached);
    let kinds: Vec<Attachment> = attached.map(|place| place.attachment).collect();
    same("programs attached", kinds.len(), if role == Role::Mirror { 1 } else { 2 })?;
    let xdp = kinds.iter().any(|kind| matches!(kind, Attachment::Xdp | Attachment::XdpFrags));
    same("native XDP, to ip", native_xdp(&network.server, interface)?, xdp)?;
    let clsact = kinds.iter().filter(|kind| **kind == Attachment::Clsact).count();
    same("filters, to tc", filters(&network.server, interface)?, clsact)
}

/// Detaches everything, and checks with the kernel's tools that nothing is left.
pub(crate) fn detach(kernel: &mut Kernel, network: &Network, interface: &str) -> Result<()> {
    network.server.enter(|| kernel.detach())?;
    same("native XDP, to ip", native_xdp(&network.server, interface)?, false)?;
    same("filters, to tc", filters(&network.server, interface)?, 0)
}

fn native_xdp(host: &Ns, interface: &str) -> Result<bool> {
    let shown = host.ip(&format!("-oneline link show dev {interface}"))?;
    ensure!(!shown.contains("xdpgeneric"), "generic XDP: {shown}");
    Ok(shown.contains(" xdp"))
}

/// Returns the number of filters of an interface, ingress and egress.
pub(crate) fn filters(host: &Ns, interface: &str) -> Result<usize> {
    let mut count = 0;
    for side in ["ingress", "egress"] {
        // Without clsact, tc reports an error.
        let shown = host.run(&format!("tc filter show dev {interface} {side}")).unwrap_or_default();
        count += shown.matches("handle 0x").count();
    }
    Ok(count)
}

/// Returns the attachment type at ingress, as a cell of the table.
pub(crate) fn ingress(kernel: &Kernel) -> String {
    let ingress = kernel.attachments().find(|place| place.direction == Direction::Ingress);
    ingress.map_or("none".to_owned(), |place| format!("`{}`", place.attachment))
}

fn sessions(
    kernel: &mut Kernel,
    network: &Network,
    interface: &str,
    role: Role,
    name: &str,
    report: &mut Report,
) {
    for path in PATHS.iter().filter(|path| path.interface == interface) {
        for family in [Family::V4, Family::V6] {
            report.check(format!("{name}: TCP over {} ({family:?}) equals TCP_INFO", path.name), || {
                for bytes in TRANSFERS {
                    let mut transfer = || {
                        take_all(kernel)?;
                        session(network, role, path, family, bytes)
                    };
                    // On a busy machine an emulated NIC may lose a packet, after or before the program
                    // counted it.
                    let (port, expected) = transfer().or_else(|_| transfer()).or_else(|_| transfer())?;
                    // A flow that began in the current tick is read by the next poll.
                    wait_for("the flow is read", Duration::from_secs(5), || {
                        Ok((!kernel.snapshot(clock::now())?.flows.is_empty()).then_some(()))
                    })?;
                    let flows = take_all(kernel)?;
                    let seen: Vec<_> = flows
                        .iter()
                        .map(|flow| {
                            let sides = [&flow.up, &flow.down].map(|side| (side.packets, side.bytes));
                            (flow.key.client_port, sides, flow.key.scope.vlans().tags().collect::<Vec<_>>())
                        })
                        .collect();
                    same("flows", seen, vec![(port, expected, path.tags.to_vec())])?;
                }
                Ok(())
            });
        }
    }
}

/// Makes a connection to the watched host, or from it where it is the client. Returns the client's port and
/// the TCP_INFO of both ends.
fn session(
    network: &Network,
    role: Role,
    path: &Path,
    family: Family,
    (up, down): (usize, usize),
) -> Result<(u16, [(u64, u64); 2])> {
    let (from, to) = match role {
        Role::Host => (&network.server, &network.client),
        _ => (&network.client, &network.server),
    };
    let transfer = transfer(from, to, mail_server(path, family, to), up, down)?;
    Ok((transfer.client.port(), transfer.wire()))
}

/// Waits until the frames of `cases` are counted exactly. They pass the hook in order: once the last one is counted,
/// none follows.
pub(crate) fn counted(kernel: &mut Kernel, cases: &[Case], before: &Totals) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut compare = || {
        let flows = kernel.snapshot(clock::now())?.flows;
        frames::compare(cases, &flows, before, &kernel.totals()?)
    };
    while compare().is_err() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    compare()?;
    take_all(kernel)?;
    conserved(kernel)
}

/// Sends all frames of the cases.
pub(crate) fn send(host: &Ns, interface: &str, cases: &[Case]) -> Result<()> {
    let frames: Vec<_> = cases.iter().flat_map(|case| &case.frames).collect();
    Wire::open(host, interface)?.send(&frames)
}
