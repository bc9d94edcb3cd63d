//! Timeouts: the end of a flow, and its record.

use std::time::Duration;

use mailflow_common::{App, Family, PROTOCOL_TCP, classify};

use super::{
    fields::RecordFields,
    record::{Flow, FlowRecord, RecordReason},
    service::Services,
};
use crate::time::Time;

/// Timeouts of flow records (active and idle timeouts of RFC 5470).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Timeout after FIN in both directions or RST.
    pub closed: Duration,
    /// Timeout after the last packet.
    pub idle: Duration,
    /// Timeout after an unanswered SYN.
    pub unanswered: Duration,
    /// Interval of the interim records of a live flow.
    pub active: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            closed: Duration::from_secs(5),
            idle: Duration::from_secs(300),
            unanswered: Duration::from_secs(127),
            active: Duration::from_secs(300),
        }
    }
}

/// Timeouts in nanoseconds, as each poll needs them for every flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeoutNanos {
    closed: u64,
    idle: u64,
    unanswered: u64,
    active: u64,
}

impl TimeoutNanos {
    pub(crate) fn new(timeouts: &Timeouts) -> Self {
        let nanos = |timeout: Duration| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let Timeouts { closed, idle, unanswered, active } = *timeouts;
        let [closed, idle, unanswered, active] = [closed, idle, unanswered, active].map(nanos);
        Self { closed, idle, unanswered: unanswered.min(idle), active: active.max(1) }
    }

    /// Returns the longest timeout before a final record.
    pub(crate) fn lateness(&self) -> Duration {
        Duration::from_nanos(self.closed.max(self.idle))
    }

    /// Returns the end of the last active interval of `flow` that ended after `previous_poll`, or `None` if none
    /// did.
    pub(crate) fn elapsed_interval(
        &self,
        flow: &Flow,
        previous_poll: Option<Time>,
        now: Time,
    ) -> Option<Time> {
        let first = flow.first.as_nanos();
        let age = |at: Time| at.as_nanos().saturating_sub(first);
        // Most flows are younger than one interval and need no division.
        if age(now) < self.active {
            return None;
        }
        let passed = age(now) / self.active;
        let previous = previous_poll.map_or(0, |previous_poll| age(previous_poll) / self.active);
        (passed > previous).then(|| Time::from_nanos(first + passed * self.active))
    }
}

/// End of a flow without further packets, and its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowEnd {
    pub(crate) at: Time,
    pub(crate) reason: RecordReason,
}

impl FlowEnd {
    /// Returns the end of `flow` by the first timeout that passes. It depends on the packets only, not on the time
    /// of a poll.
    pub(crate) fn of(flow: &Flow, limits: &TimeoutNanos) -> Self {
        let facts = &flow.facts;
        let after = |timeout: u64| Time::from_nanos(flow.last().as_nanos().saturating_add(timeout));
        let timeout = if facts.unanswered() { limits.unanswered } else { limits.idle };
        if facts.closed() && limits.closed <= timeout {
            Self { at: after(limits.closed), reason: RecordReason::Closed }
        } else {
            Self { at: after(timeout), reason: RecordReason::Idle }
        }
    }
}

/// Returns the application class of `flow`. A port without a service counts as SMTP.
pub(crate) fn app(flow: &Flow, services: &Services) -> App {
    let family = services.get(&flow.key.server_port).map_or(Family::Smtp, |service| service.family());
    classify(&flow.facts, family)
}

