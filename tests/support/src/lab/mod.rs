//! Lab: a client, a gateway with source NAT and a server in network namespaces, with real software.
//!
//! Everything here needs root. Dropping a [`Lab`] removes its namespaces and the processes in them. The next
//! lab removes the leftovers of killed runs.

mod agent;
mod bpf;
mod build;
mod command;
mod debian;
mod host;
mod http;
mod mail;
mod ns;
mod port;
mod postfix;
mod prometheus;
mod tcp;
mod tcpreplay;
mod topology;
mod workspace;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

pub use agent::Agent;
pub use bpf::{Attached, Bystander, Slot, Verdict, detach_links};
pub use build::{agent_binary, package_variables};
pub use command::{Running, command, is_present, output, search_path, wait_for};
pub use debian::{Unpacked, With, is_unpacked, unpack};
pub use host::Host;
pub use http::{HttpServer, get};
pub use mail::{Mail, Mode, send_mail, send_mails};
pub use ns::Ns;
pub use port::Port;
pub use postfix::{Package, Postfix, PostfixOptions};
pub use prometheus::Prometheus;
pub use tcp::{Connection, TcpFacts, Transfer, transfer};
pub use tcpreplay::Tcpreplay;
pub use topology::Family;
pub use workspace::{repository_files, workspace};

use topology::Net;

/// Prefix of unnamed labs: their namespaces are `mf-<pid>-<number>-<role>`.
const PREFIX: &str = "mf-";

/// Segmentation and receive offloads of the lab's interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Offloads {
    /// Kernel defaults: TSO, GSO and GRO are on.
    #[default]
    AsDefault,
    /// All offloads off: a buffer is one packet of the wire.
    Off,
}

/// Internal hosts of a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hosts {
    /// Only the client.
    #[default]
    Client,
    /// The client, and a server on a second internal network, reached through the gateway's `lan1`.
    ClientAndInside,
}

/// Options of a lab.
#[derive(Debug, Clone, Copy)]
pub struct LabOptions {
    /// Offloads of every interface.
    pub offloads: Offloads,
    /// Internal hosts.
    pub hosts: Hosts,
    /// Number of addresses of the client in each family, each one a source: 1 to 250.
    pub sources: u8,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self { offloads: Offloads::AsDefault, hosts: Hosts::Client, sources: 1 }
    }
}

/// Client, gateway and server, connected. Removed on drop.
#[derive(Debug)]
pub struct Lab {
    name: String,
    folder: PathBuf,
    /// Internal host that sends mail, on `lan0`.
    pub client: Ns,
    /// Gateway: `lan0`, `wan0` and, with [`Hosts::ClientAndInside`], `lan1`.
    pub gateway: Ns,
    /// Server on the Internet side.
    pub server: Ns,
    /// Internal server, with [`Hosts::ClientAndInside`].
    pub inside: Option<Ns>,
}

