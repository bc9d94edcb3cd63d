//! Untrusted text cannot control a terminal: control characters are planted in every input and searched in
//! every output.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixListener,
    path::Path,
    process::Command,
    thread,
};

use mailflow_agent::control::{
    AllowSuggestion, FiringAlert, FlowExplanation, ListStatus, OutputStatus, ProgramStatus, Reply,
    RuleExplanation, RuleStatus, SourceExplanation, Status, TermExplanation, TopSnapshot, TopSource,
};
use mailflow_test_support::lab::agent_binary;
use serde_json::Value;

use super::{
    run::{Files, rules},
    writers::{BEGIN, Session, lines},
};

/// Text with colour, title, bell, C1's CSI, bidirectional override, invisible characters, a tag, and a line
/// separator.
const EVIL: &str =
    "x\u{1b}[31m\u{1b}]0;t\u{7}\u{9b}2J\u{202e}\u{2066}\u{200b}\u{feff}\u{2028}\u{e0041}\u{61c}\u{7f}y";

/// Returns the characters of `text` that a terminal would interpret or hide.
fn acted_on(text: &str) -> Vec<char> {
    let harmful = |c: &char| {
        let bidirectional = matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let hidden = matches!(c, '\u{200b}'..='\u{200d}' | '\u{2028}' | '\u{2029}' | '\u{2060}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
        c.is_control() && *c != '\n' || bidirectional || hidden
    };
    text.chars().filter(harmful).collect()
}

/// Returns the output of a command, on both streams, and checks that a terminal would interpret none of it.
fn printed(arguments: &[&str]) -> (String, String) {
    let output =
        Command::new(agent_binary().unwrap()).args(arguments).env("RUST_LOG", "debug").output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    for (stream, text) in [("standard output", &out), ("standard error", &err)] {
        assert_eq!(acted_on(text), [], "{arguments:?} on {stream}: {text:?}");
    }
    (out, err)
}

/// Answers clients one after the other, like an agent with untrusted text in its state.
fn agent(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = BufReader::new(client.unwrap());
            let mut request = String::new();
            while client.read_line(&mut request).unwrap_or(0) > 0 {
                let command: Value = serde_json::from_str(&request).unwrap();
                let reply = serde_json::to_string(&answer(command["command"].as_str().unwrap())).unwrap();
                if writeln!(client.get_mut(), "{reply}").is_err() {
                    break;
                }
                request.clear();
            }
        }
    });
}

fn answer(command: &str) -> Reply {
    // A line feed in a text begins no new line.
    let evil = || format!("{EVIL}\nFIRING forged");
    match command {
        "status" => Reply::Status(Box::new(Status {
            version: evil(),
            config: Some(evil()),
            lists: Some(ListStatus { networks: 1, refused: Some(evil()) }),
            interfaces: vec![ProgramStatus {
                interface: evil(),
                hook: evil(),
                direction: evil(),
                ..ProgramStatus::default()
            }],
            uncounted: [(evil(), 1)].into(),
            rules: vec![RuleStatus {
                name: evil(),
                severity: evil(),
                highest_source: Some(evil()),
                ..RuleStatus::default()
            }],
            alerts: vec![FiringAlert {
                rule: evil(),
                severity: evil(),
                source: evil(),
                condition: Some(evil()),
                unit: Some(evil()),
                ..FiringAlert::default()
            }],
            outputs: vec![OutputStatus { name: evil(), ..Default::default() }],
            notes: vec![evil()],
            ..Status::default()
        })),
        "top" => Reply::Top(TopSnapshot {
            at_seconds: 1.0,
            rows: vec![TopSource { source: evil(), packets_up: 1, bytes_up: 1, ..TopSource::default() }],
        }),
        "explain" => Reply::Explained(Box::new(SourceExplanation {
            matched_network: Some(evil()),
            group: Some(evil()),
            rules: vec![RuleExplanation {
                rule: evil(),
                subject: evil(),
                terms: vec![TermExplanation { name: evil(), ..TermExplanation::default() }],
                ..RuleExplanation::default()
            }],
            flows: vec![FlowExplanation {
                client: evil(),
                server: evil(),
                app_proto: evil(),
                reason: evil(),
                verdicts: vec![(evil(), Some(evil()))],
                ..FlowExplanation::default()
            }],
            since: None,
        })),
        "suggest" => Reply::Suggested(vec![AllowSuggestion {
            source: Some(evil()),
            destination: Some(evil()),
            because: evil(),
        }]),
        _ => Reply::Refused(vec![evil()]),
    }
}

