//! Webhooks: requests, and receivers that refuse, hang and vanish.

use std::{
    collections::HashSet,
    fs,
    net::TcpListener,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use mailflow_agent::config::{
    AlertDestination, Credentials, DeadLetters, Profile, Receiver as Settings, WebhookAddress,
    outputs::url::{Url, UrlForm},
};
use mailflow_engine::event::Alert;
use serde_json::Value;

use crate::{
    fixture::EPOCH,
    http::{Received, Receiver, Reply},
    peer::{alert, event, format, numbers, resolved, sink, sink_and_receiver, until},
};

const SECOND: Duration = Duration::from_secs(1);

fn webhook(url: String, receiver: Settings) -> AlertDestination {
    let url = WebhookAddress::Inline(Url::parse(&url, UrlForm::Webhook).unwrap());
    AlertDestination::Webhook { url, receiver, profile: Profile::Eve, dead_letters: DeadLetters::Off }
}

#[test]
fn posted_event_equals_written_line() {
    let token = std::env::temp_dir().join(format!("mailflow-token-{}", std::process::id()));
    fs::write(&token, "s3cret\n").unwrap();
    let receiver = Receiver::anywhere(204);
    let settings = Settings {
        credentials: Credentials::Bearer { token_file: token.clone() },
        headers: vec![("x-tenant".into(), "7".into())],
        ..Settings::default()
    };
    let sink = sink(webhook(receiver.url("/hook?a=b"), settings));
    sink.push(event(&alert(1)));
    until("posted", || !receiver.received().is_empty());
    let received = receiver.received().remove(0);
    assert_eq!(received.line, "POST /hook?a=b");
    let expected: Value =
        serde_json::from_str(&format(Profile::Eve).alert_line(&alert(1), EPOCH).unwrap()).unwrap();
    assert_eq!(received.body, expected);
    for (name, value) in
        [("content-type", "application/json"), ("authorization", "Bearer s3cret"), ("x-tenant", "7")]
    {
        let found = received.headers.iter().find(|header| header.0 == name);
        assert_eq!(found.map(|header| header.1.as_str()), Some(value), "{name}");
    }
    // A changed token is used from then on.
    fs::write(&token, "another\n").unwrap();
    sink.push(event(&alert(2)));
    until("posted", || receiver.received().len() == 2);
    assert!(receiver.received()[1].headers.contains(&("authorization".into(), "Bearer another".into())));
    fs::remove_file(token).unwrap();
}

#[test]
fn refused_event_is_retried_or_counted() {
    let receiver = Receiver::anywhere(503);
    let sink = sink(webhook(receiver.url("/"), Settings::default()));
    sink.push(event(&alert(1)));
    sink.push(event(&alert(2)));
    // An event that was never refused would be delivered before the retry of the other.
    until("both are refused", || receiver.asked().len() >= 2 && sink.counters().errors.get() >= 1);
    assert_eq!(numbers(&sink), (0, 0, 2), "kept");
    receiver.answer(200);
    until("delivered", || sink.counters().written.get() == 2);
    let order: Vec<_> =
        receiver.received().iter().map(|one| one.body["alert"]["fingerprint"].clone()).collect();
    assert_eq!(order, [alert(1).fingerprint, alert(2).fingerprint], "in order");

    // A client error will not succeed at a retry.
    receiver.answer(400);
    sink.push(event(&alert(3)));
    until("counted", || sink.counters().dropped.get() == 1);
    receiver.answer(200);
    sink.push(event(&alert(4)));
    until("the next one", || sink.counters().written.get() == 3);
    assert_eq!(numbers(&sink), (3, 1, 0));
}

#[test]
fn dead_or_hanging_receiver_delays_no_push_and_losses_are_counted() {
    // A port without a listener, and a listener that never answers.
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hanging = Receiver::anywhere(0);
    for url in [format!("http://{dead}/"), hanging.url("/")] {
        let sink = sink(webhook(url.clone(), Settings::default()));
        let begun = Instant::now();
        let many = 20_000;
        for number in 0..many {
            sink.push(event(&alert(number)));
        }
        println!("{url}: {many} alerts handed over in {:?}", begun.elapsed());
        let (written, dropped, waiting) = numbers(&sink);
        assert_eq!(written, 0);
        assert!(dropped > 0 && waiting > 0);
        assert_eq!(dropped + waiting.unsigned_abs(), many, "each is accounted for");
        if url.contains(&dead.to_string()) {
            // The receiver starts: the waiting events are delivered, the oldest first.
            let receiver = Receiver::start(dead, 200);
            until("recovery", || receiver.received().len() >= 100);
            assert_eq!(receiver.received()[0].body["alert"]["fingerprint"], alert(0).fingerprint);
        }
    }
}

fn fingerprint(received: &Received) -> String {
    received.body["alert"]["fingerprint"].as_str().unwrap().to_owned()
}

fn header(received: &Received, name: &str) -> String {
    let found = received.headers.iter().find(|header| header.0 == name);
    found.map(|header| header.1.clone()).unwrap_or_default()
}

fn reply(status: u16) -> Reply {
    Reply { status, ..Reply::default() }
}

fn with_timeout(timeout: Duration) -> Settings {
    Settings { timeout, ..Settings::default() }
}

/// The receiver answers one of the events only after the timeout.
#[test]
fn slow_event_blocks_no_other_and_keeps_idempotency_key() {
    let slow = alert(1).fingerprint;
    let receiver = Receiver::scripted(move |received| {
        let delay = if fingerprint(received) == slow { SECOND * 3 } else { Duration::ZERO };
        Reply { delay, ..reply(200) }
    });
    let sink = sink(webhook(receiver.url("/"), with_timeout(SECOND)));
    for number in 1..=20 {
        sink.push(event(&alert(number)));
    }
    let of_slow = || receiver.asked().into_iter().filter(|(_, one)| fingerprint(one) == alert(1).fingerprint);
    until("three tries", || of_slow().count() >= 3);
    let asked = receiver.asked();
    let order: Vec<String> = asked.iter().take(20).map(|(_, one)| fingerprint(one)).collect();
    let expected: Vec<String> = (1..=20).map(|number| alert(number).fingerprint).collect();
    assert_eq!(order, expected, "the others come before its second try");
    assert_eq!(numbers(&sink), (19, 0, 1));
    let keys: HashSet<String> = asked.iter().map(|(_, one)| header(one, "idempotency-key")).collect();
    assert_eq!(keys.len(), 20, "one for each event: {keys:?}");
    assert!(of_slow().all(|(_, one)| {
        header(&one, "idempotency-key").starts_with("0000000000000001-1795231864000-firing")
    }));
}

#[test]
fn request_timeout_is_configurable() {
    let receiver = Receiver::scripted(|_| Reply { delay: SECOND * 2, ..reply(200) });
    let sink = sink(webhook(receiver.url("/"), with_timeout(SECOND * 60)));
    sink.push(event(&alert(1)));
    until("delivered", || numbers(&sink) == (1, 0, 0));
    assert_eq!(receiver.asked().len(), 1, "posted once");
}

#[test]
fn every_state_and_repeat_has_unique_idempotency_key() {
    let receiver = Receiver::anywhere(200);
    let sink = sink(webhook(receiver.url("/"), Settings::default()));
    let first = Alert { time: alert(1).starts_at, ..alert(1) };
    for alert in [&first, &alert(1), &resolved(&alert(1))] {
        sink.push(event(alert));
    }
    until("delivered", || receiver.received().len() == 3);
    let keys: Vec<String> = receiver.received().iter().map(|one| header(one, "idempotency-key")).collect();
    let start = "0000000000000001-1795231864000";
    assert_eq!(keys, [format!("{start}-firing"), format!("{start}-firing-1"), format!("{start}-resolved")]);
}

#[test]
fn retry_after_is_respected() {
    for status in [429, 503] {
        let first = AtomicBool::new(true);
        let receiver = Receiver::scripted(move |_| match first.swap(false, Ordering::SeqCst) {
            true => Reply { head: "retry-after: 4\r\n".into(), ..reply(status) },
            false => reply(200),
        });
        let sink = sink(webhook(receiver.url("/"), Settings::default()));
        sink.push(event(&alert(1)));
        sink.push(event(&alert(2)));
        until("delivered", || numbers(&sink) == (2, 0, 0));
        let asked = receiver.asked();
        assert_eq!(asked.len(), 3, "{status}: no try in between");
        assert!(asked[1].0 - asked[0].0 >= SECOND * 4, "{status}");
    }
}

#[test]
fn permanent_failure_is_a_dead_letter_without_secrets() {
    let file = std::env::temp_dir().join(format!("mailflow-letters-{}.json", std::process::id()));
    let token = std::env::temp_dir().join(format!("mailflow-letters-{}.token", std::process::id()));
    fs::write(&token, "PLANTED-token\n").unwrap();
    let refused = alert(1).fingerprint;
    // A receiver that repeats the request, as many frameworks do.
    let receiver = Receiver::scripted(move |received| match fingerprint(received) == refused {
        true => Reply { body: format!("Cannot {} with {:?}", received.line, received.headers), ..reply(404) },
        false => reply(200),
    });
    let settings = Settings {
        credentials: Credentials::Bearer { token_file: token.clone() },
        headers: vec![("x-key".into(), "PLANTED-header".into())],
        ..Settings::default()
    };
    let AlertDestination::Webhook { url, receiver: settings, profile, .. } =
        webhook(receiver.url("/hook/PLANTED-path?key=PLANTED-query"), settings)
    else {
        panic!()
    };
    let dead_letters = DeadLetters::File(file.clone());
    let (sink, counters) =
        sink_and_receiver(AlertDestination::Webhook { url, receiver: settings, profile, dead_letters });
    for number in 1..=3 {
        sink.push(event(&alert(number)));
    }
    until("the others", || numbers(&sink) == (2, 1, 0));
    assert_eq!((counters.dead_lettered.get(), counters.dead_letters.get()), (1, 1));
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains("PLANTED"), "{text}");
    let letter: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(letter["event"]["alert"]["fingerprint"], alert(1).fingerprint);
    assert_eq!((letter["output"].as_str(), letter["status"].as_u64()), (Some("test"), Some(404)));
    assert_eq!(letter["receiver"].as_str().unwrap(), receiver.url(""));
    assert!(letter["reason"].as_str().unwrap().starts_with("404 Not Found: Cannot POST"), "{letter}");
    // Until the operator removes the dead letters.
    fs::remove_file(&file).unwrap();
    until("none is left", || counters.dead_letters.get() == 0);
    fs::remove_file(&token).unwrap();
}

