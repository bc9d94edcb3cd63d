//! The configuration: YAML as typed -> validated, with every fault of a file at once.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::engine::settings::Settings;

/// A validated configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The interfaces to watch.
    pub interfaces: Vec<Interface>,
    /// How often the kernel's tables are read.
    pub poll_interval: Duration,
    /// Capacity of the kernel's flow table.
    pub flow_table: u32,
    /// What the engine is told.
    pub engine: Settings,
    /// Where records go.
    pub outputs: Outputs,
}

/// An interface to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What passes there.
    pub role: Role,
    /// Where the program is attached.
    pub hook: Hook,
}

/// What passes an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Chosen at start, with the reason logged.
    #[default]
    Auto,
    /// The inside of a gateway.
    Lan,
    /// The machine's own traffic.
    Host,
    /// Copies of both directions.
    Mirror,
}

/// Where the program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Native XDP where nothing is lost by it, otherwise TC.
    #[default]
    Auto,
    /// XDP at ingress, TC at egress.
    Xdp,
    /// TC (TCX, or clsact before Linux 6.6).
    Tc,
}

/// Where a stream of lines goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output (`-`).
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// Where records, alerts and metrics go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outputs {
    /// Where `/metrics` is served; `None` turns it off.
    pub metrics: Option<SocketAddr>,
    /// Most per-source series; further sources share `source="other"`.
    pub max_sources: usize,
    /// Alerts.
    pub alerts: Option<Target>,
    /// Flow records.
    pub flow_log: Option<Target>,
}
