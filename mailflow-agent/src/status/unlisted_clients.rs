//! Clients that are inside and in no internal network, as they are counted.

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

/// Sources that are named as examples.
pub(crate) const MAX_EXAMPLES: usize = 5;

/// Counts flows of clients that are in no internal network.
#[derive(Default)]
pub(crate) struct UnlistedClients {
    /// Flows are counted: what is watched is the inside of a gateway.
    pub(crate) counts: bool,
    internal: Networks,
    /// Networks that the list takes out on purpose.
    excluded: Networks,
    own: HashSet<IpAddr>,
    /// Flows to the Internet of such clients.
    pub(crate) flows: u64,
    /// Some of the clients.
    pub(crate) examples: BTreeSet<Source>,
}

impl UnlistedClients {
    pub(crate) fn become_these(&mut self, internal: &Networks, own: HashSet<IpAddr>) {
        let lines = internal.networks().iter().filter(|line| line.exclude).cloned();
        let included = lines.map(|mut line| {
            line.exclude = false;
            line
        });
        self.excluded = Networks::new(included.collect());
        self.internal = internal.clone();
        self.own = own;
    }

    /// Books the flows that began.
    pub(crate) fn observe(&mut self, effects: &Effects, v6_source_prefix: u8) {
        if !self.counts {
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

    /// Returns true for a flow to the Internet whose client is neither internal, nor excluded, nor this machine.
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
    fn flows_of_unlisted_clients_are_counted_and_those_of_others_are_not() {
        let mut clients = UnlistedClients { counts: true, ..UnlistedClients::default() };
        let internal = networks(&["10.0.0.0/8", "!10.9.0.0/16"]);
        clients.become_these(&internal, HashSet::from(["198.51.100.1".parse().unwrap()]));
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
        clients.observe(&effects, 64);
        assert_eq!(clients.flows, 2);
        let examples: Vec<_> = clients.examples.iter().map(ToString::to_string).collect();
        assert_eq!(examples.len(), 2, "{examples:?}");
        clients.counts = false;
        clients.observe(&effects, 64);
        assert_eq!(clients.flows, 2, "not where nothing inside is watched");
    }
}
