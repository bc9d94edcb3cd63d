//! Helpers of the output tests: an open output, its counters, and timeouts.

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use mailflow_agent::{
    config::{AlertDestination, AlertOutput, Profile},
    metrics::{AgentMetrics, ReceiverCounters},
    outputs::{AlertEvent, factory, gateway::Gateway, profile::EventFormat, worker::SinkWorker},
    util::disk::FileLimits,
};
use mailflow_engine::event::{Alert, AlertState};

use crate::fixture::{self, EPOCH, at};

pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Summary of the fixture's alert.
pub(crate) const SENTENCE: &str = "smtp-burst firing: 10.0.0.9 has count 10 flows or more (threshold 10) within 1h; it \
    behaves like a relay: 30 of 31 sessions delivered mail, to 12 servers";

/// Returns the gateway that events name.
pub(crate) fn gateway() -> Gateway {
    let gateway = Gateway::new(Some("gw1.example"));
    gateway.watch(["lan0"], []);
    gateway
}

/// Returns the format of a profile.
pub(crate) fn format(profile: Profile) -> EventFormat {
    EventFormat { profile, gateway: gateway() }
}

/// Creates an output for alerts to `to`.
pub(crate) fn sink(to: AlertDestination) -> SinkWorker<AlertEvent> {
    let agent = AgentMetrics::new("test", 0.0).unwrap();
    factory::open_alert_workers(
        &AlertOutput { name: "test".into(), to },
        FileLimits::NONE,
        &agent,
        &gateway(),
    )
    .unwrap()
    .remove(0)
}

/// Creates an output and returns it with the counters of its receiver.
pub(crate) fn sink_and_receiver(to: AlertDestination) -> (SinkWorker<AlertEvent>, ReceiverCounters) {
    let agent = AgentMetrics::new("test", 0.0).unwrap();
    let sink = factory::open_alert_workers(
        &AlertOutput { name: "test".into(), to },
        FileLimits::NONE,
        &agent,
        &gateway(),
    )
    .unwrap()
    .remove(0);
    (sink, agent.receiver_counters("test"))
}

/// Returns the lines that contain `part` and that outputs of this process have logged since the first call.
pub(crate) fn logged(part: &str) -> Vec<String> {
    static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    let log = LOG.get_or_init(|| {
        let log = Arc::<Mutex<Vec<u8>>>::default();
        let lines = Arc::clone(&log);
        let writer = move || Lines(Arc::clone(&lines));
        tracing_subscriber::fmt().with_ansi(false).with_writer(writer).init();
        log
    });
    let text = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
}

struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Returns an alert with this number.
pub(crate) fn alert(number: u64) -> Alert {
    Alert { fingerprint: format!("{number:016x}"), ..fixture::alert() }
}

/// Returns the resolved event of an alert.
pub(crate) fn resolved(alert: &Alert) -> Alert {
    Alert { state: AlertState::Resolved, ends_at: Some(at(9_000)), time: at(9_500), ..alert.clone() }
}

pub(crate) fn event(alert: &Alert) -> AlertEvent {
    (Arc::new(alert.clone()), EPOCH)
}

/// Waits until `done` returns true.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Returns the numbers of written, dropped and waiting events.
pub(crate) fn numbers(sink: &SinkWorker<AlertEvent>) -> (u64, u64, i64) {
    let counters = sink.counters();
    (counters.written.get(), counters.dropped.get(), counters.waiting.get())
}
