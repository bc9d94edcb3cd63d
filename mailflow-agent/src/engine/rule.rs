//! Which flows a rule counts, and for the others the first clause that speaks against them.

use mailflow_common::{App, PROTOCOL_TCP, PROTOCOL_UDP};

use super::{
    assets::{Networks, Place},
    flow::Flow,
    settings::{Match, Side, Transport},
    size::Shortfall,
};

/// Where the two ends of a flow are. It is the same for every rule, so it is looked up once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: Place,
    /// The server.
    pub destination: Place,
}

impl Ends {
    /// The ends of `flow`.
    pub fn of(flow: &Flow, internal: &Networks) -> Self {
        Self { source: internal.place(flow.client()), destination: internal.place(flow.server()) }
    }
}

/// The clause of a match that a flow does not fulfil, with what was found instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clause {
    /// The client is elsewhere.
    Source {
        /// Where the rule wants it.
        wanted: Side,
        /// Where it is.
        found: Place,
    },
    /// The server is elsewhere.
    Destination {
        /// Where the rule wants it.
        wanted: Side,
        /// Where it is.
        found: Place,
    },
    /// The server port is not one of the rule's.
    Port(u16),
    /// The flow was identified as another application.
    App(App),
    /// The protocol (IANA number) is not one of the rule's.
    Protocol(u8),
    /// Too small.
    Size(Shortfall),
}

impl Match {
    /// Whether `flow` counts; otherwise the first clause that fails, in the order of the fields.
    pub fn check(&self, flow: &Flow, app: App, ends: Ends) -> Result<(), Clause> {
        if !self.source.holds(ends.source) {
            return Err(Clause::Source { wanted: self.source, found: ends.source });
        }
        if !self.destination.holds(ends.destination) {
            return Err(Clause::Destination { wanted: self.destination, found: ends.destination });
        }
        if !self.ports.contains(&flow.key.server_port) {
            return Err(Clause::Port(flow.key.server_port));
        }
        if app != App::Unseen && !self.apps.contains(&app) {
            return Err(Clause::App(app));
        }
        let protocol = flow.key.scope.protocol();
        if !self.protocols.iter().any(|wanted| wanted.number() == protocol) {
            return Err(Clause::Protocol(protocol));
        }
        self.size.map_or(Ok(()), |size| size.check(flow)).map_err(Clause::Size)
    }
}

impl Side {
    fn holds(self, place: Place) -> bool {
        match self {
            Side::Internal => place == Place::Internal,
            Side::External => place == Place::Internet,
            Side::Any => true,
        }
    }
}

impl Transport {
    /// Its IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Transport::Tcp => PROTOCOL_TCP,
            Transport::Udp => PROTOCOL_UDP,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fixture, *};

    fn verdict(client: &str, server: &str, app: App) -> Result<(), Clause> {
        let flow = fixture::flow(client, server);
        fixture::rule().matching.check(&flow, app, Ends::of(&flow, &fixture::internal()))
    }

    #[test]
    fn mail_from_inside_to_the_internet_counts() {
        for port in [25, 465, 587, 994] {
            for app in [App::Smtp, App::SmtpStartTls, App::Smtps, App::Unseen] {
                assert_eq!(verdict("10.0.0.1:4000", &format!("9.9.9.9:{port}"), app), Ok(()));
            }
        }
        assert_eq!(verdict("[fd00::1]:4000", "[2620:fe::fe]:25", App::Smtp), Ok(()));
    }

    #[test]
    fn the_first_clause_that_fails_is_named() {
        let source = |found| Err(Clause::Source { wanted: Side::Internal, found });
        let destination = |found| Err(Clause::Destination { wanted: Side::External, found });
        assert_eq!(verdict("8.8.8.8:4000", "9.9.9.9:8025", App::Other), source(Place::Internet));
        assert_eq!(verdict("10.0.0.1:4000", "10.0.0.2:25", App::Smtp), destination(Place::Internal));
        assert_eq!(verdict("10.0.0.1:4000", "9.9.9.9:8025", App::Smtp), Err(Clause::Port(8025)));
        assert_eq!(verdict("10.0.0.1:4000", "9.9.9.9:25", App::Other), Err(Clause::App(App::Other)));
        assert_eq!(verdict("10.0.0.1:4000", "9.9.9.9:25", App::Imap), Err(Clause::App(App::Imap)));
        for special in ["192.0.2.1", "127.0.0.1", "224.0.0.1", "[2001:db8::1]"] {
            let found = verdict("10.0.0.1:4000", &format!("{special}:25"), App::Smtp);
            assert!(
                matches!(found, Err(Clause::Destination { found: Place::Special(_), .. })),
                "{special}: {found:?}"
            );
        }
    }

    #[test]
    fn udp_counts_only_by_name() {
        let flow = fixture::udp("10.0.0.1:4000", "9.9.9.9:25");
        let ends = Ends::of(&flow, &fixture::internal());
        let mut matching = fixture::rule().matching;
        assert_eq!(matching.check(&flow, App::Unseen, ends), Err(Clause::Protocol(PROTOCOL_UDP)));
        matching.protocols.push(Transport::Udp);
        assert_eq!(matching.check(&flow, App::Unseen, ends), Ok(()));
    }

    #[test]
    fn the_size_test_speaks_last() {
        let mut flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
        flow.down.bytes = flow.down.packets * 80 - 1;
        let matching = fixture::rule().matching;
        let ends = Ends::of(&flow, &fixture::internal());
        assert!(matches!(matching.check(&flow, App::Smtp, ends), Err(Clause::Size(_))));
        let free = Match { size: None, ..matching };
        assert_eq!(free.check(&flow, App::Smtp, ends), Ok(()));
        assert_eq!(
            free.check(&flow, App::Other, Ends { source: Place::Internal, ..ends }),
            Err(Clause::App(App::Other))
        );
    }
}
