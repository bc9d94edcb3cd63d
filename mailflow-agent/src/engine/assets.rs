//! The internal networks: which addresses are ours.

use std::net::IpAddr;

use ipnet::IpNet;

/// One line of a network list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The prefix, host bits clear.
    pub net: IpNet,
    /// Whether the line takes its prefix out (`!10.9.0.0/16`) instead of putting it in.
    pub exclude: bool,
    /// The line as written, for evidence.
    pub line: String,
    /// The group it belongs to.
    pub group: Option<String>,
}

/// A set of networks; the longest match decides.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    networks: Vec<Network>,
}

impl Networks {
    /// A set of these lines.
    pub fn new(networks: Vec<Network>) -> Self {
        Self { networks }
    }

    /// The line that makes `ip` internal: the longest that matches, unless it excludes.
    pub fn find(&self, ip: IpAddr) -> Option<&Network> {
        let ip = ip.to_canonical();
        self.networks
            .iter()
            .filter(|network| network.net.contains(&ip))
            .max_by_key(|network| network.net.prefix_len())
            .filter(|network| !network.exclude)
    }

    /// The lines.
    pub fn networks(&self) -> &[Network] {
        &self.networks
    }
}
