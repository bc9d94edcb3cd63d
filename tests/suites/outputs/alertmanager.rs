//! Alertmanager: what it is told, through a receiver of our own, and a real one that must not flap.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mailflow_agent::{
    config::{
        AlertTo, Receiver as Settings,
        outputs::url::{Form, Url},
    },
    outputs::AlertEvent,
};
use mailflow_engine::{
    event::{Alert, AlertState},
    time::{Time, WallClockOffset},
};
use mailflow_tests::lab::{self, Ns, With};
use serde_json::Value;

use crate::{
    http::{Receiver, Reply},
    peer::{SENTENCE, alert, event, numbers, resolved, sink, sink_and_receiver, until},
};

fn alertmanager(url: String, every: Duration) -> AlertTo {
    let labels = [("site".to_owned(), "berlin".to_owned())].into();
    let url = Url::parse(&url, Form::Base).unwrap();
    AlertTo::Alertmanager { urls: vec![url], receiver: Settings::default(), labels, every }
}

const SECOND: Duration = Duration::from_secs(1);

/// Every alert in every request, in order.
fn told(receiver: &Receiver) -> Vec<Value> {
    receiver.received().iter().flat_map(|one| one.body.as_array().unwrap().clone()).collect()
}

fn moment(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

/// What a real one would say to these alerts at `now` by its clock, with a `resolve_timeout` of 5 minutes: an alert
/// whose start is after its end is refused, and without an end that is the timeout.
fn judged(alerts: &Value, now: Timestamp) -> (Vec<(String, bool)>, bool) {
    let (mut taken, mut refused) = (Vec::new(), false);
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
            taken.push((name, end > now));
        }
    }
    (taken, refused)
}

/// A receiver that judges as a real one does, whose clock is ahead of ours by `seconds` and says so where `says`; and
/// which alerts fire for it.
fn with_clock(seconds: i64, says: bool) -> (Receiver, Arc<Mutex<BTreeMap<String, bool>>>) {
    let firing = Arc::<Mutex<BTreeMap<String, bool>>>::default();
    let known = Arc::clone(&firing);
    let receiver = Receiver::scripted(move |received| {
        let now = Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        let (taken, refused) = judged(&received.body, now);
        known.lock().unwrap().extend(taken);
        let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT");
        let head = if says { format!("date: {date}\r\n") } else { String::new() };
        Reply { status: if refused { 400 } else { 200 }, head, ..Reply::default() }
    });
    (receiver, firing)
}

/// An alert that began `ago` seconds before now, or will begin, by our clock.
fn began(number: u64, ago: i64) -> Alert {
    let starts_at_unix = (Timestamp::now() - jiff::SignedDuration::from_secs(ago)).as_nanosecond();
    Alert { starts_at_unix, ..alert(number) }
}

/// Its end `after` seconds after its start, by our clock.
fn ended(alert: &Alert, after: i64) -> AlertEvent {
    let epoch = WallClockOffset::from_unix_nanos(alert.starts_at_unix + i128::from(after) * 1_000_000_000);
    let alert = Alert { state: AlertState::Resolved, ends_at: Some(Time::ZERO), ..alert.clone() };
    (Arc::new(alert), epoch)
}

/// Our clock, wrong by anything: the alert fires until it ends, and then has ended.
#[test]
fn a_clock_that_differs_delays_no_beginning_and_no_end() {
    // By how much the receiver's clock is ahead of ours, and how long before its end the alert began.
    for (seconds, ago) in
        [(300, 1), (-300, 1), (-3_600, 1), (3_600, 1), (0, 1), (-3_600, 7_200), (-86_400 * 365, 5)]
    {
        for says in [true, false] {
            let (receiver, firing) = with_clock(seconds, says);
            let (sink, counters) = sink_and_receiver(alertmanager(receiver.url(""), SECOND));
            let alert = began(1, ago);
            let state = || firing.lock().unwrap().get(&alert.fingerprint).copied();
            sink.push(event(&alert));
            until(&format!("{seconds} {says}: it fires"), || {
                state() == Some(true) && numbers(&sink) == (1, 0, 0)
            });
            let posted = told(&receiver);
            assert!(posted.iter().all(|alert| alert["labels"] == posted[0]["labels"]));
            sink.push(ended(&alert, ago));
            // An answer without a date tells no clock: then the end is by ours.
            if says || seconds >= 0 {
                until(&format!("{seconds} {says}: it has ended"), || state() == Some(false));
                until("and is told", || numbers(&sink) == (2, 0, 0));
            }
            if says {
                let offset = counters.clock_offset.get();
                assert!((offset - seconds as f64).abs() <= 3.0, "{offset} is not {seconds}");
            }
        }
    }
}