impl Lab {
    /// Builds a lab with a unique name, after removing the leftovers of dead processes.
    ///
    /// # Errors
    /// Not root, a tool is missing, or the kernel refuses; nothing is left behind.
    pub fn new(options: &LabOptions) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_stale()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::named(&format!("{PREFIX}{}-{number}", std::process::id()), options)
    }

    /// Builds a lab with the given name, at most 30 characters.
    ///
    /// # Errors
    /// As [`Lab::new`]; also if a lab of this name exists.
    pub fn named(name: &str, options: &LabOptions) -> Result<Self> {
        // SAFETY: geteuid(2) has no arguments and cannot fail.
        ensure!(unsafe { libc::geteuid() } == 0, "the lab needs root: network namespaces and mounts");
        ensure!((1..=250).contains(&options.sources), "sources: 1 to 250, not {}", options.sources);
        let taken = Ns::names().into_iter().find(|found| role(found, name).is_some());
        ensure!(taken.is_none(), "there is a lab called {name} already");
        let folder = workspace().join("target/lab").join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let built = Self::build(name, folder, options);
        if built.is_err() {
            remove(name)?;
        }
        built
    }

    fn build(name: &str, folder: PathBuf, options: &LabOptions) -> Result<Self> {
        let create = |role: &str| Ns::create(format!("{name}-{role}"));
        let inside = match options.hosts {
            Hosts::Client => None,
            Hosts::ClientAndInside => Some(create("inside")?),
        };
        let (client, gateway, server) = (create("client")?, create("gateway")?, create("server")?);
        let mut nets = vec![(Net::Lan, &client, 2..=1 + options.sources), (Net::Wan, &server, 25..=25)];
        nets.extend(inside.iter().map(|inside| (Net::Inside, inside, 2..=2)));
        topology::make_gateway(&gateway)?;
        for (net, host, addresses) in nets {
            topology::connect(net, &gateway, host, addresses)?;
            if options.offloads == Offloads::Off {
                topology::offloads_off(net, &gateway, host)?;
            }
        }
        Ok(Self { name: name.to_owned(), folder, client, gateway, server, inside })
    }

    /// Returns the folder of this lab's logs and queues, `target/lab/<name>`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the client's address; `number` counts from 0 up to [`LabOptions::sources`].
    #[must_use]
    pub fn client_ip(&self, family: Family, number: u8) -> IpAddr {
        Net::Lan.address(family, 2 + number)
    }

    /// Returns the Internet server's address.
    #[must_use]
    pub fn server_ip(&self, family: Family) -> IpAddr {
        Net::Wan.address(family, 25)
    }

    /// Returns the internal server's address.
    #[must_use]
    pub fn inside_ip(&self, family: Family) -> IpAddr {
        Net::Inside.address(family, 2)
    }

    /// Returns the gateway's address on the Internet side.
    #[must_use]
    pub fn public_ip(&self, family: Family) -> IpAddr {
        Net::Wan.address(family, 1)
    }

    /// Keeps the lab; [`remove`] with its name removes it.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("lab: {error:#}");
        }
        // After a failed test its logs are kept; the caller owns the folder of a named lab.
        if self.name.starts_with(PREFIX) {
            if std::thread::panicking() {
                eprintln!("lab: the logs are in {}", self.folder.display());
            } else if let Err(error) = std::fs::remove_dir_all(&self.folder) {
                eprintln!("lab: cannot remove {}: {error}", self.folder.display());
            }
        }
    }
}

/// Numbers of what [`remove`] removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Network namespaces.
    pub namespaces: usize,
    /// Processes that were running in them.
    pub processes: usize,
}

/// Removes the namespaces of the lab `name`, and the processes in them. A missing lab is no error.
///
/// # Errors
/// A namespace cannot be removed; the other namespaces are removed nevertheless.
pub fn remove(name: &str) -> Result<Removed> {
    let mut removed = Removed::default();
    let mut result = Ok(());
    for found in Ns::names() {
        if role(&found, name).is_some() {
            match Ns::existing(found).remove() {
                Ok(processes) => {
                    removed.namespaces += 1;
                    removed.processes += processes;
                }
                Err(error) => result = Err(error),
            }
        }
    }
    result.map(|()| removed)
}

/// Returns the role of the namespace `found` in the lab `name`, if it belongs to that lab.
fn role<'a>(found: &'a str, name: &str) -> Option<&'a str> {
    let role = found.strip_prefix(name)?.strip_prefix('-')?;
    matches!(role, "client" | "gateway" | "server" | "inside").then_some(role)
}

/// Removes the labs of dead processes.
fn remove_stale() -> Result<()> {
    for found in Ns::names() {
        let Some((lab, _role)) = found.rsplit_once('-') else { continue };
        let pid = lab.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if !Path::new("/proc").join(pid.to_string()).exists() {
            remove(lab)?;
        }
    }
    Ok(())
}
