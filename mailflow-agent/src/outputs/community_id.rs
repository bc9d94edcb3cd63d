//! Community ID version 1: identifier of a connection that Zeek, Suricata and mailflow share.

use std::{fmt, net::IpAddr};

use base64::{Engine, engine::general_purpose::STANDARD};
use mailflow_common::FlowKey;
use serde::{Serialize, Serializer};
use sha1::{Digest, Sha1};

/// Default seed of the specification.
const DEFAULT_SEED: u16 = 0;
/// Length of a SHA-1 digest in base64.
const BASE64_LENGTH: usize = 28;

/// Community ID of a flow, equal for both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommunityId([u8; 20]);

impl CommunityId {
    /// Returns the identifier of the connection `key`. The VLAN zone is not part of it.
    pub fn of(key: &FlowKey) -> Self {
        let client = (key.client.ip(), key.client_port);
        let server = (key.server.ip(), key.server_port);
        // The smaller endpoint goes first. Both are of one address family, so comparing addresses compares
        // bytes.
        let (low, high) = if client <= server { (client, server) } else { (server, client) };
        let mut hash = Sha1::new();
        hash.update(DEFAULT_SEED.to_be_bytes());
        update_address(&mut hash, low.0);
        update_address(&mut hash, high.0);
        hash.update([key.scope.protocol(), 0]);
        hash.update(low.1.to_be_bytes());
        hash.update(high.1.to_be_bytes());
        Self(hash.finalize().into())
    }
}

fn update_address(hash: &mut Sha1, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => hash.update(v4.octets()),
        IpAddr::V6(v6) => hash.update(v6.octets()),
    }
}

impl fmt::Display for CommunityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; BASE64_LENGTH];
        let length = STANDARD.encode_slice(self.0, &mut text).map_err(|_| fmt::Error)?;
        write!(f, "1:{}", std::str::from_utf8(&text[..length]).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for CommunityId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use mailflow_common::{PROTOCOL_TCP, PROTOCOL_UDP, Scope, Vlans};

    use super::*;

    fn key(client: &str, client_port: u16, server: &str, server_port: u16, protocol: u8) -> FlowKey {
        let (client, server): (IpAddr, IpAddr) = (client.parse().unwrap(), server.parse().unwrap());
        FlowKey {
            client: client.into(),
            server: server.into(),
            client_port,
            server_port,
            scope: Scope::new(Vlans::default(), protocol, client.is_ipv6()),
        }
    }

    #[test]
    fn agrees_with_the_published_examples() {
        let published = [
            (
                key("128.232.110.120", 34_855, "66.35.250.204", 80, PROTOCOL_TCP),
                "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
            ),
            (key("192.168.1.52", 54_585, "8.8.8.8", 53, PROTOCOL_UDP), "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
            (
                key(
                    "2001:470:e5bf:dead:4957:2174:e82c:4887",
                    63_943,
                    "2607:f8b0:400c:c03::1a",
                    25,
                    PROTOCOL_TCP,
                ),
                "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=",
            ),
        ];
        for (key, id) in published {
            assert_eq!(CommunityId::of(&key).to_string(), id);
            assert_eq!(CommunityId::of(&key.reversed()).to_string(), id, "equal for the reverse direction");
        }
    }

    #[test]
    fn equal_addresses_are_ordered_by_port() {
        let loopback = key("127.0.0.1", 40_000, "127.0.0.1", 25, PROTOCOL_TCP);
        assert_eq!(CommunityId::of(&loopback), CommunityId::of(&loopback.reversed()));
        let mut tagged = loopback;
        tagged.scope = Scope::new(Vlans::default().push(7), PROTOCOL_TCP, false);
        assert_eq!(CommunityId::of(&loopback), CommunityId::of(&tagged));
    }
}
