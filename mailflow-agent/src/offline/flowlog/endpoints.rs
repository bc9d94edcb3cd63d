//! Endpoints of a logged flow: client and server.

use std::net::IpAddr;

use mailflow_common::{Facts, FlowKey, PROTOCOL_TCP, PROTOCOL_UDP, Scope, Vlans};

use super::text::LogProtocol;
use mailflow_engine::{
    flow::RecordFields,
    settings::{Service, Services},
};

/// Endpoints in the order of a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogEndpoints {
    /// Address and port of the source.
    pub(crate) source: (IpAddr, u16),
    /// Address and port of the destination.
    pub(crate) destination: (IpAddr, u16),
    pub(crate) proto: LogProtocol,
    pub(crate) vlans: Vlans,
}

/// Evidence in a log of which endpoint is the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientEvidence {
    /// The source sent the SYN, or received the SYN-ACK.
    FromSource,
    /// The destination sent the SYN, or received the SYN-ACK.
    FromDestination,
    /// The log shows no handshake. The watched port is the server's, and if both are watched the lower one.
    Unseen,
}

/// Returns the fields that are known of a connection without a SYN-ACK although its log does not record
/// them: no message was accepted.
pub(crate) fn known_without_session(facts: &Facts) -> RecordFields {
    if facts.syn != 0 && facts.syn_ack == 0 { RecordFields::MESSAGES } else { RecordFields::empty() }
}

/// Order of the endpoints in a flow key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Orientation {
    /// The source is the client.
    AsLogged,
    /// The destination is the client.
    Reversed,
}

impl LogEndpoints {
    /// Returns the flow key, the order of the endpoints and the service. Returns `None` if the port of the
    /// server is not watched, as the agent would not have counted the flow.
    pub(crate) fn flow_key(
        &self,
        evidence: ClientEvidence,
        services: &Services,
    ) -> Option<(FlowKey, Orientation, Service)> {
        let protocol = match self.proto {
            LogProtocol::Tcp => PROTOCOL_TCP,
            LogProtocol::Udp => PROTOCOL_UDP,
            LogProtocol::Other => return None,
        };
        let service = |(_, port): (IpAddr, u16)| services.get(&port).copied();
        let (source_service, destination_service) = (service(self.source), service(self.destination));
        let orientation = match (evidence, source_service, destination_service) {
            (ClientEvidence::FromSource, ..) => Orientation::AsLogged,
            (ClientEvidence::FromDestination, ..) | (_, Some(_), None) => Orientation::Reversed,
            (_, Some(_), Some(_)) if self.source.1 < self.destination.1 => Orientation::Reversed,
            _ => Orientation::AsLogged,
        };
        let (client, server, service) = match orientation {
            Orientation::AsLogged => (self.source, self.destination, destination_service?),
            Orientation::Reversed => (self.destination, self.source, source_service?),
        };
        let key = FlowKey {
            client: client.0.into(),
            server: server.0.into(),
            client_port: client.1,
            server_port: server.1,
            scope: Scope::new(self.vlans, protocol, client.0.is_ipv6()),
        };
        Some((key, orientation, service))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_follows_from_the_handshake_then_from_the_port() {
        let services = Services::from([(25, Service::Smtp), (587, Service::Submission)]);
        let key_of = |source: u16, destination: u16, evidence| {
            let [inside, outside] = ["10.0.0.1", "9.9.9.9"].map(|ip| ip.parse::<IpAddr>().unwrap());
            let endpoints = LogEndpoints {
                source: (inside, source),
                destination: (outside, destination),
                proto: LogProtocol::Tcp,
                vlans: Vlans::default(),
            };
            endpoints
                .flow_key(evidence, &services)
                .map(|(key, orientation, _)| (key.server_port, orientation))
        };
        use ClientEvidence::*;
        assert_eq!(key_of(4000, 25, FromSource), Some((25, Orientation::AsLogged)));
        assert_eq!(key_of(4000, 25, Unseen), Some((25, Orientation::AsLogged)));
        assert_eq!(key_of(25, 4000, Unseen), Some((25, Orientation::Reversed)));
        assert_eq!(key_of(25, 4000, FromDestination), Some((25, Orientation::Reversed)));
        assert_eq!(key_of(25, 4000, FromSource), None, "it sent the SYN from there");
        assert_eq!(key_of(25, 587, FromSource), Some((587, Orientation::AsLogged)));
        assert_eq!(key_of(25, 587, Unseen), Some((25, Orientation::Reversed)));
        assert_eq!(key_of(587, 25, Unseen), Some((25, Orientation::AsLogged)));
        assert_eq!(key_of(4000, 80, Unseen), None);
    }
}
