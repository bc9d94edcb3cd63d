//! What the hosts of a network are for.

use serde::{Deserialize, Serialize};

/// What the hosts of a network are for: a fixed vocabulary, so that rules written by one person mean the
/// same with another's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AssetRole {
    /// People's computers.
    Workstation,
    /// Servers that are none of the others here.
    Server,
    /// Mail servers and relays (mail transfer agents, RFC 5598): they send much, and to many.
    Mta,
    /// Hosts that send mail in bulk by their purpose.
    Newsletter,
    /// Applications that send mail of their own: shops, ticket systems.
    Application,
    /// Devices that send what they scanned by mail.
    Scanner,
    /// Printers.
    Printer,
    /// Hosts that try mail servers to see whether they live.
    Monitoring,
    /// Telephones and their exchanges.
    Phone,
    /// Cameras, sensors, building control.
    Iot,
    /// Guests' devices.
    Guest,
    /// Addresses given to remote users.
    Vpn,
    /// Addresses that stand for many hosts behind them.
    Nat,
}

impl AssetRole {
    /// Every role.
    pub const ALL: [AssetRole; 13] = [
        AssetRole::Workstation,
        AssetRole::Server,
        AssetRole::Mta,
        AssetRole::Newsletter,
        AssetRole::Application,
        AssetRole::Scanner,
        AssetRole::Printer,
        AssetRole::Monitoring,
        AssetRole::Phone,
        AssetRole::Iot,
        AssetRole::Guest,
        AssetRole::Vpn,
        AssetRole::Nat,
    ];

    /// The name in configuration, lists and alerts.
    pub const fn name(self) -> &'static str {
        match self {
            AssetRole::Workstation => "workstation",
            AssetRole::Server => "server",
            AssetRole::Mta => "mta",
            AssetRole::Newsletter => "newsletter",
            AssetRole::Application => "application",
            AssetRole::Scanner => "scanner",
            AssetRole::Printer => "printer",
            AssetRole::Monitoring => "monitoring",
            AssetRole::Phone => "phone",
            AssetRole::Iot => "iot",
            AssetRole::Guest => "guest",
            AssetRole::Vpn => "vpn",
            AssetRole::Nat => "nat",
        }
    }

    /// The role of this name, in any case.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name().eq_ignore_ascii_case(name))
    }
}
