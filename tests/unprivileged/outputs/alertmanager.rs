//! Alertmanager: requests to a test receiver.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use jiff::Timestamp;
use mailflow_agent::{
    config::{
        AlertDestination, Receiver as Settings,
        outputs::url::{Url, UrlForm},
    },
    outputs::AlertEvent,
};
use mailflow_engine::{
    event::{Alert, AlertState},
    time::{Time, WallClockOffset},
};
use serde_json::Value;

use crate::{
    http::{Receiver, Reply},
    peer::{alert, event, numbers, resolved, sink, sink_and_receiver, until},
};

fn alertmanager(url: String, every: Duration) -> AlertDestination {
    let labels = [("site".to_owned(), "berlin".to_owned())].into();
    let url = Url::parse(&url, UrlForm::Base).unwrap();
    AlertDestination::Alertmanager { urls: vec![url], receiver: Settings::default(), labels, every }
}

const SECOND: Duration = Duration::from_secs(1);

/// Returns every alert of every request, in order.
fn posted_alerts(receiver: &Receiver) -> Vec<Value> {
    receiver.received().iter().flat_map(|one| one.body.as_array().unwrap().clone()).collect()
}

fn moment(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

/// Evaluates alerts as a real Alertmanager does at `now` by its clock, with a `resolve_timeout` of 5 minutes.
/// An alert with its start after its end is refused; a missing end is the timeout.
fn evaluate(alerts: &Value, now: Timestamp) -> (Vec<(String, bool)>, bool) {
    let (mut accepted, mut refused) = (Vec::new(), false);
    for alert in alerts.as_array().unwrap() {
        let end = match &alert["endsAt"] {
            Value::Null => now + Duration::from_secs(300),
            end => moment(end),
        };
        let start = if alert["startsAt"].is_null() { now } else { moment(&alert["startsAt"]) };
        if start > end {
            refused = true;
        } else {
            let name = alert["labels"]["fingerprint"].as_str().unwrap().to_owned();
            accepted.push((name, end > now));
        }
    }
    (accepted, refused)
}

/// Creates a receiver that evaluates alerts like a real one. Its clock is ahead by `seconds`, and its answers
/// have a date if `sends_date` is true. The map has the state of each alert.
fn with_clock(seconds: i64, sends_date: bool) -> (Receiver, Arc<Mutex<BTreeMap<String, bool>>>) {
    let firing = Arc::<Mutex<BTreeMap<String, bool>>>::default();
    let known = Arc::clone(&firing);
    let receiver = Receiver::scripted(move |received| {
        let now = Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        let (accepted, refused) = evaluate(&received.body, now);
        known.lock().unwrap().extend(accepted);
        let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT");
        let head = if sends_date { format!("date: {date}\r\n") } else { String::new() };
        Reply { status: if refused { 400 } else { 200 }, head, ..Reply::default() }
    });
    (receiver, firing)
}

/// Returns an alert that began `ago` seconds before now by the local clock; a negative number is in the
/// future.
fn began(number: u64, ago: i64) -> Alert {
    let starts_at_unix = (Timestamp::now() - jiff::SignedDuration::from_secs(ago)).as_nanosecond();
    Alert { starts_at_unix, ..alert(number) }
}

/// Returns the end of an alert, `after` seconds after its start by the local clock.
fn ended(alert: &Alert, after: i64) -> AlertEvent {
    let epoch = WallClockOffset::from_unix_nanos(alert.starts_at_unix + i128::from(after) * 1_000_000_000);
    let alert = Alert { state: AlertState::Resolved, ends_at: Some(Time::ZERO), ..alert.clone() };
    (Arc::new(alert), epoch)
}

/// For any difference between the clocks, the alert fires until it ends, and is resolved then.
#[test]
fn clock_difference_delays_no_start_or_end() {
    // Seconds by which the receiver's clock is ahead, and seconds between the alert's start and end.
    for (seconds, ago) in
        [(300, 1), (-300, 1), (-3_600, 1), (3_600, 1), (0, 1), (-3_600, 7_200), (-86_400 * 365, 5)]
    {
        for sends_date in [true, false] {
            let (receiver, firing) = with_clock(seconds, sends_date);
            let (sink, counters) = sink_and_receiver(alertmanager(receiver.url(""), SECOND));
            let alert = began(1, ago);
            let state = || firing.lock().unwrap().get(&alert.fingerprint).copied();
            sink.push(event(&alert));
            until(&format!("{seconds} {sends_date}: it fires"), || {
                state() == Some(true) && numbers(&sink) == (1, 0, 0)
            });
            let posted = posted_alerts(&receiver);
            assert!(posted.iter().all(|alert| alert["labels"] == posted[0]["labels"]));
            sink.push(ended(&alert, ago));
            // Without a date in the answer the end is by the local clock.
            if sends_date || seconds >= 0 {
                until(&format!("{seconds} {sends_date}: it has ended"), || state() == Some(false));
                until("and is delivered", || numbers(&sink) == (2, 0, 0));
            }
            if sends_date {
                let offset = counters.clock_offset.get();
                assert!((offset - seconds as f64).abs() <= 3.0, "{offset} is not {seconds}");
            }
        }
    }
}

/// The wall clock is set back by an hour while an alert fires: only the end may reach the Alertmanager.
#[test]
fn clock_set_back_ends_no_alert_early() {
    let (receiver, firing) = with_clock(0, true);
    let sink = sink(alertmanager(receiver.url(""), SECOND));
    let alert = began(1, 60);
    sink.push(event(&alert));
    until("it fires", || firing.lock().unwrap().get(&alert.fingerprint) == Some(&true));
    // A repeat, and the end, an hour before the start by the new clock.
    let back = WallClockOffset::from_unix_nanos(alert.starts_at_unix - 3_600_000_000_000);
    sink.push((Arc::new(alert.clone()), back));
    until("the repeat", || numbers(&sink) == (2, 0, 0));
    assert_eq!(firing.lock().unwrap().get(&alert.fingerprint), Some(&true));
    sink.push(ended(&alert, -3_600));
    until("the end", || numbers(&sink) == (3, 0, 0));
    assert_eq!(firing.lock().unwrap().get(&alert.fingerprint), Some(&false));
    assert!(receiver.asked().len() == receiver.received().len(), "nothing was refused");
    let starts: BTreeSet<String> =
        posted_alerts(&receiver).iter().map(|alert| alert["startsAt"].to_string()).collect();
    assert_eq!(starts.len(), 1, "one start: {starts:?}");
}

/// The receiver refuses one alert of a batch.
#[test]
fn refused_alert_delays_no_other_and_is_retried() {
    let bad = alert(7).fingerprint;
    let refuses = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&refuses);
    let names = |body: &Value| -> Vec<String> {
        let name = |alert: &Value| alert["labels"]["fingerprint"].as_str().unwrap().to_owned();
        body.as_array().unwrap().iter().map(name).collect()
    };
    let receiver = Receiver::scripted(move |received| {
        let refused = still.load(Ordering::SeqCst) && names(&received.body).contains(&bad);
        Reply { status: if refused { 400 } else { 200 }, ..Reply::default() }
    });
    let (sink, counters) = sink_and_receiver(alertmanager(receiver.url(""), SECOND));
    let numbers = || numbers(&sink);
    for number in 1..=20 {
        sink.push(event(&alert(number)));
    }
    until("the others", || numbers() == (19, 0, 1) && counters.refused.get() == 1);
    let refusals = counters.refusals.get();
    assert!(refusals > 0);
    until("it is posted again", || counters.refusals.get() > refusals);
    // Later events are not delayed.
    sink.push(event(&alert(30)));
    until("a further one", || numbers() == (20, 0, 1));
    refuses.store(false, Ordering::SeqCst);
    until("it is taken", || numbers() == (21, 0, 0) && counters.refused.get() == 0);
    assert!(posted_alerts(&receiver).iter().any(|one| one["labels"]["fingerprint"] == alert(7).fingerprint));
    assert_eq!(sink.counters().errors.get(), 0, "the sink itself never failed");
}

