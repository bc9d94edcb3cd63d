//! Match of a flow against a rule, with the first clause that fails.

use mailflow_common::{App, PROTOCOL_TCP, PROTOCOL_UDP};

use super::{
    definition::AllowEntry,
    filter::{Bound, Hours, Match, Transport},
    size_test::Shortfall,
};
use crate::{
    flow::{Flow, phase::RecordPhase, quantity::Quantity},
    network::{AddressScope, Endpoints},
    time::{Time, WallClockOffset},
};

/// Clause that a flow fails, with the value of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clause {
    /// The client is not in the rule's set; its scope.
    Source(AddressScope),
    /// The server is not in the rule's set; its scope.
    Destination(AddressScope),
    /// The server port is not one of the rule's.
    Port(u16),
    /// The application is not one of the rule's.
    App(App),
    /// The protocol (IANA number) is not one of the rule's.
    Protocol(u8),
    /// The flow fails the size test.
    Size(Shortfall),
    /// The flow has no complete handshake.
    NoSession,
    /// A quantity is out of bounds.
    Bound {
        /// Quantity.
        of: Quantity,
        /// Value of the flow.
        actual: u64,
        /// Bounds of the rule.
        wanted: Bound,
    },
    /// The last packet is outside the hours of the rule.
    Hours,
    /// The flow is open, and may still exceed an upper bound.
    NotEnded,
}

impl Match {
    /// Matches `flow` against all clauses.
    ///
    /// # Errors
    /// The first clause that fails, in the order of the fields.
    pub fn check(
        &self,
        flow: &Flow,
        app: App,
        endpoints: &Endpoints<'_>,
        clock_offset: WallClockOffset,
    ) -> Result<(), Clause> {
        if !self.source.contains(&endpoints.source) {
            return Err(Clause::Source(endpoints.source.scope));
        }
        if !self.destination.contains(&endpoints.destination) {
            return Err(Clause::Destination(endpoints.destination.scope));
        }
        self.check_flow(flow, app, clock_offset)
    }

    /// Returns true if the endpoints match.
    pub(crate) fn matches_endpoints(&self, endpoints: &Endpoints<'_>) -> bool {
        self.source.contains(&endpoints.source) && self.destination.contains(&endpoints.destination)
    }

    /// Matches `flow` against all clauses except its endpoints, which need a lookup.
    pub(crate) fn check_flow(
        &self,
        flow: &Flow,
        app: App,
        clock_offset: WallClockOffset,
    ) -> Result<(), Clause> {
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
        self.size.map_or(Ok(()), |size| size.check(flow)).map_err(Clause::Size)?;
        if self.sessions_only && (flow.facts.syn == 0 || flow.facts.syn_ack == 0) {
            return Err(Clause::NoSession);
        }
        self.bounds.iter().try_for_each(|bound| bound.check(flow, app))?;
        match &self.hours {
            Some(hours) if !hours.contains(flow.last(), clock_offset) => Err(Clause::Hours),
            _ => Ok(()),
        }
    }

    /// Returns true if the rule can be evaluated for a flow in this phase. An open flow may still exceed an upper
    /// bound.
    pub(crate) fn can_evaluate(&self, phase: RecordPhase) -> bool {
        phase == RecordPhase::Final || self.bounds.iter().all(|bound| bound.upper_bound(App::Smtps).is_none())
    }
}

impl Bound {
    fn check(&self, flow: &Flow, app: App) -> Result<(), Clause> {
        let actual = self.of.of(flow);
        if actual < self.at_least || self.upper_bound(app).is_some_and(|upper_bound| actual > upper_bound) {
            return Err(Clause::Bound { of: self.of, actual, wanted: *self });
        }
        Ok(())
    }

    fn upper_bound(&self, app: App) -> Option<u64> {
        if app.encrypted() { self.at_most_tls.or(self.at_most) } else { self.at_most }
    }
}

