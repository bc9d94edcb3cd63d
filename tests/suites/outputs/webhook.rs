//! Webhooks: what is posted, and receivers that refuse, hang, and die.

use std::{fs, net::TcpListener, time::Instant};

use mailflow_agent::config::{AlertTo, Credentials, Profile, Receiver as Settings};
use serde_json::Value;

use crate::{
    fixture::EPOCH,
    http::Receiver,
    peer::{alert, event, format, numbers, sink, until},
};

fn webhook(url: String, receiver: Settings) -> AlertTo {
    AlertTo::Webhook { url, receiver, profile: Profile::Eve }
}

#[test]
fn an_event_is_posted_as_it_is_written() {
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
    // A token that is changed is used from then on.
    fs::write(&token, "another\n").unwrap();
    sink.push(event(&alert(2)));
    until("posted", || receiver.received().len() == 2);
    assert!(receiver.received()[1].headers.contains(&("authorization".into(), "Bearer another".into())));
    fs::remove_file(token).unwrap();
}

#[test]
fn what_is_refused_is_tried_again_or_counted() {
    let receiver = Receiver::anywhere(503);
    let sink = sink(webhook(receiver.url("/"), Settings::default()));
    sink.push(event(&alert(1)));
    sink.push(event(&alert(2)));
    until("an error", || sink.counters().errors.get() >= 1);
    assert_eq!(numbers(&sink), (0, 0, 2), "kept");
    receiver.answer(200);
    until("delivered", || sink.counters().written.get() == 2);
    let order: Vec<_> =
        receiver.received().iter().map(|one| one.body["alert"]["fingerprint"].clone()).collect();
    assert_eq!(order, [alert(1).fingerprint, alert(2).fingerprint], "in order");

    // What is wrong with the event itself will not be right the next time.
    receiver.answer(400);
    sink.push(event(&alert(3)));
    until("counted", || sink.counters().dropped.get() == 1);
    receiver.answer(200);
    sink.push(event(&alert(4)));
    until("the next one", || sink.counters().written.get() == 3);
    assert_eq!(numbers(&sink), (3, 1, 0));
}

#[test]
fn a_receiver_that_is_dead_or_hangs_delays_nobody_and_what_is_lost_is_counted() {
    // A port that nobody listens on, and one whose listener never answers.
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
            // It comes to life: what waited is delivered, the oldest first.
            let receiver = Receiver::start(dead, 200);
            until("recovery", || receiver.received().len() >= 100);
            assert_eq!(receiver.received()[0].body["alert"]["fingerprint"], alert(0).fingerprint);
        }
    }
}
