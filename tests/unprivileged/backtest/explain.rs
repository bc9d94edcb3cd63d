//! `explain` and `suggest` on flow logs, without an agent, and the shipped rules on other tools' logs.

use std::{path::PathBuf, process::Command};

use mailflow_test_support::lab::agent_binary;
use serde_json::Value;

use super::{
    run::{Files, backtest},
    writers::{BEGIN, Session, Way, columns, lines},
};

/// Runs a command; returns its exit status and output.
fn agent_output(words: &[&str], logs: &[PathBuf]) -> (i32, String) {
    let mut command = Command::new(agent_binary().unwrap());
    let output = command.args(words).arg("--log").args(logs).env("RUST_LOG", "error").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout) + &text(output.stderr))
}

/// Returns a relay with thirty sessions to twelve servers, and a host with one flow that is too small; a
/// minute apart.
fn sessions() -> Vec<Session> {
    let relay = (0..30).map(|number| Session {
        server: format!("93.184.215.{}", 10 + number % 12),
        ..Session::mail("10.0.0.1", 4_000 + number, (BEGIN + u64::from(number) * 60) * 1_000_000)
    });
    let small = Way { packets: 10, bytes: 799, ..Way::default() };
    let small = Session { up: small, down: small, ..Session::mail("10.0.0.2", 4_000, BEGIN * 1_000_000) };
    relay.chain([small]).collect()
}

