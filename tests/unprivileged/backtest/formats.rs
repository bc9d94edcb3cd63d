//! Containers and variants of the log formats: each gives the alerts of the plain log.

use serde_json::{Map, Value, json};

use super::{
    run::{Files, RunOutput, backtest, rules},
    writers::{BEGIN, Session, Way, ZEEK_HEADER, columns, lines},
};

const RULES: [(&str, &str, u64); 2] =
    [("one", "{ test: ratio }", 3), ("bytes", "{ test: ratio, up: 40, down: 40 }", 3)];

/// Returns three sessions of one source with `tags` VLAN tags.
fn sessions(tags: u64) -> Vec<Session> {
    let session = |number: u16| Session {
        tags,
        ..Session::mail("10.0.0.1", 4_000 + number, (BEGIN + u64::from(number)) * 1_000_000)
    };
    (0..3).map(session).collect()
}

fn run(options: &[&str], log: &[u8]) -> RunOutput {
    let files = Files::new();
    let config = files.write("config.yaml", rules(&RULES));
    backtest(options, &config, &[files.write("log", log)])
}

/// Returns the alerts of a log; every line must be readable.
fn alerts(options: &[&str], log: &str) -> Vec<String> {
    let output = run(options, log.as_bytes());
    assert_eq!(output.code, 0, "{}\nof {log}", output.log);
    assert_eq!(output.firing().len(), 2, "{}\nof {log}", output.log);
    output.identities()
}

fn all(line: fn(&Session) -> String, change: impl Fn(Value) -> Value) -> String {
    lines(sessions(0).iter().map(|session| change(serde_json::from_str(&line(session)).unwrap()).to_string()))
}

#[test]
fn zeek_endpoint_names_have_several_forms() {
    let plain = alerts(&[], &all(Session::zeek, |line| line));
    let nested = |mut line: Value| {
        let mut id = Map::new();
        for name in ["orig_h", "orig_p", "resp_h", "resp_p"] {
            id.insert(name.to_owned(), line.as_object_mut().unwrap().remove(&format!("id.{name}")).unwrap());
        }
        line["id"] = id.into();
        line
    };
    assert_eq!(alerts(&[], &all(Session::zeek, nested)), plain);
    let named = |change: &dyn Fn(&str) -> String, line: Value| {
        let Value::Object(line) = line else { unreachable!() };
        line.into_iter().map(|(name, value)| (change(&name), value)).collect::<Value>()
    };
    let underscored = |line| named(&|name: &str| name.replace('.', "_"), line);
    assert_eq!(alerts(&[], &all(Session::zeek, underscored)), plain);
    let other = |name: &str| match name {
        "ts" => "timestamp".to_owned(),
        "id.orig_h" => "src".to_owned(),
        name => name.to_owned(),
    };
    let options = ["--column", "ts=timestamp", "--column", "id.orig_h=src"];
    assert_eq!(alerts(&options, &all(Session::zeek, |line| named(&other, line))), plain);
    let table = columns(&sessions(0));
    let header = table.replace("#fields\tts\tuid\tid.orig_h", "#fields\ttimestamp\tuid\tsrc");
    assert_ne!(header, table);
    assert_eq!(alerts(&options, &header), alerts(&[], &table));
    assert_eq!(
        alerts(&[], &table.replace("id.orig_h\tid.orig_p", "id_orig_h\tid_orig_p")),
        alerts(&[], &table)
    );

    // An error in a nested line names Zeek's column.
    let bad = |mut line: Value| {
        line = nested(line);
        line["id"]["orig_h"] = json!("10.0.0");
        line
    };
    let output = run(&[], all(Session::zeek, bad).as_bytes());
    assert!(
        output.code == 1 && output.log.contains("id.orig_h: \"10.0.0\": expected an IP address"),
        "{}",
        output.log
    );
    let output = run(&["--column", "time=ts"], table.as_bytes());
    assert!(
        output.code == 2 && output.log.contains("none of Zeek's columns ts, id.orig_h"),
        "{}",
        output.log
    );
}

