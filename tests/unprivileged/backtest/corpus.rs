//! Real, labelled sessions in every format: equal verdicts, or none where the log lacks a field.

use std::{collections::HashMap, fs};

use mailflow_test_support::lab::workspace;

use super::{
    run::{Files, RunOutput, backtest, rules},
    writers::{BEGIN, Session, Way, columns, lines},
};

/// Rules, size tests and thresholds: the size test of `smtp-burst`, and two that need more than Suricata or
/// Zeek record. One flow fires.
const RULES: [(&str, &str, u64); 3] = [
    ("ratio", "{ test: ratio, layer: l3, up: 80, down: 80 }", 1),
    ("payload", "{ test: ratio, layer: payload, up: 80, down: 80 }", 1),
    ("data-ratio", "{ test: data_ratio, layer: l3, up: 80, down: 80 }", 1),
];

/// Returns the sessions, each with its own source.
fn sessions() -> Option<Vec<Session>> {
    let path = workspace().join("../shared/corpus/sessions.csv");
    let Ok(text) = fs::read_to_string(&path) else {
        println!("SKIPPED: no corpus at {}", path.display());
        return None;
    };
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let session = |(number, line): (usize, &str)| {
        let row: HashMap<&str, &str> = header.iter().copied().zip(line.split(',')).collect();
        let count = |column: &str| row[column].parse::<u64>().unwrap();
        let way = |way: &str| Way {
            packets: count(&format!("pk_{way}")),
            bytes: count(&format!("ip_{way}")),
            payload: count(&format!("pay_{way}")),
            data_packets: count(&format!("data_{way}")),
            data_bytes: count(&format!("ipdata_{way}")),
        };
        let client = format!("10.0.{}.{}", number / 250, number % 250 + 1);
        let port = match count("dport") {
            2525 | 2601 | 2602 | 2605 => 25,
            port => port as u16,
        };
        let start = (BEGIN + number as u64) * 1_000_000;
        let duration = (row["dur"].parse::<f64>().unwrap() * 1e6) as u64;
        let answered = count("synack") == 1;
        let session = Session::mail(&client, 40_000, start);
        Session { port, duration, up: way("up"), down: way("dn"), answered, ..session }
    };
    Some(lines.enumerate().map(session).collect())
}

/// Returns the sources whose session has at least 80 bytes a packet in both directions.
fn expected(sessions: &[Session], numbers: fn(&Way) -> (u64, u64)) -> Vec<String> {
    let enough = |way: &Way| {
        let (bytes, packets) = numbers(way);
        packets > 0 && bytes as f64 / packets as f64 >= 80.0
    };
    let passing = sessions.iter().filter(|session| enough(&session.up) && enough(&session.down));
    let mut sources: Vec<_> = passing.map(|session| session.client.clone()).collect();
    sources.sort();
    sources
}

fn of_rule(output: &RunOutput, rule: &str) -> Vec<String> {
    output.firing().into_iter().filter(|(name, _)| name == rule).map(|(_, source)| source).collect()
}

/// Returns the number of records that `rule` could not evaluate, and the missing fields.
fn unevaluated(output: &RunOutput, rule: &str) -> Option<(u64, String)> {
    let begin = format!("rule {rule}: not evaluable for ");
    let rest = output.log.lines().find_map(|line| line.split_once(&begin)).map(|(_, rest)| rest)?;
    let (number, _) = rest.split_once(' ').unwrap();
    Some((number.parse().unwrap(), rest.rsplit_once(": ").unwrap().1.to_owned()))
}

