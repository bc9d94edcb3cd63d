//! Interfaces without an Ethernet header: a tun device, whose other end is this program.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result};
use mailflow_agent::config::{Hook, Role};
use mailflow_kernel::Kernel;

use crate::{
    frames::{self, Begins, Ways},
    live,
    network::Network,
    report::Report,
};

const NAME: &str = "tun0";

/// Sends packets in both directions through the programs for such interfaces.
pub(crate) fn check(kernel: &mut Kernel, network: &Network, report: &mut Report) -> Result<()> {
    let mut tun = network.server.enter(open)?.context("tun device")?;
    network.server.ip(&format!("link set {NAME} up"))?;
    for (showing, role, ingress, egress) in [
        (200, Role::Lan, Ways::Up, Some(Ways::Down)),
        (210, Role::Host, Ways::Down, Some(Ways::Up)),
        (220, Role::Mirror, Ways::Both, None),
    ] {
        report.check(format!("{NAME} as {}: frames in and out", role.name()), || {
            // XDP does not see such frames: a request for XDP attaches TC.
            live::attach(kernel, network, NAME, role, Hook::Xdp)?;
            let before = kernel.totals()?;
            let cases = frames::cases(ingress, Begins::Ip, showing);
            cases.iter().flat_map(|case| &case.frames).try_for_each(|frame| tun.write_all(frame))?;
            live::counted(kernel, &cases, &before)?;
            if let Some(egress) = egress {
                let before = kernel.totals()?;
                let cases = frames::cases(egress, Begins::Ip, showing + 1);
                live::send(&network.server, NAME, &cases)?;
                live::counted(kernel, &cases, &before)?;
            }
            Ok(())
        });
        if role == Role::Lan {
            report.fact("without an Ethernet header (tun)", live::ingress(kernel));
        }
        report.check(format!("{NAME} as {}: detached, nothing is left", role.name()), || {
            live::detach(kernel, network, NAME)
        });
    }
    Ok(())
}

/// Opens a tun device without the packet information header (Documentation/networking/tuntap.rst).
fn open() -> io::Result<File> {
    let tun = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeros are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
    // SAFETY: the request lives through the call.
    match unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } {
        0 => Ok(tun),
        _ => Err(io::Error::last_os_error()),
    }
}
