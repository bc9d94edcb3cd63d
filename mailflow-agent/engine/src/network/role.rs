//! Roles of the hosts of a network.

use serde::{Deserialize, Serialize};

/// Role of the hosts of a network. The vocabulary is fixed, so that rules mean the same with any network list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AssetRole {
    /// Computers of users.
    Workstation,
    /// Servers without another role.
    Server,
    /// Mail servers and relays (mail transfer agents, RFC 5598), which send many messages to many destinations.
    Mta,
    /// Hosts that send bulk mail.
    Newsletter,
    /// Applications that send mail themselves, such as shops and ticket systems.
    Application,
    /// Devices that send scanned documents by mail.
    Scanner,
    /// Printers.
    Printer,
    /// Hosts that probe mail servers.
    Monitoring,
    /// Telephones and telephone exchanges.
    Phone,
    /// Cameras, sensors and building control.
    Iot,
    /// Devices of guests.
    Guest,
    /// Addresses of remote users.
    Vpn,
    /// Addresses that many hosts share by address translation.
    Nat,
}

impl AssetRole {
    /// All roles.
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

    /// Returns the name in configuration, lists and alerts.
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

    /// Returns the role of this name, ignoring case.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name().eq_ignore_ascii_case(name))
    }
}
