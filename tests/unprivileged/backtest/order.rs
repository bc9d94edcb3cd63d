//! Order of lines and files, several records of a flow, other lines.

use super::{
    run::{Files, backtest, rules},
    writers::{BEGIN, Session, columns, lines},
};

const R1: [(&str, &str, u64); 1] = [("burst", "{ test: ratio }", 10)];
const SECOND: u64 = 1_000_000;

/// Deterministic pseudo-random generator.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

/// Returns four hours of thirty sources with different rates.
fn history() -> Vec<Session> {
    let mut dice = Dice(7);
    let session = |number: u64| {
        let source = dice.below(30).min(dice.below(30));
        // Whole seconds, so that some flows end at the same time.
        let start = (BEGIN + dice.below(4 * 3_600)) * SECOND;
        let mut session = Session::mail(&format!("10.0.0.{}", source + 1), 1_024 + number as u16, start);
        session.duration = dice.below(200) * SECOND;
        session
    };
    (0..600).map(session).collect()
}

/// Returns the sources with ten flows within an hour, by checking every window.
fn bursts(history: &[Session]) -> Vec<String> {
    let ends = |source: &str| {
        let of_source = history.iter().filter(|session| session.client == source);
        let mut ends: Vec<u64> = of_source.map(|session| session.start + session.duration).collect();
        ends.sort_unstable();
        ends
    };
    let mut sources: Vec<String> = history.iter().map(|session| session.client.clone()).collect();
    sources.sort();
    sources.dedup();
    sources.retain(|source| ends(source).windows(10).any(|run| run[9] - run[0] < 3_600 * SECOND));
    sources
}

#[test]
fn order_of_lines_and_files_does_not_matter() {
    let history = history();
    let files = Files::new();
    let config = files.write("config.yaml", rules(&R1));
    let mut dice = Dice(1);
    let (mut own, mut suricata, mut zeek): (Vec<_>, Vec<_>, Vec<_>) = Default::default();
    for (number, session) in history.iter().enumerate() {
        match number % 4 {
            0 => own.push(session.own(if number % 8 == 0 { "idle" } else { "closed" })),
            1 => suricata.push(session.suricata()),
            2 => zeek.push(session.zeek()),
            _ => {}
        }
    }
    let columned: Vec<&Session> = history.iter().skip(3).step_by(4).collect();
    let mut run = |shuffled: bool, reversed: bool| {
        let mut logs = Vec::new();
        for (name, log) in [("own", &mut own), ("suricata", &mut suricata), ("zeek", &mut zeek)] {
            if shuffled {
                dice.shuffle(log);
            }
            logs.push(files.write(name, lines(log.iter().cloned())));
        }
        let mut columned = columned.clone();
        if shuffled {
            dice.shuffle(&mut columned);
        }
        logs.push(files.write("conn.log", columns(columned)));
        if reversed {
            logs.reverse();
        }
        let output = backtest(&["--drain"], &config, &logs);
        assert_eq!(output.code, 0, "{}", output.log);
        assert!(output.log.contains("records=600"), "{}", output.log);
        output
    };
    let in_order = run(false, false);
    let mut fired: Vec<String> = in_order.firing().into_iter().map(|(_, source)| source).collect();
    fired.dedup();
    assert_eq!(fired, bursts(&history));
    assert!(fired.len() > 3 && fired.len() < 27, "{fired:?}");
    assert!(in_order.alerts.iter().any(|alert| alert["alert"]["state"] == "resolved"), "--drain ends them");
    for (shuffled, reversed) in [(false, true), (true, false), (true, true)] {
        // Equal in every field, line by line.
        assert_eq!(run(shuffled, reversed).alerts, in_order.alerts);
    }
}