#[test]
fn each_status_is_retried_or_a_dead_letter() {
    for (status, again) in [
        (400, false),
        (401, false),
        (403, false),
        (404, false),
        (410, false),
        (413, false),
        (422, false),
        (408, true),
        (425, true),
        (429, true),
        (307, true),
        (500, true),
        (502, true),
        (503, true),
    ] {
        let first = AtomicBool::new(true);
        let receiver = Receiver::scripted(move |_| {
            reply(if first.swap(false, Ordering::SeqCst) { status } else { 200 })
        });
        let sink = sink(webhook(receiver.url("/"), Settings::default()));
        sink.push(event(&alert(1)));
        let expected = if again { (1, 0, 0) } else { (0, 1, 0) };
        until(&format!("{status}"), || numbers(&sink) == expected);
        assert_eq!(receiver.asked().len(), 1 + usize::from(again), "{status}");
    }
}

#[test]
fn resolved_event_follows_firing_event() {
    let failures = AtomicUsize::new(0);
    let receiver = Receiver::scripted(move |received| {
        let late =
            fingerprint(received) == alert(1).fingerprint && failures.fetch_add(1, Ordering::SeqCst) < 2;
        reply(if late { 500 } else { 200 })
    });
    let sink = sink(webhook(receiver.url("/"), Settings::default()));
    sink.push(event(&alert(1)));
    sink.push(event(&resolved(&alert(1))));
    sink.push(event(&alert(2)));
    until("all", || numbers(&sink) == (3, 0, 0));
    let received = receiver.received();
    let states: Vec<_> =
        received.iter().map(|one| (fingerprint(one), one.body["alert"]["state"].clone())).collect();
    let [one, two] = [alert(1).fingerprint, alert(2).fingerprint];
    assert_eq!(states, [(two, "firing".into()), (one.clone(), "firing".into()), (one, "resolved".into())]);
}