/// The wall clock is set back by an hour while an alert fires: nothing of it may reach the Alertmanager but the end.
#[test]
fn a_clock_that_is_set_back_ends_nothing_and_the_end_is_one() {
    let (receiver, firing) = with_clock(0, true);
    let sink = sink(alertmanager(receiver.url(""), SECOND));
    let alert = began(1, 60);
    sink.push(event(&alert));
    until("it fires", || firing.lock().unwrap().get(&alert.fingerprint) == Some(&true));
    // A repeat, and the end, an hour before the start by the clock of then.
    let back = WallClockOffset::from_unix_nanos(alert.starts_at_unix - 3_600_000_000_000);
    sink.push((Arc::new(alert.clone()), back));
    until("the repeat", || numbers(&sink) == (2, 0, 0));
    assert_eq!(firing.lock().unwrap().get(&alert.fingerprint), Some(&true));
    sink.push(ended(&alert, -3_600));
    until("the end", || numbers(&sink) == (3, 0, 0));
    assert_eq!(firing.lock().unwrap().get(&alert.fingerprint), Some(&false));
    assert!(receiver.asked().len() == receiver.received().len(), "nothing was refused");
    let starts: BTreeSet<String> =
        told(&receiver).iter().map(|alert| alert["startsAt"].to_string()).collect();
    assert_eq!(starts.len(), 1, "one start: {starts:?}");
}

/// One alert of a batch has something that this receiver does not take.
#[test]
fn one_refused_alert_keeps_nothing_from_the_others_and_is_never_given_up() {
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
    // Whatever comes meanwhile is not held up.
    sink.push(event(&alert(30)));
    until("a further one", || numbers() == (20, 0, 1));
    refuses.store(false, Ordering::SeqCst);
    until("it is taken", || numbers() == (21, 0, 0) && counters.refused.get() == 0);
    assert!(told(&receiver).iter().any(|one| one["labels"]["fingerprint"] == alert(7).fingerprint));
    assert_eq!(sink.counters().errors.get(), 0, "the sink itself never failed");
}

#[test]
fn what_fires_is_told_again_and_again_and_the_end_once() {
    let receiver = Receiver::anywhere(200);
    let sink = sink(alertmanager(receiver.url("/prefix/"), SECOND));
    let firing = alert(1);
    sink.push(event(&firing));
    until("three repeats", || told(&receiver).len() >= 4);
    // Its labels change in between: the alert must stay the same one.
    let mut changed = firing.clone();
    changed.labels.insert("late".into(), "label".into());
    sink.push(event(&changed));
    let repeated = told(&receiver).len();
    until("another repeat", || told(&receiver).len() > repeated + 1);
    sink.push(event(&resolved(&changed)));
    until("the end", || told(&receiver).last().unwrap()["endsAt"] == "2026-11-21T03:31:09.000000Z");
    thread::sleep(SECOND * 2);

    let received = receiver.received();
    assert!(received.iter().all(|one| one.line == "POST /prefix/api/v2/alerts"));
    let told = told(&receiver);
    let ends = told.iter().filter(|alert| alert["endsAt"] == "2026-11-21T03:31:09.000000Z").count();
    assert_eq!(ends, 1, "nothing is told of it afterwards");
    for alert in &told {
        assert_eq!(alert["labels"], told[0]["labels"]);
        assert_eq!(alert["startsAt"], "2026-11-21T03:31:04.000000Z");
    }
    let labels = &told[0]["labels"];
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
    // Whose clock would an end be by? The Alertmanager knows its own.
    assert!(told[..told.len() - 1].iter().all(|alert| alert["endsAt"].is_null()));
    assert_eq!(numbers(&sink), (3, 0, 0), "three events were told");
}