#[test]
fn flow_with_interim_records_counts_once() {
    let files = Files::new();
    let config = files.write("config.yaml", rules(&R1));
    let session = |number: u16| {
        let start = (BEGIN + 60 * u64::from(number)) * SECOND;
        Session::mail("10.0.0.1", 2_000 + number, start)
    };
    // The first flow is open for ten minutes.
    let living = |age: u64, reason| {
        let mut session = session(0);
        session.duration = age * SECOND;
        session.own(reason)
    };
    let records = [living(299, "active"), living(599, "active"), living(604, "closed")];
    let run = |others: u16| {
        let others = (1..=others).map(|number| session(number).own("closed"));
        let output =
            backtest(&[], &config, &[files.write("log", lines(records.iter().cloned().chain(others)))]);
        assert_eq!(output.code, 0, "{}", output.log);
        output.alerts.iter().map(|alert| alert["alert"]["value"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(run(8), Vec::<u64>::new());
    assert_eq!(run(9), [10]);
}

#[test]
fn flow_with_other_active_timeout_counts_once() {
    let files = Files::new();
    let config = files.write("config.yaml", rules(&R1));
    // Nine flows of a hundred seconds, from an agent with `active: 60s`.
    let records = (0..9).flat_map(|number| {
        [(59, "active"), (100, "closed")].map(|(age, reason)| {
            let start = (BEGIN + 60 * u64::from(number)) * SECOND;
            let session = Session::mail("10.0.0.1", 2_000 + number, start);
            Session { duration: age * SECOND, ..session }.own(reason)
        })
    });
    let output = backtest(&[], &config, &[files.write("log", lines(records))]);
    assert_eq!((output.code, output.alerts.len()), (0, 0), "{}", output.log);
}

#[test]
fn flow_in_two_logs_counts_once() {
    let files = Files::new();
    let config = files.write("config.yaml", rules(&R1));
    let log = |count: u16| {
        lines((0..count).map(|number| {
            Session::mail("10.0.0.1", number + 1, (BEGIN + u64::from(number)) * SECOND).suricata()
        }))
    };
    let (long, short) = (files.write("a", log(9)), files.write("b", log(5)));
    let output = backtest(&[], &config, &[long, short]);
    assert_eq!((output.code, output.alerts.len()), (0, 0), "{}", output.log);
    assert!(output.log.contains("records=9") && output.log.contains("repeated=5"), "{}", output.log);
}

#[test]
fn gzip_log_equals_plain_log() {
    use std::io::Write;
    let files = Files::new();
    let config = files.write("config.yaml", rules(&R1));
    let sessions: Vec<_> =
        (0..12).map(|n| Session::mail("10.0.0.1", n + 1, (BEGIN + u64::from(n)) * SECOND)).collect();
    for log in [lines(sessions.iter().map(|session| session.own("closed"))), columns(&sessions)] {
        let plain = backtest(&[], &config, &[files.write("plain", &log)]);
        // Two gzip members, as in concatenated logs.
        let mut packed = Vec::new();
        for part in [&log[..log.len() / 2], &log[log.len() / 2..]] {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(part.as_bytes()).unwrap();
            packed.extend(gzip.finish().unwrap());
        }
        let unpacked = backtest(&[], &config, &[files.write("packed", packed)]);
        assert_eq!((plain.code, plain.alerts.len()), (0, 1), "{}", plain.log);
        assert_eq!(plain.alerts, unpacked.alerts);
    }
}

#[test]
fn other_lines_are_counted_and_other_ports_ignored() {
    let files = Files::new();
    let config = files.write("config.yaml", rules(&[("one", "{ test: ratio }", 1)]));
    let web = Session { port: 443, ..Session::mail("10.0.0.2", 1, BEGIN * SECOND) };
    let ping = r#"{"event_type":"flow","src_ip":"10.0.0.3","dest_ip":"9.9.9.9","proto":"ICMP",
        "flow":{"pkts_toserver":1,"bytes_toserver":98,"pkts_toclient":1,"bytes_toclient":98,
        "start":"2023-11-14T22:13:20.000000+0000","end":"2023-11-14T22:13:20.000000+0000"}}"#;
    let eve = lines([
        r#"{"event_type":"dns","flow":"of another form","src_ip":7}"#.to_owned(),
        web.suricata(),
        ping.replace('\n', ""),
        Session::mail("10.0.0.1", 1, BEGIN * SECOND).suricata(),
    ]);
    let zeek = lines([
        r#"{"_path":"smtp","id.orig_h":"10.0.0.1","ts":1}"#.to_owned(),
        web.zeek(),
        Session::mail("10.0.0.4", 1, BEGIN * SECOND).zeek(),
    ]);
    let output = backtest(&[], &config, &[files.write("eve", eve), files.write("zeek", zeek)]);
    assert_eq!(output.code, 0, "{}", output.log);
    let sources: Vec<_> = output.firing().into_iter().map(|(_, source)| source).collect();
    assert_eq!(sources, ["10.0.0.1", "10.0.0.4"]);
    assert!(output.log.contains("other_events=2 not_watched=3"), "{}", output.log);
}

#[test]
fn applications_and_directions_follow_from_other_tools_fields() {
    let files = Files::new();
    let config = files.write("config.yaml", rules(&[("one", "{ test: ratio }", 1)]));
    let session = |port| Session { port, ..Session::mail("10.0.0.1", 4_000, BEGIN * SECOND) };
    let app = |line: String| {
        let output = backtest(&[], &config, &[files.write("log", line)]);
        assert_eq!(output.code, 0, "{}", output.log);
        output.alerts.first().map(|alert| alert["flows"][0]["app_proto"].as_str().unwrap().to_owned())
    };
    let suricata = |port, name: &str| app(session(port).suricata().replace("\"app_proto\":\"smtp\"", name));
    assert_eq!(app(session(465).suricata()).as_deref(), Some("smtps"));
    assert_eq!(app(session(994).zeek()).as_deref(), Some("smtps"));
    assert_eq!(suricata(587, "\"app_proto\":\"tls\"").as_deref(), Some("smtp+starttls"));
    assert_eq!(suricata(25, "\"app_proto\":\"failed\"").as_deref(), Some("unseen"));
    assert_eq!(suricata(25, "\"other\":1").as_deref(), Some("unseen"));
    assert_eq!(suricata(25, "\"app_proto\":\"http\""), None, "positively something else");
    let zeek = |port, service: &str| app(session(port).zeek().replace("\"service\":\"smtp\"", service));
    assert_eq!(zeek(25, "\"service\":\"smtp,ssl\"").as_deref(), Some("smtp+starttls"));
    assert_eq!(zeek(25, "\"service\":[\"ssl\",\"smtp\"]").as_deref(), Some("smtp+starttls"));
    assert_eq!(zeek(587, "\"service\":\"ssl\"").as_deref(), Some("smtp+starttls"));
    assert_eq!(zeek(25, "\"tunnel\":1").as_deref(), Some("unseen"));
    assert_eq!(zeek(25, "\"service\":\"ssh\""), None);

    // A connection that began before the sensor, seen from the server's side: the port decides.
    let mut turned = Session::mail("93.184.215.25", 25, BEGIN * SECOND);
    (turned.server, turned.port) = ("10.0.0.1".to_owned(), 4_000);
    let turned = turned.zeek().replace("ShADadFf", "DadA");
    let output = backtest(&[], &config, &[files.write("log", turned)]);
    assert_eq!(output.firing(), [("one".to_owned(), "10.0.0.1".to_owned())], "{}", output.log);
    assert_eq!(output.alerts[0]["mailflow"]["complete"], false);
}
