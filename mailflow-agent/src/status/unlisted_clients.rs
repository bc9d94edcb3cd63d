//! Flows of inside clients that are in no internal network.

use mailflow_common::FlowKey;
use mailflow_engine::{
    event::{Effects, Source},
    network::{AddressScope, Networks},
};
use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
};
use tracing::warn;

/// Largest number of sources shown as examples.
pub(crate) const MAX_EXAMPLES: usize = 5;

/// Counter of flows whose clients are in no internal network.
#[derive(Default)]
pub(crate) struct UnlistedClients {
    /// True if flows are counted: the watched interfaces are the inside of a gateway.
    pub(crate) is_counting: bool,
    internal: Networks,
    /// Networks that the list excludes explicitly.
    excluded: Networks,
    own: HashSet<IpAddr>,
    /// Flows of such clients to the Internet.
    pub(crate) flows: u64,
    /// Some of the clients.
    pub(crate) examples: BTreeSet<Source>,
}

impl UnlistedClients {
    /// Sets the internal networks and the addresses of this machine.
    pub(crate) fn set_networks(&mut self, internal: &Networks, own: HashSet<IpAddr>) {
        let lines = internal.networks().iter().filter(|line| line.exclude).cloned();
        let included = lines.map(|mut line| {
            line.exclude = false;
            line
        });
        self.excluded = Networks::new(included.collect());
        self.internal = internal.clone();
        self.own = own;
    }

    /// Counts the new flows.
    pub(crate) fn observe(&mut self, effects: &Effects, v6_source_prefix: u8) {
        if !self.is_counting {
            return;
        }
        for delta in effects.deltas.iter().filter(|delta| delta.new_flow) {
            if !self.is_unlisted(&delta.key) {
                continue;
            }
            self.flows += 1;
            let source = Source::of(delta.key.client.ip(), v6_source_prefix);
            if self.flows == 1 {
                warn!(
                    client = %source,
                    "a client is in no internal network: no rule with `source: internal` counts its flows; \
                     mailflow_unlisted_client_flows_total counts them"
                );
            }
            if self.examples.len() < MAX_EXAMPLES {
                self.examples.insert(source);
            }
        }
    }

    /// Returns true for a flow to the Internet whose client is neither internal, nor excluded, nor this
    /// machine.
    fn is_unlisted(&self, key: &FlowKey) -> bool {
        let (client, server) = (key.client.ip(), key.server.ip());
        let outside = |ip: IpAddr| self.internal.resolve(ip).scope == AddressScope::Internet;
        self.internal.find(client).is_none()
            && outside(server)
            && self.excluded.find(client).is_none()
            && !self.own.contains(&client)
    }
}

#[cfg(test)]
mod tests {
    use mailflow_common::{Scope, Vlans};

    use super::*;
    use mailflow_engine::{
        event::{CounterDelta, Delta},
        network::Network,
    };

    fn networks(lines: &[&str]) -> Networks {
        let line = |line: &&str| {
            let exclude = line.starts_with('!');
            Network { exclude, ..Network::new(line.trim_start_matches('!').parse().unwrap(), *line) }
        };
        Networks::new(lines.iter().map(line).collect())
    }

    #[test]
    fn counts_only_flows_of_unlisted_clients() {
        let mut unlisted_clients = UnlistedClients { is_counting: true, ..UnlistedClients::default() };
        let internal = networks(&["10.0.0.0/8", "!10.9.0.0/16"]);
        unlisted_clients.set_networks(&internal, HashSet::from(["198.51.100.1".parse().unwrap()]));
        let mut deltas = Vec::new();
        for (client, server, new_flow) in [
            ("10.1.0.1", "93.184.215.25", true),
            ("2a00:1450:1::7", "2a00:1450:2::25", true),
            ("2a00:1450:1::7", "2a00:1450:2::25", false),
            ("93.184.216.1", "93.184.215.25", true),
            ("93.184.216.1", "10.1.0.2", true),
            ("10.9.0.1", "93.184.215.25", true),
            ("198.51.100.1", "93.184.215.25", true),
        ] {
            let [client, server]: [IpAddr; 2] = [client, server].map(|ip| ip.parse().unwrap());
            let key = FlowKey {
                client: client.into(),
                server: server.into(),
                client_port: 40_000,
                server_port: 25,
                scope: Scope::new(Vlans::default(), 6, client.is_ipv6()),
            };
            let (up, down) = (CounterDelta::default(), CounterDelta::default());
            deltas.push(Delta { key, up, down, messages: 0, new_flow });
        }
        let effects = Effects { deltas, ..Effects::default() };
        unlisted_clients.observe(&effects, 64);
        assert_eq!(unlisted_clients.flows, 2);
        let examples: Vec<_> = unlisted_clients.examples.iter().map(ToString::to_string).collect();
        assert_eq!(examples.len(), 2, "{examples:?}");
        unlisted_clients.is_counting = false;
        unlisted_clients.observe(&effects, 64);
        assert_eq!(unlisted_clients.flows, 2, "no counting without inside interfaces");
    }
}