#[test]
fn one_that_was_away_gets_the_newest_state_of_everything() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sink = sink(alertmanager(format!("http://{dead}"), Duration::from_secs(60)));
    // More events than any queue holds, of alerts that come, are repeated and go.
    for _ in 0..5_000 {
        sink.push(event(&alert(1)));
        sink.push(event(&alert(2)));
        thread::sleep(Duration::from_micros(100));
    }
    sink.push(event(&resolved(&alert(2))));
    sink.push(event(&alert(3)));
    until("an error", || sink.counters().errors.get() > 0);
    let receiver = Receiver::start(dead, 200);
    until("everything told", || numbers(&sink).2 == 0);
    let told = told(&receiver);
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(told[1]["endsAt"], "2026-11-21T03:31:09.000000Z");
    assert_eq!(numbers(&sink), (10_002, 0, 0));
}

#[test]
fn what_it_refuses_is_counted_and_keeps_nothing_from_the_rest() {
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
    // The end of what it never took is not kept for ever.
    receiver.answer(400);
    sink.push(event(&resolved(&alert(3))));
    until("the end is given up", || numbers(&sink) == (3, 1, 0));
}

/// A program that ends with this value.
pub(crate) struct Program(Child, PathBuf);

impl Program {
    /// A real Alertmanager that ends after 2 s what it does not hear of, listens at `listen`, and notifies `hook` of
    /// each alert by itself; in a namespace where one is given.
    pub(crate) fn start(ns: Option<&Ns>, folder: &Path, listen: SocketAddr, hook: &str) -> Self {
        let package = lab::unpack("prometheus-alertmanager", With::Nothing).unwrap();
        let config = format!(
            "global: {{ resolve_timeout: 2s }}\n\
             route: {{ receiver: hook, group_by: [fingerprint], group_wait: 0s, group_interval: 1s, repeat_interval: 1h }}\n\
             receivers: [{{ name: hook, webhook_configs: [{{ url: \"{hook}\", send_resolved: true }}] }}]\n",
        );
        fs::write(folder.join("am.yml"), config).unwrap();
        let log = fs::File::create(folder.join("am.log")).unwrap();
        // It wants its templates where the package would have installed them: in a mount namespace of its own.
        let templates = package.root.join("usr/share/prometheus");
        let script = "cp -r \"$0\" templates && mount -t tmpfs tmpfs /usr/share && cp -r templates /usr/share/prometheus \
                      && exec \"$@\"";
        let mut command = match ns {
            Some(ns) => ns.command("unshare"),
            None => Command::new("unshare"),
        };
        let child = command
            .args(["--mount", "sh", "-c", script])
            .args([templates, package.root.join("usr/bin/prometheus-alertmanager")])
            .args(["--config.file=am.yml", "--storage.path=data", "--cluster.listen-address="])
            .arg(format!("--web.listen-address={listen}"))
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child, folder.join("am.log"))
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.1).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A real Alertmanager, for three times as long as what it is told reaches: it notifies once that the
/// alert fires, and once that it is over.
#[test]
fn a_real_one_does_not_flap() {
    let folder = std::env::temp_dir().join(format!("mailflow-am-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let notified = Receiver::anywhere(200);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let program = Program::start(None, &folder, free, &notified.url("/"));

    let firing = alert(1);
    let sink = sink(alertmanager(format!("http://{free}"), SECOND));
    sink.push(event(&firing));
    until("a notification", || !notified.received().is_empty());
    let begun = Instant::now();
    while begun.elapsed() < SECOND * 12 {
        assert_eq!(states(&notified), ["firing"], "after {:?}", begun.elapsed());
        thread::sleep(Duration::from_millis(100));
    }
    sink.push(event(&resolved(&firing)));
    until("the end", || states(&notified) == ["firing", "resolved"]);
    thread::sleep(SECOND * 3);
    assert_eq!(states(&notified), ["firing", "resolved"]);
    let alert = &notified.received()[0].body["alerts"][0];
    assert_eq!(alert["labels"]["source"], "10.0.0.9");
    assert_eq!(alert["annotations"]["summary"], SENTENCE);
    assert!(SENTENCE.ends_with(alert["annotations"]["like_a_relay"].as_str().unwrap()));
    let said = program.log();
    drop(program);
    assert!(!said.contains("level=error"), "{said}");
    fs::remove_dir_all(&folder).unwrap();
}

fn states(notified: &Receiver) -> Vec<String> {
    notified.received().iter().map(|one| one.body["status"].as_str().unwrap().to_owned()).collect()
}