#[test]
fn zeek_durations_may_be_tiny_or_negative() {
    let short = |duration: &str| {
        let table = columns(&sessions(0));
        run(&[], table.replace("\t1.500000\t", &format!("\t{duration}\t")).as_bytes())
    };
    for duration in ["-0.000001", "5.1e-05", "-1e-06", "0"] {
        let output = short(duration);
        assert_eq!((output.code, output.firing().len()), (0, 2), "{duration}: {}", output.log);
    }
    let log = all(Session::zeek, |mut line| {
        line["duration"] = json!(-0.000_001);
        line
    });
    assert_eq!(alerts(&[], &log).len(), 2);
}

/// Zeek packages write these logs while a connection is open, with its totals so far: a flow counts once.
#[test]
fn zeek_open_connection_logs_are_interim_records() {
    let closed = columns(&sessions(0));
    for path in ["open_conn", "conn_long"] {
        let open = |session: &Session| Session { duration: session.duration / 2, ..session.clone() };
        let open: Vec<Session> = sessions(0).iter().map(open).collect();
        let open = columns(&open).replace("#path\tconn", &format!("#path\t{path}"));
        let output = run(&[], open.as_bytes());
        assert_eq!((output.code, output.firing().len()), (0, 2), "{path}: {}", output.log);
        let output = run(&[], (open.clone() + &closed).as_bytes());
        let counted: Vec<_> =
            output.alerts.iter().map(|alert| alert["alert"]["value"].as_u64().unwrap()).collect();
        assert_eq!(counted, [3, 3], "each flow once: {}", output.log);
        assert!(output.log.contains("records=6"), "{}", output.log);
        let json = all(Session::zeek, |mut line| {
            line["_path"] = json!(path);
            line
        });
        assert_eq!(alerts(&[], &json).len(), 2, "{path}");
        // SYNs without an answer may still be answered: nothing has failed yet.
        let files = Files::new();
        let rule = "rules:\n  - name: failed\n    match: {}\n    window: { length: 1h }\n    condition: { count: { of: failed, at_least: 1 } }\n";
        let config = files.write("config.yaml", rule);
        let unanswered = Session { answered: false, down: Way::default(), ..sessions(0)[0].clone() };
        let open = columns([&unanswered]).replace("#path\tconn", &format!("#path\t{path}"));
        let failed = |log: &str| backtest(&[], &config, &[files.write("log", log)]).firing().len();
        assert_eq!((failed(&open), failed(&columns([&unanswered]))), (0, 1));
    }
}

#[test]
fn concatenated_logs_may_have_several_formats() {
    let table = columns(&sessions(0));
    let plain = alerts(&[], &table);
    let dns = "#separator \\x09\n#set_separator\t,\n#path\tdns\n#fields\tts\tuid\n1.0\tC\n#close\t2023\n";
    let (head, tail) = table.split_at(table.find("#close").unwrap());
    let log = format!("{}{dns}\u{feff}{table}", head.to_owned() + tail);
    let output = run(&[], log.as_bytes());
    assert_eq!(output.code, 0, "{}", output.log);
    assert_eq!(output.identities(), plain, "{}", output.log);
    assert!(output.log.contains("other_events=1") && output.log.contains("repeated=3"), "{}", output.log);
    // Other line ends and empty lines are accepted.
    assert_eq!(alerts(&[], &table.replace('\n', "\r\n")), plain);
    assert_eq!(alerts(&[], &table.replace('\n', "\n\n")), plain);
    let eve = all(Session::suricata, |line| line);
    assert_eq!(alerts(&[], &eve.replace('\n', "\r\n\r\n")), alerts(&[], &eve));
}

#[test]
fn eve_vlan_may_be_list_number_or_null() {
    let tagged = |vlan: Value| {
        lines(sessions(1).iter().map(|session| {
            let mut line: Value = serde_json::from_str(&session.suricata()).unwrap();
            line["vlan"] = vlan.clone();
            line.to_string()
        }))
    };
    let list = alerts(&[], &tagged(json!([1])));
    assert_eq!(alerts(&[], &tagged(json!(1))), list);
    let none = |vlan: Value| {
        all(Session::suricata, move |mut line| {
            line["vlan"] = vlan.clone();
            line
        })
    };
    let plain = alerts(&[], &all(Session::suricata, |line| line));
    assert_eq!((alerts(&[], &none(Value::Null)), alerts(&[], &none(json!([])))), (plain.clone(), plain));
    let output = run(&[], tagged(json!("x")).as_bytes());
    assert!(output.log.contains("vlan: ") && output.log.contains("expected a VLAN tag"), "{}", output.log);
}