impl Hours {
    /// Returns true if `time` is within the hours.
    fn contains(&self, time: Time, clock_offset: WallClockOffset) -> bool {
        let seconds = clock_offset.unix_nanos(time).div_euclid(1_000_000_000) + i128::from(self.utc_offset);
        let minutes = seconds.div_euclid(60);
        // 1 January 1970 was a Thursday.
        let day = (minutes.div_euclid(1_440) + 3).rem_euclid(7);
        let (minute, from, to) = (minutes.rem_euclid(1_440), i128::from(self.from), i128::from(self.to));
        let on = |day: i128| self.days & (1 << day.rem_euclid(7)) != 0;
        if from < to {
            on(day) && (from..to).contains(&minute)
        } else {
            (on(day) && minute >= from) || (on(day - 1) && minute < to)
        }
    }
}

impl AllowEntry {
    /// Returns true if the entry applies to a flow between these endpoints at `time`.
    pub(crate) fn applies(
        &self,
        endpoints: &Endpoints<'_>,
        time: Time,
        clock_offset: WallClockOffset,
    ) -> bool {
        self.until.is_none_or(|until| clock_offset.unix_nanos(time) < until)
            && self.source.contains(&endpoints.source)
            && self.destination.contains(&endpoints.destination)
    }
}

impl Transport {
    /// Returns the IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Transport::Tcp => PROTOCOL_TCP,
            Transport::Udp => PROTOCOL_UDP,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture::{self, at},
        network::Member,
        rule::{compiled::CompiledRule, definition::Rule},
    };

    fn verdict_of(matching: &Match, client: &str, server: &str, app: App) -> Result<(), Clause> {
        let flow = fixture::flow(client, server);
        let internal = fixture::internal();
        matching.check(&flow, app, &Endpoints::of(&flow, &internal), WallClockOffset::default())
    }

    fn verdict(client: &str, server: &str, app: App) -> Result<(), Clause> {
        verdict_of(&fixture::rule().matching, client, server, app)
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
        let (source, destination) =
            (|actual| Err(Clause::Source(actual)), |actual| Err(Clause::Destination(actual)));
        assert_eq!(verdict("8.8.8.8:4000", "9.9.9.9:8025", App::Other), source(AddressScope::Internet));
        assert_eq!(verdict("10.0.0.1:4000", "10.0.0.2:25", App::Smtp), destination(AddressScope::Internal));
        assert_eq!(verdict("10.0.0.1:4000", "9.9.9.9:8025", App::Smtp), Err(Clause::Port(8025)));
        assert_eq!(verdict("10.0.0.1:4000", "9.9.9.9:25", App::Other), Err(Clause::App(App::Other)));
        assert_eq!(verdict("10.0.0.1:4000", "9.9.9.9:25", App::Imap), Err(Clause::App(App::Imap)));
        for special in ["192.0.2.1", "127.0.0.1", "224.0.0.1", "[2001:db8::1]"] {
            let actual = verdict("10.0.0.1:4000", &format!("{special}:25"), App::Smtp);
            assert!(
                matches!(actual, Err(Clause::Destination(AddressScope::Special(_)))),
                "{special}: {actual:?}"
            );
        }
    }

    #[test]
    fn udp_counts_only_by_name() {
        let flow = fixture::udp("10.0.0.1:4000", "9.9.9.9:25");
        let internal = fixture::internal();
        let endpoints = Endpoints::of(&flow, &internal);
        let mut matching = fixture::rule().matching;
        let check =
            |matching: &Match| matching.check(&flow, App::Unseen, &endpoints, WallClockOffset::default());
        assert_eq!(check(&matching), Err(Clause::Protocol(PROTOCOL_UDP)));
        matching.protocols.push(Transport::Udp);
        assert_eq!(check(&matching), Ok(()));
    }

    #[test]
    fn the_size_test_comes_after_what_the_flow_is() {
        let mut flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
        flow.down.bytes = flow.down.packets * 80 - 1;
        let internal = fixture::internal();
        let endpoints = Endpoints::of(&flow, &internal);
        let check =
            |matching: &Match, app| matching.check(&flow, app, &endpoints, WallClockOffset::default());
        let matching = fixture::rule().matching;
        assert!(matches!(check(&matching, App::Smtp), Err(Clause::Size(_))));
        assert_eq!(check(&matching, App::Other), Err(Clause::App(App::Other)));
        let free = Match { size: None, ..matching };
        assert_eq!(check(&free, App::Smtp), Ok(()));
    }

    #[test]
    fn encrypted_applications_have_bounds_of_their_own() {
        let of = Quantity::PayloadUp;
        let bound = Bound { of, at_least: 0, at_most: Some(399), at_most_tls: Some(1_400) };
        let matching = Match { bounds: vec![bound], ..fixture::rule().matching };
        let check = |app| verdict_of(&matching, "10.0.0.1:4000", "9.9.9.9:25", app);
        assert_eq!(check(App::Smtp), Err(Clause::Bound { of, actual: 1_400, wanted: bound }));
        assert_eq!(check(App::Smtps), Ok(()));
        assert!(!matching.can_evaluate(RecordPhase::Interim) && matching.can_evaluate(RecordPhase::Final));
        assert!(fixture::rule().matching.can_evaluate(RecordPhase::Interim));
        let least = Bound { at_least: 1_401, at_most: None, at_most_tls: None, ..bound };
        let matching = Match { bounds: vec![least], ..matching };
        assert!(verdict_of(&matching, "10.0.0.1:4000", "9.9.9.9:25", App::Smtps).is_err());
        assert!(matching.can_evaluate(RecordPhase::Interim), "what an open flow has, it keeps");
    }

    #[test]
    fn sessions_only_needs_a_handshake() {
        let mut flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
        flow.facts.syn_ack = 0;
        let matching = Match { sessions_only: true, ..fixture::rule().matching };
        assert_eq!(matching.check_flow(&flow, App::Smtp, WallClockOffset::default()), Err(Clause::NoSession));
    }

    #[test]
    fn hours_are_in_local_time() {
        // 2026-11-21, a Saturday, 00:00 UTC.
        const SATURDAY: i128 = 1_795_219_200;
        let hold = |hours: &Hours, hour: i128| {
            let clock_offset =
                WallClockOffset::from_unix_nanos((SATURDAY + hour * 3_600 - 100) * 1_000_000_000);
            hours.contains(at(100), clock_offset)
        };
        let weekend = Hours { days: 0b110_0000, from: 0, to: 1_440, utc_offset: 0 };
        let held: Vec<_> = (-30..60).filter(|hour| hold(&weekend, *hour)).collect();
        assert_eq!(held, (0..48).collect::<Vec<_>>());
        let east = Hours { utc_offset: 2 * 3_600, ..weekend };
        assert!(hold(&east, -2) && !hold(&east, -3) && !hold(&east, 46));
        let night = Hours { days: 1 << 5, from: 22 * 60, to: 6 * 60, utc_offset: 0 };
        let held: Vec<_> = (-30..60).filter(|hour| hold(&night, *hour)).collect();
        assert_eq!(held, (22..30).collect::<Vec<_>>(), "Saturday's night ends on Sunday");
    }

    #[test]
    fn an_allow_list_entry_applies_until_its_expiry() {
        let allow = |until| AllowEntry {
            source: Member::Net("10.0.0.1/32".parse().unwrap()).into(),
            destination: Member::Any.into(),
            reason: "relay".into(),
            until,
        };
        let internal = fixture::internal();
        let compiled = |until| {
            let rule = Rule { allow: vec![allow(until)], ..fixture::rule() };
            CompiledRule::new(rule, std::time::Duration::from_secs(300))
        };
        let allowed = |client: &str, until| {
            let flow = fixture::flow(client, "9.9.9.9:25");
            let endpoints = Endpoints::of(&flow, &internal);
            compiled(until).allowed(&endpoints, at(100), WallClockOffset::default()).is_some()
        };
        assert!(allowed("10.0.0.1:4000", None));
        assert!(!allowed("10.0.0.2:4000", None));
        assert!(allowed("10.0.0.1:4000", Some(100_000_000_001)));
        assert!(!allowed("10.0.0.1:4000", Some(100_000_000_000)));
    }
}