/// Returns the record of `flow`.
pub(crate) fn record(flow: Flow, services: &Services, reason: RecordReason) -> FlowRecord {
    let facts = &flow.facts;
    let from_the_start = facts.syn != 0 || flow.key.scope.protocol() != PROTOCOL_TCP;
    let both_ways = flow.down.packets == 0 || facts.syn_ack != 0 || flow.key.scope.protocol() != PROTOCOL_TCP;
    let complete = from_the_start && both_ways;
    FlowRecord { app: app(&flow, services), reason, complete, fields: RecordFields::all(), flow }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, at};

    fn end(change: impl FnOnce(&mut Flow)) -> (Time, RecordReason) {
        let mut flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
        change(&mut flow);
        let end = FlowEnd::of(&flow, &TimeoutNanos::new(&Timeouts::default()));
        (end.at, end.reason)
    }

    #[test]
    fn the_earliest_timeout_ends_a_flow() {
        assert_eq!(end(|_| {}), (at(401), RecordReason::Idle));
        assert_eq!(end(|flow| flow.facts.fin_up = 1), (at(401), RecordReason::Idle));
        assert_eq!(
            end(|flow| (flow.facts.fin_up, flow.facts.fin_down) = (1, 1)),
            (at(106), RecordReason::Closed)
        );
        assert_eq!(end(|flow| flow.facts.reset = 1), (at(106), RecordReason::Closed));
        assert_eq!(end(|flow| flow.up.last = Some(at(200))), (at(500), RecordReason::Idle));
    }

    #[test]
    fn an_elapsed_interval_is_returned_once() {
        let limits = TimeoutNanos::new(&Timeouts::default());
        let flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
        let interval =
            |previous_poll: Option<u64>, now| limits.elapsed_interval(&flow, previous_poll.map(at), at(now));
        assert_eq!([interval(None, 399), interval(Some(398), 399)], [None; 2], "the flow began at 100");
        assert_eq!([interval(None, 400), interval(Some(399), 400)], [Some(at(400)); 2]);
        assert_eq!([interval(Some(400), 401), interval(Some(400), 699)], [None; 2]);
        assert_eq!(interval(Some(650), 1_350), Some(at(1_300)), "the last of several");
    }

    #[test]
    fn an_unanswered_syn_has_a_shorter_timeout() {
        let silent = |flow: &mut Flow| {
            (flow.facts.syn_ack, flow.facts.seen) = (0, 0);
            flow.down = Default::default();
        };
        assert_eq!(end(silent), (at(228), RecordReason::Idle), "a client may send its SYN again for 127 s");
        let refused = |flow: &mut Flow| (flow.facts.syn_ack, flow.facts.reset) = (0, 1);
        assert_eq!(end(refused), (at(106), RecordReason::Closed), "answered by a RST");
        let one_sided = |flow: &mut Flow| flow.facts.syn_ack = 0;
        assert_eq!(end(one_sided), (at(401), RecordReason::Idle), "data came down");
        let mut flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
        silent(&mut flow);
        let short = Timeouts { idle: Duration::from_secs(10), ..Timeouts::default() };
        assert_eq!(FlowEnd::of(&flow, &TimeoutNanos::new(&short)).at, at(111));
    }

    #[test]
    fn a_complete_flow_has_the_handshake_of_both_directions() {
        let complete = |syn, syn_ack, down| {
            let mut flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
            (flow.facts.syn, flow.facts.syn_ack) = (syn, syn_ack);
            flow.down.packets = down;
            record(flow, &Services::new(), RecordReason::Closed).complete
        };
        assert!(complete(1, 1, 9));
        assert!(complete(1, 0, 0), "no answer");
        assert!(!complete(1, 0, 9), "the SYN-ACK is missing");
        assert!(!complete(0, 1, 9), "the SYN is missing");
        assert!(
            record(fixture::udp("10.0.0.1:1", "9.9.9.9:25"), &Services::new(), RecordReason::Idle).complete
        );
    }

    #[test]
    fn the_ports_service_gives_tls_its_family() {
        let services = fixture::settings().services;
        let tls = |port| {
            let mut flow = fixture::flow("10.0.0.1:4000", &format!("9.9.9.9:{port}"));
            flow.facts.first_payload_up = mailflow_common::first_payload::TLS;
            app(&flow, &services)
        };
        assert_eq!([tls(465), tls(993), tls(2525)], [App::Smtps, App::Imaps, App::Smtps]);
    }
}
