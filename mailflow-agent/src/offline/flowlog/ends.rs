//! Which of a flow's two ends is the client.

use std::net::IpAddr;

use mailflow_common::{Facts, FlowKey, PROTOCOL_TCP, PROTOCOL_UDP, Scope, Vlans};

use super::text::Proto;
use mailflow_engine::{
    flow::RecordFields,
    settings::{Service, Services},
};

/// The two ends as a log tells them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    /// Address and port of the source.
    pub(crate) source: (IpAddr, u16),
    /// Address and port of the destination.
    pub(crate) destination: (IpAddr, u16),
    pub(crate) proto: Proto,
    pub(crate) vlans: Vlans,
}

/// What tells the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// The source sent the SYN or got the SYN-ACK.
    OfSource,
    /// The destination did.
    OfDestination,
    /// Neither was seen: the watched port tells, and of two the lower one.
    Unseen,
}

/// What else is known of a flow whose SYN got no SYN-ACK, whatever its log tells: that no message was accepted.
pub(crate) fn without_session(facts: &Facts) -> RecordFields {
    if facts.syn != 0 && facts.syn_ack == 0 { RecordFields::MESSAGES } else { RecordFields::empty() }
}

/// How the two ends lie in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// The source is the client.
    AsTold,
    /// The destination is.
    Reversed,
}

impl Ends {
    /// The key, how the ends lie in it, and the service; `None` where the server's port is not watched,
    /// as the agent would not have counted the flow.
    pub(crate) fn place(&self, handshake: Handshake, services: &Services) -> Option<(FlowKey, Lie, Service)> {
        let protocol = match self.proto {
            Proto::Tcp => PROTOCOL_TCP,
            Proto::Udp => PROTOCOL_UDP,
            Proto::Other => return None,
        };
        let service = |(_, port): (IpAddr, u16)| services.get(&port).copied();
        let (of_source, of_destination) = (service(self.source), service(self.destination));
        let lie = match (handshake, of_source, of_destination) {
            (Handshake::OfSource, ..) => Lie::AsTold,
            (Handshake::OfDestination, ..) | (_, Some(_), None) => Lie::Reversed,
            (_, Some(_), Some(_)) if self.source.1 < self.destination.1 => Lie::Reversed,
            _ => Lie::AsTold,
        };
        let (client, server, service) = match lie {
            Lie::AsTold => (self.source, self.destination, of_destination?),
            Lie::Reversed => (self.destination, self.source, of_source?),
        };
        let key = FlowKey {
            client: client.0.into(),
            server: server.0.into(),
            client_port: client.1,
            server_port: server.1,
            scope: Scope::new(self.vlans, protocol, client.0.is_ipv6()),
        };
        Some((key, lie, service))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_tells_the_client_then_the_port() {
        let services = Services::from([(25, Service::Smtp), (587, Service::Submission)]);
        let placed = |source: u16, destination: u16, handshake| {
            let [inside, outside] = ["10.0.0.1", "9.9.9.9"].map(|ip| ip.parse::<IpAddr>().unwrap());
            let ends = Ends {
                source: (inside, source),
                destination: (outside, destination),
                proto: Proto::Tcp,
                vlans: Vlans::default(),
            };
            ends.place(handshake, &services).map(|(key, lie, _)| (key.server_port, lie))
        };
        use Handshake::*;
        assert_eq!(placed(4000, 25, OfSource), Some((25, Lie::AsTold)));
        assert_eq!(placed(4000, 25, Unseen), Some((25, Lie::AsTold)));
        assert_eq!(placed(25, 4000, Unseen), Some((25, Lie::Reversed)));
        assert_eq!(placed(25, 4000, OfDestination), Some((25, Lie::Reversed)));
        assert_eq!(placed(25, 4000, OfSource), None, "it sent the SYN from there");
        assert_eq!(placed(25, 587, OfSource), Some((587, Lie::AsTold)));
        assert_eq!(placed(25, 587, Unseen), Some((25, Lie::Reversed)));
        assert_eq!(placed(587, 25, Unseen), Some((25, Lie::AsTold)));
        assert_eq!(placed(4000, 80, Unseen), None);
    }
}