#[test]
fn control_replies_are_escaped() {
    let files = Files::new();
    let socket = files.path("agent.sock");
    agent(&socket);
    let socket = socket.to_str().unwrap();
    for (command, shown) in [
        (&["status"][..], "the changed lists are REFUSED: x\\u001b[31m\\u001b]0;t\\u0007\\u009b2J\\u202e"),
        (&["top", "--once"], "x\\u001b[31m"),
        (&["explain", "10.0.0.1"], "is internal by `x\\u001b[31m"),
        (&["suggest"], "# x\\u001b[31m"),
        (&["reload"], "x\\u001b[31m"),
    ] {
        let arguments: Vec<&str> = command.iter().copied().chain(["--socket", socket]).collect();
        let (out, err) = printed(&arguments);
        assert!((out.clone() + &err).contains(shown), "{command:?}: {out}{err}");
        assert!(
            !(out + &err).lines().any(|line| line.starts_with("FIRING forged")),
            "{command:?}: a line of its own"
        );
    }
    // JSON stays valid, and has the same values.
    for command in [&["status", "--json"][..], &["explain", "10.0.0.1", "--json"]] {
        let arguments: Vec<&str> = command.iter().copied().chain(["--socket", socket]).collect();
        let (out, _) = printed(&arguments);
        let json: Value = serde_json::from_str(&out).unwrap();
        let place = if command[0] == "status" { &json["config"] } else { &json["group"] };
        assert_eq!(place, &Value::from(format!("{EVIL}\nFIRING forged")));
    }
}

#[test]
fn file_names_comments_and_lines_are_escaped() {
    let files = Files::new();
    let path = |name: &str| files.path(name).to_str().unwrap().to_owned();
    let yaml = serde_json::to_string(EVIL).unwrap();
    // A comment of a list, the reason of an allow-list, the label of a rule, the name of a file.
    files.write("list.txt", format!("10.0.0.0/8  {}\n", EVIL.replace('\u{2028}', "")));
    let allow = format!("allow:\n  - {{ source: 10.0.0.2, reason: {yaml} }}\n");
    let networks = "internal_networks: { files: [list.txt] }\n";
    let config = rules(&[("one", "{ test: ratio }", 3)]);
    files.write("config.yaml", format!("{networks}{allow}{config}    labels: {{ note: {yaml} }}\n"));
    let session = |client: &str, number: u16| Session::mail(client, 4_000 + number, BEGIN * 1_000_000);
    let flows = ["10.0.0.1", "10.0.0.2"].map(|client| (0..3).map(move |number| session(client, number)));
    let own = lines(flows.into_iter().flatten().map(|session| session.own("closed")));
    let log = format!("log{EVIL}");
    // A line that is rejected with its value, and a line that is no record.
    let bad = format!("{{\"event_type\":\"flow\",\"src_ip\":{yaml}}}\n{EVIL}\n");
    files.write(&log, own + &bad);
    let (config, log) = (path("config.yaml"), path(&log));

    let (out, _) = printed(&["explain", "10.0.0.1", "--config", &config, "--log", &log]);
    assert!(out.contains("is internal by `10.0.0.0/8  x\\u001b[31m"), "{out}");
    let (out, _) = printed(&["explain", "10.0.0.2", "--config", &config, "--log", &log]);
    assert!(out.contains("on the allow-list: x\\u001b[31m"), "{out}");
    let (out, err) = printed(&["backtest", "--config", &config, "--alerts", "-", &log]);
    assert!(err.contains("src_ip: ") && err.contains("u{1b}[31m"), "{err}");
    let alerts: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(alerts[0]["alert"]["labels"]["note"], Value::from(EVIL), "JSON says the same");
    printed(&["suggest", "--config", &config, "--log", &log]);

    // Errors and warnings of configurations, lists, rule tests and missing files.
    let text = format!("interfaces: [{{ name: {yaml} }}]\n? {yaml}\n: 1\n{networks}poll_interval: {yaml}\n");
    files.write("bad.yaml", text);
    files.write("list.txt", format!("{EVIL}\n10.0.0.0/8 {EVIL}\n10.0.0.0/9\n"));
    for arguments in [
        &["check-config", &path("bad.yaml"), &path(EVIL), &config][..],
        &["rules", "test", &path("bad.yaml"), &path(EVIL)],
        &["doctor", "--config", &path("bad.yaml")],
        &["status", "--socket", &path(EVIL)],
        &["backtest", &path(EVIL), "--config", &config],
        &["replay", "--config", &path("bad.yaml"), &path(EVIL)],
        &["print-config", "--config", &path(EVIL)],
        &["man", &path(EVIL)],
        &[EVIL],
        &["backtest", "--l2-overhead", EVIL, &log],
    ] {
        let (out, err) = printed(arguments);
        assert!(!out.is_empty() || !err.is_empty() || arguments[0] == "man", "{arguments:?}");
    }
    let test = format!(
        "config: good.yaml\ntests:\n  - name: {yaml}\n    flows: []\n    alerts: [{{ rule: one, source: 10.0.0.1 }}]\n"
    );
    files.write("list.txt", "10.0.0.0/8\n");
    files.write("good.yaml", format!("{networks}{}", rules(&[("one", "{ test: ratio }", 3)])));
    let (out, err) = printed(&["rules", "test", files.write("test.yaml", test).to_str().unwrap()]);
    assert!(out.contains("x\\u001b[31m") || err.contains("u{1b}[31m"), "{out}{err}");
}