#[test]
fn nested_lines_of_other_tools_are_read() {
    for line in [Session::suricata, Session::zeek, |session: &Session| session.own("closed")] {
        let plain = alerts(&[], &all(line, |line| line));
        let wraps: [fn(Value) -> Value; 7] = [
            |line| json!({ "@timestamp": "2026-01-01T00:00:00Z", "message": line.to_string(), "agent": { "type": "filebeat" } }),
            |line| json!({ "@timestamp": "2026-01-01T00:00:00Z", "suricata": { "eve": line }, "message": "flow" }),
            |line| json!({ "json": line, "log": { "offset": 7, "file": { "path": "/var/log/eve.json" } } }),
            |line| json!({ "_index": "logs", "_id": "x", "_source": line }),
            |line| json!({ "_index": "logs", "_source": { "event": { "original": line.to_string() }, "source": { "ip": "10.0.0.1" } } }),
            |line| json!({ "_source": { "suricata": { "eve": line } } }),
            |line| json!({ "stream": "stdout", "log": line.to_string() + "\n" }),
        ];
        for wrap in wraps {
            // Other lines are skipped and counted.
            let log = format!("{{\"message\":\"hello\"}}\n{}{{\"a\":1}}\n", all(line, wrap));
            assert_eq!(alerts(&[], &log), plain, "{log}");
        }
    }
    // An error has its location in the file's own line.
    let bad = all(Session::suricata, |mut line| {
        line["src_ip"] = json!("10.0.0");
        json!({ "_source": line })
    });
    let output = run(&[], bad.as_bytes());
    let column = bad.lines().next().unwrap().find("\"10.0.0\"").unwrap() + "\"10.0.0\"".len();
    assert!(output.log.contains(&format!(":1:{column}: src_ip: \"10.0.0\"")), "{column}: {}", output.log);
}

/// Each reason is logged once per file, with a count.
#[test]
fn unread_lines_are_counted_by_reason() {
    let netflow = all(Session::suricata, |mut line| {
        line["event_type"] = json!("netflow");
        line["netflow"] = json!({ "pkts": 1, "bytes": 60, "age": 0, "min_ttl": 64, "max_ttl": 64 });
        line
    });
    let icmp = all(Session::suricata, |mut line| {
        line["proto"] = json!("ICMP");
        let line = line.as_object_mut().unwrap();
        line.remove("src_port");
        line.remove("dest_port");
        line.insert("icmp_type".to_owned(), json!(8));
        Value::Object(line.clone())
    });
    let output = run(&[], (netflow + &icmp + &all(Session::suricata, |line| line)).as_bytes());
    assert_eq!((output.code, output.firing().len()), (0, 2), "{}", output.log);
    assert_eq!(output.log.matches("netflow").count(), 1, "{}", output.log);
    assert!(
        output.log.contains("3 netflow events are skipped, as each holds one direction"),
        "{}",
        output.log
    );
    assert!(output.log.contains("other_events=3 not_watched=3"), "{}", output.log);

    for (magic, name) in [
        (&b"\x28\xb5\x2f\xfd"[..], "compressed with zstd"),
        (b"\xfd7zXZ\0", "compressed with xz"),
        (b"BZh9", "compressed with bzip2"),
        (b"PK\x03\x04", "compressed with zip"),
        (b"\xff\xfe{\0", "UTF-16"),
    ] {
        let output = run(&[], magic);
        assert!(output.code == 1 && output.log.contains(name), "{name}: {}", output.log);
    }
    let header = ZEEK_HEADER.replace("#path\tconn", "#path\tdns");
    let output = run(&[], header.as_bytes());
    assert!(output.code == 1 && output.log.contains("Zeek's dns.log"), "{}", output.log);
}