#[test]
fn firing_alert_is_repeated_and_end_sent_once() {
    let receiver = Receiver::anywhere(200);
    let sink = sink(alertmanager(receiver.url("/prefix/"), SECOND / 5));
    let firing = alert(1);
    sink.push(event(&firing));
    until("three repeats", || posted_alerts(&receiver).len() >= 4);
    // The labels change meanwhile: the alert must keep its identity.
    let mut changed = firing.clone();
    changed.labels.insert("late".into(), "label".into());
    sink.push(event(&changed));
    let repeated = posted_alerts(&receiver).len();
    until("another repeat", || posted_alerts(&receiver).len() > repeated + 1);
    sink.push(event(&resolved(&changed)));
    until("the end", || posted_alerts(&receiver).last().unwrap()["endsAt"] == "2026-11-21T03:31:09.000000Z");
    // The repeats of another alert would come with repeats of this one.
    let other = alert(2);
    sink.push(event(&other));
    let is_of = |alert: &Value, of: &Alert| alert["labels"]["fingerprint"] == of.fingerprint;
    let repeats = || posted_alerts(&receiver).iter().filter(|alert| is_of(alert, &other)).count();
    until("three repeats of another alert", || repeats() >= 4);

    let received = receiver.received();
    assert!(received.iter().all(|one| one.line == "POST /prefix/api/v2/alerts"));
    let posted: Vec<Value> =
        posted_alerts(&receiver).into_iter().filter(|alert| is_of(alert, &firing)).collect();
    let ends = posted.iter().filter(|alert| alert["endsAt"] == "2026-11-21T03:31:09.000000Z").count();
    assert_eq!(
        (ends, &posted.last().unwrap()["endsAt"]),
        (1, &"2026-11-21T03:31:09.000000Z".into()),
        "{posted:#?}"
    );
    for alert in &posted {
        assert_eq!(alert["labels"], posted[0]["labels"]);
        assert_eq!(alert["startsAt"], "2026-11-21T03:31:04.000000Z");
    }
    let labels = &posted[0]["labels"];
    for (name, value) in [
        ("alertname", "smtp-burst"),
        ("source", "10.0.0.9"),
        ("severity", "high"),
        ("gateway", "gw1.example"),
        ("fingerprint", firing.fingerprint.as_str()),
        ("team", "mail \"1\""),
        ("site", "berlin"),
    ] {
        assert_eq!(labels[name], value);
    }
    // Alerts have no end time: the Alertmanager's own clock gives the timeout.
    assert!(posted[..posted.len() - 1].iter().all(|alert| alert["endsAt"].is_null()));
    assert_eq!(numbers(&sink), (4, 0, 0), "every event is delivered");
}

