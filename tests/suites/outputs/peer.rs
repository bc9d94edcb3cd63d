//! What the tests of sinks share: an open sink, its numbers, and patience.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mailflow_agent::{
    config::{AlertOutput, AlertTo, Profile},
    engine::event::{Alert, AlertState},
    sink::{AlertEvent, gateway::Gateway, metrics::Agent, open, profile::Format, worker::Sink},
};

use crate::fixture::{self, EPOCH, at};

pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// The fixture's alert in words.
pub(crate) const SENTENCE: &str = "smtp-burst firing: 10.0.0.9 has count 10 flows or more (threshold 10) within 1h; it \
    behaves like a relay: 30 of 31 sessions delivered mail, to 12 servers";

/// The gateway that events name.
pub(crate) fn gateway() -> Gateway {
    let gateway = Gateway::new(Some("gw1.example"));
    gateway.watch(["lan0"]);
    gateway
}

/// Its events in a dialect.
pub(crate) fn format(profile: Profile) -> Format {
    Format { profile, gateway: gateway() }
}

/// A sink for alerts that goes to `to`.
pub(crate) fn sink(to: AlertTo) -> Sink<AlertEvent> {
    let agent = Agent::new("test", 0.0).unwrap();
    open::alerts(&AlertOutput { name: "test".into(), to }, &agent, &gateway()).unwrap().remove(0)
}

/// An alert of this number.
pub(crate) fn alert(number: u64) -> Alert {
    Alert { fingerprint: format!("{number:016x}"), ..fixture::alert() }
}

/// It is over.
pub(crate) fn resolved(alert: &Alert) -> Alert {
    Alert { state: AlertState::Resolved, ends_at: Some(at(9_000)), time: at(9_500), ..alert.clone() }
}

pub(crate) fn event(alert: &Alert) -> AlertEvent {
    (Arc::new(alert.clone()), EPOCH)
}

/// Waits until `done`.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Written, dropped, waiting.
pub(crate) fn numbers(sink: &Sink<AlertEvent>) -> (u64, u64, i64) {
    let counters = sink.counters();
    (counters.written.get(), counters.dropped.get(), counters.waiting.get())
}
