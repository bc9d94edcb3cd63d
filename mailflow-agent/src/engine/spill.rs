//! Sources some of whose flows have no place in the kernel's table: only their sums are known.

use std::collections::HashMap;

use foldhash::quality::RandomState;
use mailflow_common::{FlowKey, Scope, SpillKey, Vlans};

use super::{
    event::{Delta, Gain},
    flow::Direction,
    time::Time,
};

/// What the packets of such flows add up to, by source, service and protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spill {
    /// Source, server port, protocol.
    pub key: SpillKey,
    /// Client to server, cumulative.
    pub up: Direction,
    /// Server to client, cumulative.
    pub down: Direction,
    /// SYNs, with those that were sent again.
    pub attempts: u32,
    /// SYN-ACKs.
    pub sessions: u32,
    /// Whether this is the last that is heard of them: what comes later begins anew.
    pub over: bool,
}

impl Spill {
    /// The last packet of either direction.
    pub fn last(&self) -> Option<Time> {
        self.up.last.max(self.down.last)
    }
}

/// What was seen of them last.
#[derive(Debug, Default)]
pub(super) struct Spills {
    seen: HashMap<SpillKey, (Gain, Gain), RandomState>,
}

impl Spills {
    /// What `spill` gained since it was seen last, if anything.
    pub(super) fn look(&mut self, spill: &Spill) -> Option<Delta> {
        let gain = |direction: &Direction| Gain { packets: direction.packets, bytes: direction.bytes };
        let now = (gain(&spill.up), gain(&spill.down));
        let past = if spill.over {
            self.seen.remove(&spill.key).unwrap_or_default()
        } else {
            self.seen.insert(spill.key, now).unwrap_or_default()
        };
        let since = |past: Gain, now: Gain| Gain {
            packets: now.packets.saturating_sub(past.packets),
            bytes: now.bytes.saturating_sub(past.bytes),
        };
        let (up, down) = (since(past.0, now.0), since(past.1, now.1));
        ((up, down) != (Gain::default(), Gain::default())).then(|| Delta {
            key: place(&spill.key),
            up,
            down,
            messages: 0,
            new_flow: false,
        })
    }
}

/// The key of a flow from nowhere in particular: what a ledger needs to place a gain.
fn place(key: &SpillKey) -> FlowKey {
    let v6 = key.source.ip().is_ipv6();
    // Protocols are below 128.
    let scope = Scope::new(Vlans::default(), key.protocol as u8, v6);
    FlowKey { client: key.source, server_port: key.server_port, scope, ..FlowKey::default() }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn spill(packets: u64, over: bool) -> Spill {
        let source = "10.0.0.9".parse::<IpAddr>().unwrap().into();
        let key = SpillKey { source, server_port: 25, protocol: 6 };
        let up = Direction { packets, bytes: packets * 60, ..Direction::default() };
        Spill { key, up, down: Direction::default(), attempts: 0, sessions: 0, over }
    }

    #[test]
    fn each_packet_is_told_once() {
        let mut spills = Spills::default();
        let mut told = |packets, over| spills.look(&spill(packets, over)).map(|delta| delta.up.packets);
        assert_eq!(told(3, false), Some(3));
        assert_eq!(told(3, false), None);
        assert_eq!(told(5, true), Some(2));
        assert_eq!(told(4, false), Some(4), "begun anew");
        let delta = spills.look(&spill(6, false)).unwrap();
        assert_eq!((delta.key.client.ip().to_string().as_str(), delta.key.server_port), ("10.0.0.9", 25));
        assert!(!delta.new_flow);
    }
}