#[test]
fn redirect_is_not_followed() {
    let other = Receiver::anywhere(200);
    let head = format!("location: {}\r\n", other.url("/elsewhere"));
    let receiver = Receiver::scripted(move |_| Reply { head: head.clone(), ..reply(308) });
    let sink = sink(webhook(receiver.url("/"), Settings::default()));
    sink.push(event(&alert(1)));
    until("two tries", || receiver.asked().len() >= 2);
    assert!(other.asked().is_empty());
    assert_eq!(numbers(&sink), (0, 0, 1));
}

/// The receiver closes the persistent connection without a notice.
#[test]
fn closed_persistent_connection_loses_no_event() {
    let receiver = Receiver::anywhere(200);
    let addr = receiver.addr;
    let sink = sink(webhook(receiver.url("/"), Settings::default()));
    sink.push(event(&alert(1)));
    until("the first", || numbers(&sink) == (1, 0, 0));
    drop(receiver);
    let receiver = Receiver::start(addr, 200);
    sink.push(event(&alert(2)));
    until("the second", || numbers(&sink) == (2, 0, 0));
    assert_eq!(receiver.received().len(), 1);
}

/// Five of the events are never accepted.
#[test]
fn permanently_failing_events_delay_no_other() {
    let receiver = Receiver::scripted(|received| {
        let number = u64::from_str_radix(&fingerprint(received), 16).unwrap();
        reply(if number <= 5 { 500 } else { 200 })
    });
    let sink = sink(webhook(receiver.url("/"), Settings::default()));
    for number in 1..=20 {
        sink.push(event(&alert(number)));
    }
    until("the others", || numbers(&sink) == (15, 0, 5));
    // A later event is posted at once: before all five have failed again.
    let before = receiver.asked().len();
    sink.push(event(&alert(21)));
    until("a further one", || numbers(&sink).0 == 16);
    let between = receiver
        .asked()
        .iter()
        .skip(before)
        .take_while(|(_, one)| fingerprint(one) != alert(21).fingerprint)
        .count();
    assert!(between <= 6, "{between} requests before it");
}
