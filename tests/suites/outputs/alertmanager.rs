//! Alertmanager: what it is told, through a receiver of our own, and a real one that must not flap.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mailflow_agent::config::{AlertTo, Receiver as Settings};
use mailflow_tests::lab::{self, With};
use serde_json::Value;

use crate::{
    http::Receiver,
    peer::{SENTENCE, alert, event, numbers, resolved, sink, until},
};

fn alertmanager(url: String, every: Duration) -> AlertTo {
    let labels = [("site".to_owned(), "berlin".to_owned())].into();
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
    // The end is ahead of now by four repeats, and so of the next repeat.
    let firing: Vec<_> = told[..told.len() - 1].iter().map(|alert| moment(&alert["endsAt"])).collect();
    assert!(firing.windows(2).all(|pair| pair[0] < pair[1]), "{firing:?}");
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
    let sink = sink(alertmanager(receiver.url(""), Duration::from_secs(60)));
    sink.push(event(&alert(1)));
    sink.push(event(&alert(2)));
    until("an error", || sink.counters().errors.get() > 0);
    receiver.answer(400);
    until("both are refused", || numbers(&sink) == (0, 2, 0));
    receiver.answer(200);
    sink.push(event(&alert(3)));
    until("the next one", || numbers(&sink) == (1, 2, 0));
    assert_eq!(told(&receiver).len(), 1);
}

/// A program that ends with this value.
struct Program(Child);

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
    let package = lab::unpack("prometheus-alertmanager", With::Nothing).unwrap();
    let folder = std::env::temp_dir().join(format!("mailflow-am-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let notified = Receiver::anywhere(200);
    let config = format!(
        "global: {{ resolve_timeout: 2s }}\n\
         route: {{ receiver: hook, group_by: [fingerprint], group_wait: 0s, group_interval: 1s, repeat_interval: 1h }}\n\
         receivers: [{{ name: hook, webhook_configs: [{{ url: \"{}\", send_resolved: true }}] }}]\n",
        notified.url("/")
    );
    fs::write(folder.join("am.yml"), config).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let log = fs::File::create(folder.join("log")).unwrap();
    // It wants its templates where the package would have installed them: in a mount namespace of its own.
    let templates = package.root.join("usr/share/prometheus");
    let script = "cp -r \"$0\" templates && mount -t tmpfs tmpfs /usr/share && cp -r templates /usr/share/prometheus \
                  && exec \"$@\"";
    let child = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .args([templates, package.root.join("usr/bin/prometheus-alertmanager")])
        .args(["--config.file=am.yml", "--storage.path=data", "--cluster.listen-address="])
        .arg(format!("--web.listen-address={free}"))
        .current_dir(&folder)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let program = Program(child);

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
    drop(program);
    let said = fs::read_to_string(folder.join("log")).unwrap();
    assert!(!said.contains("level=error"), "{said}");
    fs::remove_dir_all(&folder).unwrap();
}

fn states(notified: &Receiver) -> Vec<String> {
    notified.received().iter().map(|one| one.body["status"].as_str().unwrap().to_owned()).collect()
}