#[test]
fn explain_and_suggest_read_flow_logs() {
    let files = Files::new();
    let sessions = sessions();
    let (first, second) = sessions.split_at(20);
    let own = |sessions: &[Session]| lines(sessions.iter().map(|session| session.own("closed")));
    let logs = [files.write("one", own(first)), files.write("two", own(second))];

    let (code, shown) = agent_output(&["explain", "10.0.0.1"], &logs);
    assert_eq!(code, 0, "{shown}");
    for part in
        ["10.0.0.1 is internal by `10.0.0.0/8", "smtp-burst for 10.0.0.1: FIRING since 2023-11-14T22:2"]
    {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    assert_eq!(shown.matches("smtp-burst               counts").count(), 20, "{shown}");
    let (_, all) = agent_output(&["explain", "10.0.0.1", "--flows", "100", "--json"], &logs);
    let all: Value = serde_json::from_str(&all).unwrap();
    assert_eq!(all["flows"].as_array().unwrap().len(), 30);
    let (_, small) = agent_output(&["explain", "10.0.0.2"], &logs);
    assert!(small.contains("up 799 B / 10 = 79.9 B a packet, less than 80"), "{small}");

    let (code, list) = agent_output(&["suggest"], &logs);
    assert_eq!(code, 0, "{list}");
    assert!(
        list.contains("# 30 of 30 sessions delivered mail, to 12 servers\n  - { source: \"10.0.0.1\""),
        "{list}"
    );
    // The suggested list suppresses the alerts, and is not suggested again.
    let config = files.write("allow.yaml", list);
    let suppressed = backtest(&[], &config, &logs);
    assert!(
        !suppressed.alerts.is_empty()
            && suppressed.alerts.iter().all(|alert| alert["alert"]["suppressed"] == true)
    );
    let (_, again) = agent_output(&["suggest", "--config", config.to_str().unwrap()], &logs);
    assert_eq!(again, "# Nothing behaves like a relay so far.\n");

    // An IPv6 source is given by an address, or in the alerts' notation.
    let v6 =
        Session { server: "2606:4700::25".to_owned(), ..Session::mail("fd00::2", 4_000, BEGIN * 1_000_000) };
    let v6 = files.write("v6", lines([v6.own("closed")]));
    for source in ["fd00::2", "fd00::/64", "fd00::2/64"] {
        let (code, shown) = agent_output(&["explain", source], std::slice::from_ref(&v6));
        assert!(code == 0 && shown.contains("smtp-burst for fd00::/64: not firing"), "{source}: {shown}");
        assert_eq!(shown.matches("smtp-burst               counts").count(), 1, "{source}: {shown}");
    }
    let (code, shown) = agent_output(&["explain", "10.0.0.0/8"], std::slice::from_ref(&v6));
    assert!(
        code == 2 && shown.contains("expected an address such as 10.20.0.2, or an IPv6 prefix"),
        "{shown}"
    );

    // Unreadable lines are reported, and the others explained.
    let bad = files.write("bad", own(first) + "{\"event_type\":\"flow\"}\n");
    let (code, shown) = agent_output(&["explain", "10.0.0.1"], &[bad]);
    assert!(code == 1 && shown.contains("FIRING") && shown.contains("bad:21:"), "{shown}");
}

/// Compares the shipped rules on the same traffic in each tool's log.
#[test]
fn shipped_rules_report_fields_missing_in_log() {
    let files = Files::new();
    let config = files.write("config.yaml", "poll_interval: 1s\n");
    // The sessions of `smtp-burst`; 21 MB; unanswered SYNs to twelve servers.
    let mut sessions = sessions();
    let heavy = Way { packets: 20_000, bytes: 22_000_000, payload: 21_000_000, ..Way::default() };
    let thin = Way { packets: 10_000, bytes: 520_000, ..Way::default() };
    sessions.push(Session { up: heavy, down: thin, ..Session::mail("10.0.0.3", 1, BEGIN * 1_000_000) });
    sessions.extend((0..30).map(|number| Session {
        server: format!("93.184.215.{}", 10 + number % 12),
        up: Way { packets: 1, bytes: 60, ..Way::default() },
        down: Way::default(),
        answered: false,
        messages: 0,
        ..Session::mail("10.0.0.4", 4_000 + number, (BEGIN + u64::from(number) * 60) * 1_000_000)
    }));
    let run = |log: String| backtest(&[], &config, &[files.write("log", log)]);
    let firing = |expected: &[(&str, &str)]| -> Vec<(String, String)> {
        expected.iter().map(|(rule, source)| ((*rule).to_owned(), (*source).to_owned())).collect()
    };
    let [burst, bytes, failed] =
        [("smtp-burst", "10.0.0.1"), ("smtp-bulk", "10.0.0.3"), ("smtp-bulk", "10.0.0.4")];

    let own = run(lines(sessions.iter().map(|session| session.own("closed"))));
    assert_eq!(own.firing(), firing(&[bytes, failed, burst]));
    assert!(!own.log.contains("not evaluable"), "{}", own.log);

    let unjudged = |log: &str, what: &str, lacking: &str| {
        let line = log.lines().find(|line| line.contains(&format!("rule {what}: not evaluable for ")));
        let line = line.unwrap_or_else(|| panic!("nothing of {what} in {log}"));
        assert!(line.ends_with(&format!("as their log does not tell: {lacking}")), "{line}");
    };
    let suricata = run(lines(sessions.iter().map(Session::suricata)));
    assert_eq!(suricata.firing(), firing(&[failed, burst]));
    unjudged(&suricata.log, "smtp-bulk, sum payload_up", "payload bytes");
    unjudged(&suricata.log, "smtp-bulk, sum messages", "estimated messages");
    unjudged(&suricata.log, "smtp-bulk, count failed", "estimated messages");
    unjudged(&suricata.log, "smtp-auth-guess", "payload bytes, packets with payload, estimated messages");

    for zeek in [lines(sessions.iter().map(Session::zeek)), columns(&sessions)] {
        let zeek = run(zeek);
        assert_eq!(zeek.firing(), firing(&[bytes, failed, burst]), "{}", zeek.log);
        unjudged(&zeek.log, "smtp-bulk, sum messages", "estimated messages");
        unjudged(&zeek.log, "smtp-bulk, count failed", "estimated messages");
        unjudged(&zeek.log, "smtp-auth-guess", "packets with payload, estimated messages");
        assert!(!zeek.log.contains("sum payload_up"), "{}", zeek.log);
        // An alert does not turn unknown values into zero.
        let bulk = zeek.alerts.iter().find(|alert| alert["src_ip"] == "10.0.0.3").unwrap();
        let terms = bulk["mailflow"]["conditions"].as_array().unwrap();
        let value = |name| &terms.iter().find(|term| term["name"] == name).unwrap()["value"];
        assert_eq!((value("sum payload_up"), value("sum messages")), (&21_000_000.into(), &Value::Null));
    }

    // `explain` also reports them for each flow.
    let log = files.write("log", lines(sessions.iter().map(Session::suricata)));
    let (_, shown) = agent_output(&["explain", "10.0.0.1", "--flows", "1"], std::slice::from_ref(&log));
    assert!(
        shown.contains("smtp-auth-guess          not evaluable, as its log does not tell: payload"),
        "{shown}"
    );
    let messages = shown.lines().find(|line| line.trim_start().starts_with("sum messages")).unwrap();
    assert!(
        messages.contains("not evaluable, as no record has the required fields; threshold 60 messages in 1h"),
        "{shown}"
    );
    let (_, list) = agent_output(&["suggest"], &[log]);
    // Without a session, no mail was delivered.
    assert!(list.starts_with("# For 32 of 62 attempts it is unknown whether mail was delivered"), "{list}");
}