#[test]
fn sessions_give_equal_alerts_in_every_format() {
    let Some(sessions) = sessions() else { return };
    let ratio = expected(&sessions, |way| (way.bytes, way.packets));
    let payload = expected(&sessions, |way| (way.payload, way.packets));
    let data = expected(&sessions, |way| (way.data_bytes, way.data_packets));
    assert!(sessions.len() == 2_197 && ratio.len() > 100 && payload.len() > 100 && data != ratio);

    let files = Files::new();
    let config = files.write("config.yaml", rules(&RULES));
    let run = |log: String| {
        let output = backtest(&[], &config, &[files.write("log", log)]);
        assert_eq!(output.code, 0, "{}", output.log);
        assert_eq!(of_rule(&output, "ratio"), ratio);
        output
    };
    let own = run(lines(sessions.iter().map(|session| session.own("closed"))));
    assert_eq!((of_rule(&own, "payload"), of_rule(&own, "data-ratio")), (payload.clone(), data));
    assert!(!own.log.contains("not evaluable"), "{}", own.log);

    let all = sessions.len() as u64;
    let no_data = "packets with payload, IP bytes of packets with payload".to_owned();
    let suricata = run(lines(sessions.iter().map(Session::suricata)));
    assert_eq!(unevaluated(&suricata, "payload"), Some((all, "payload bytes".to_owned())));
    assert_eq!(unevaluated(&suricata, "data-ratio"), Some((all, no_data.clone())));
    assert_eq!(suricata.firing().len(), ratio.len(), "a rule without its inputs is silent");

    for zeek in [lines(sessions.iter().map(Session::zeek)), columns(&sessions)] {
        let zeek = run(zeek);
        assert_eq!((of_rule(&zeek, "payload"), unevaluated(&zeek, "payload")), (payload.clone(), None));
        assert_eq!(unevaluated(&zeek, "data-ratio"), Some((all, no_data.clone())));
        assert_eq!(of_rule(&zeek, "data-ratio"), Vec::<String>::new());
    }
}

#[test]
fn unknown_log_fields_are_null_in_evidence() {
    let files = Files::new();
    let config = files.write("config.yaml", rules(&RULES[..1]));
    let log = files.write("log", Session::mail("10.0.0.1", 1, BEGIN * 1_000_000).suricata());
    let output = backtest(&[], &config, &[log]);
    let [alert] = &output.alerts[..] else { panic!("{}", output.log) };
    let evidence = &alert["flows"][0]["mailflow"];
    for unknown in ["payload_up", "data_packets_down", "data_bytes_up", "messages_estimated"] {
        assert!(evidence[unknown].is_null(), "{unknown}: {evidence}");
    }
    assert_eq!(alert["flows"][0]["flow"]["bytes_toserver"], 2_000, "IP bytes");
    assert_eq!((&evidence["syn"], &evidence["complete"]), (&true.into(), &true.into()));
    assert!(alert["mailflow"]["messages_estimated"].is_null());
}

#[test]
fn frame_bytes_exclude_link_headers() {
    let files = Files::new();
    let config = files.write("config.yaml", rules(&RULES[..1]));
    let session = |bytes_a_packet: u64, tags: u64| {
        let way = Way { packets: 10, bytes: 10 * bytes_a_packet, ..Way::default() };
        Session { up: way, down: way, tags, ..Session::mail("10.0.0.1", 1, BEGIN * 1_000_000) }
    };
    let fires = |options: &[&str], log: String| {
        let output = backtest(options, &config, &[files.write("log", log)]);
        assert_eq!(output.code, 0, "{}", output.log);
        output.alerts.len() == 1
    };
    for tags in 0..=2 {
        // 80 IP bytes a packet are 94 to 102 bytes a frame.
        for log in [Session::suricata, Session::zeek] {
            assert!(fires(&[], log(&session(80, tags))), "{tags} tags");
            assert!(!fires(&[], log(&session(79, tags))), "{tags} tags");
        }
    }
    assert!(fires(&["--l2-overhead", "0"], session(66, 0).suricata()), "80 a frame");
    assert!(!fires(&["--l2-overhead", "1"], session(66, 0).suricata()));
    assert!(fires(&["--l2-overhead", "14"], session(76, 1).suricata()), "the option is all there is");
    assert!(fires(&["--l2-overhead", "14"], session(80, 0).zeek()), "not of bytes that are IP's");
}