#[test]
fn unreachable_alertmanager_gets_latest_state() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sink = sink(alertmanager(format!("http://{dead}"), Duration::from_secs(60)));
    // More events than a queue holds, of alerts that begin, repeat and end.
    for _ in 0..5_000 {
        sink.push(event(&alert(1)));
        sink.push(event(&alert(2)));
        // The rate of a source, not a wait: the output takes events faster than they come. No counter shows that it has
        // taken one.
        thread::sleep(Duration::from_micros(100));
    }
    sink.push(event(&resolved(&alert(2))));
    sink.push(event(&alert(3)));
    until("an error", || sink.counters().errors.get() > 0);
    let receiver = Receiver::start(dead, 200);
    until("every event is delivered", || numbers(&sink).2 == 0);
    let posted = posted_alerts(&receiver);
    assert_eq!(posted.len(), 3, "{posted:?}");
    assert_eq!(posted[1]["endsAt"], "2026-11-21T03:31:09.000000Z");
    assert_eq!(numbers(&sink), (10_002, 0, 0));
}

#[test]
fn refusals_are_counted_and_delay_no_other() {
    let receiver = Receiver::anywhere(503);
    let (sink, counters) = sink_and_receiver(alertmanager(receiver.url(""), SECOND));
    sink.push(event(&alert(1)));
    sink.push(event(&alert(2)));
    until("an error", || sink.counters().errors.get() > 0);
    receiver.answer(400);
    until("both are refused", || counters.refused.get() == 2);
    assert_eq!(numbers(&sink), (0, 0, 2), "and kept, as they fire");
    receiver.answer(200);
    sink.push(event(&alert(3)));
    until("all are taken", || numbers(&sink) == (3, 0, 0));
    // The end of an alert that was never accepted is dropped.
    receiver.answer(400);
    sink.push(event(&resolved(&alert(3))));
    until("the end is given up", || numbers(&sink) == (3, 1, 0));
}
