//! Unreadable lines are reported with their location, and the other lines count.

use mailflow_agent::{
    config,
    offline::flowlog::{FlowLog, LogError, ReadContext},
};
use proptest::prelude::*;

use super::{
    run::{Files, backtest, rules},
    writers::{BEGIN, Session, ZEEK_HEADER, columns, lines},
};

const ONE: [(&str, &str, u64); 1] = [("one", "{ test: ratio }", 1)];

fn session() -> Session {
    Session::mail("10.0.0.1", 4_000, BEGIN * 1_000_000)
}

/// Returns a valid line, an invalid one, and a valid one of another source.
fn bad_second(good: fn(&Session) -> String, bad: &str) -> String {
    let other = Session { client: "10.0.0.2".to_owned(), ..session() };
    lines([good(&session()), bad.to_owned(), good(&other)])
}

/// Returns the location and text of the only error, while the other two lines fire.
fn fault(log: &str) -> String {
    let files = Files::new();
    let config = files.write("config.yaml", rules(&ONE));
    let path = files.write("log", log);
    let output = backtest(&[], &config, std::slice::from_ref(&path));
    assert_eq!(output.code, 1, "{}", output.log);
    assert_eq!(output.firing().len(), 2, "the others count: {}", output.log);
    assert!(output.log.contains("unreadable=1"), "{}", output.log);
    let place = format!("{}:", path.display());
    let line = output.log.lines().find_map(|line| line.split_once(&place)).map(|(_, rest)| rest);
    line.unwrap_or_else(|| panic!("no place: {}", output.log)).to_owned()
}

#[test]
fn bad_lines_are_reported_with_location() {
    let own = |session: &Session| session.own("closed");
    let eve = |good: fn(&Session) -> String, from: &str, to: &str| {
        let line = good(&session());
        assert!(line.contains(from), "{from} in {line}");
        fault(&bad_second(good, &line.replace(from, to)))
    };
    let cases = [
        (eve(own, "\"10.0.0.1\"", "\"10.0.0.256\""), "src_ip: \"10.0.0.256\": expected an IP address"),
        (eve(own, "\"10.0.0.1\"", "7"), "src_ip: \"7\": expected an IP address"),
        (eve(own, ":4000", ":65536"), "src_port: invalid value: integer `65536`, expected u16"),
        (eve(own, "\"src_port\"", "\"port\""), "missing field `src_port`"),
        (
            eve(own, "\"pkts_toserver\":10", "\"pkts_toserver\":-1"),
            "flow.pkts_toserver: invalid value: integer `-1`",
        ),
        (eve(own, "\"pkts_toserver\"", "\"packets\""), "flow: missing field `pkts_toserver`"),
        (eve(own, "\"start\":\"2023-11-14", "\"start\":\"2023-11-31"), "flow.start: \"2023-11-31T"),
        (eve(own, "\"start\":\"2023", "\"start\":\"2024"), "flow.end: lies before flow.start"),
        (
            eve(own, "\"closed\"", "\"gone\""),
            "flow.reason: \"gone\": expected closed, idle, active or shutdown",
        ),
        (
            eve(own, "\"app_proto\":\"smtp\"", "\"app_proto\":\"smpt\""),
            "app_proto: \"smpt\": expected an application",
        ),
        (eve(own, "\"mac\":null", "\"mac\":\"02:00\""), "mailflow.mac: \"02:00\": expected a MAC address"),
        (
            eve(own, "\"payload_up\":1400", "\"payload_up\":\"much\""),
            "mailflow.payload_up: invalid type: string \"much\", expected u64",
        ),
        (
            eve(Session::suricata, "\"bytes_toclient\":2140", "\"bytes_toclient\":139"),
            "flow.bytes_toclient: \"139\": expected at least 14 a packet, of which there are 10",
        ),
        (eve(Session::suricata, "\"1b\"", "\"xx\""), "tcp.tcp_flags_t"),
        (eve(Session::zeek, "\"proto\":\"tcp\"", "\"proto\":6"), "proto: \"6\": expected a protocol"),
        (
            eve(Session::zeek, "\"duration\":1.5", "\"duration\":-1.5"),
            "duration: \"-1.5\": expected a duration",
        ),
        (eve(Session::zeek, "\"ts\":", "\"time\":"), "missing field `ts`"),
    ];
    for (reported, expected) in cases {
        assert!(reported.starts_with("2:"), "{reported}: the second line");
        let (column, words) = reported[2..].split_once(": ").unwrap();
        assert!(column.parse::<usize>().unwrap() > 1, "{reported}: a column");
        assert!(words.starts_with(expected), "{reported}: not {expected}");
    }
    for (bad, expected) in [
        (own(&session())[..200].to_owned(), "2:200: EOF while parsing"),
        (
            own(&session()).replace("\"payload_up\":1400", "\"payload_up\":18446744073709551615"),
            "a count of at most 2^48",
        ),
        ("nonsense".to_owned(), "2:2: expected ident"),
        (own(&session()) + "}", "trailing characters"),
    ] {
        let reported = fault(&bad_second(own, &bad));
        assert!(reported.contains(expected), "{reported}: not {expected}");
    }
}

#[test]
fn bad_columns_are_reported_with_location() {
    let with = |bad: String| {
        let other = Session { client: "10.0.0.2".to_owned(), ..session() };
        let rows = lines([session().columns(), bad, other.columns()]);
        fault(&format!("{ZEEK_HEADER}{rows}"))
    };
    let line = session().columns();
    let column = |value: &str| line.find(value).unwrap() + 1;
    for (from, to, expected) in [
        (
            "\t4000\t",
            "\t4000x\t",
            format!("{}: id.orig_p: \"4000x\": expected a whole number", column("4000")),
        ),
        (
            "10.0.0.1",
            "10.0.0",
            format!("{}: id.orig_h: \"10.0.0\": expected an IP address", column("10.0.0.1")),
        ),
        ("1.500000", "1,5", format!("{}: duration: \"1,5\": expected a duration", column("1.500000"))),
        ("1700000000.0", "-", "1: ts: ".to_owned()),
        ("\ttcp\t", "\t-\t", format!("{}: proto: \"-\": expected a protocol", column("tcp"))),
        ("\t2000\t(empty)", "", "1: 19 columns: expected 21".to_owned()),
    ] {
        assert!(line.contains(from));
        let reported = with(line.replace(from, to));
        let expected = format!("10:{expected}");
        assert!(reported.starts_with(&expected), "{reported}: not {expected}");
    }
}

/// Each reason is printed with its first line and a count, not once per line.
#[test]
fn bad_line_reasons_are_printed_once_per_file_with_count() {
    let files = Files::new();
    let config = files.write("config.yaml", rules(&ONE));
    let bad = || (0..1_000).map(|number| format!("{{\"event_type\":\"flow\",\"src_ip\":\"{number}\"}}"));
    let short = session().suricata().replace("\"bytes_toclient\":2140", "\"bytes_toclient\":139");
    let shorts = (0..10).map(|number| short.replace(":10,", &format!(":{},", 10 + number)));
    let one = files.write("one", lines(bad().chain(shorts).chain([session().own("closed")])));
    let two = files.write("two", lines(bad()));
    let output = backtest(&[], &config, &[one.clone(), two.clone()]);
    assert_eq!((output.code, output.alerts.len()), (1, 1), "{}", output.log);
    let of = |path: &std::path::Path| {
        let place = format!("{}:", path.display());
        let rest = |line: &str| line.split_once(&place).map(|(_, rest)| rest.to_owned());
        output.log.lines().filter_map(rest).collect::<Vec<_>>()
    };
    let first = "1:33: src_ip: \"0\": expected an IP address";
    let more = " 999 more lines could not be read: src_ip: expected an IP address";
    let [second, least] = [
        "1001:352: flow.bytes_toclient: \"139\": expected at least 14 a packet",
        " 9 more lines could not be read: flow.bytes_toclient: expected at least 14 a packet",
    ];
    let shown = of(&one);
    assert_eq!(shown.len(), 4, "{shown:?}");
    assert_eq!((shown[0].as_str(), shown[2].as_str()), (first, more));
    assert!(shown[1].starts_with(&second[..5]) && shown[1].contains(&second[9..]), "{}", shown[1]);
    assert!(shown[3].starts_with(least), "{}", shown[3]);
    assert_eq!(of(&two), [first, more]);
    assert!(output.log.contains("unreadable=2010"), "{}", output.log);
}

#[test]
fn file_without_flow_log_is_reported_and_others_count() {
    let files = Files::new();
    let config = files.write("config.yaml", rules(&ONE));
    let good = files.write("good", session().own("closed"));
    let zeek = columns(&[session()]);
    for (name, contents) in [
        ("text", b"a letter\nto somebody\n".to_vec()),
        ("capture", b"\xd4\xc3\xb2\xa1\x02\x00\x04\x00".to_vec()),
        ("json", b"{\"message\":\"hello\"}\n".to_vec()),
        ("smtp.log", zeek.replace("#path\tconn", "#path\tsmtp").into_bytes()),
        ("cut.log", zeek.replace("\tproto", "\tproton").into_bytes()),
        ("headless.log", session().columns().into_bytes()),
    ] {
        let bad = files.write(name, contents);
        let output = backtest(&[], &config, &[bad.clone(), good.clone()]);
        assert_eq!((output.code, output.alerts.len()), (1, 1), "{name}: {}", output.log);
        let line = output.log.lines().find(|line| line.contains(&*bad.to_string_lossy())).unwrap();
        assert!(line.contains("expected JSON lines with `event_type`"), "{line}");
        assert!(line.contains("Zeek's conn.log with its `#fields` line"), "{line}");
    }
    let output = backtest(&[], &config, &[files.path("missing"), good.clone()]);
    assert_eq!((output.code, output.alerts.len()), (1, 1), "{}", output.log);
    assert!(output.log.contains("missing: No such file or directory"), "{}", output.log);
    let output = backtest(&[], &config, &[files.write("empty", ""), good]);
    assert_eq!((output.code, output.alerts.len()), (0, 1), "nothing is wrong with no line: {}", output.log);
}

#[test]
fn truncated_gzip_counts_readable_part() {
    use std::io::Write;
    let files = Files::new();
    let config = files.write("config.yaml", rules(&ONE));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    let one = session().own("closed");
    gzip.write_all(lines([one.clone(), one.replace("10.0.0.1", "10.0.0.2")]).as_bytes()).unwrap();
    let packed = gzip.finish().unwrap();
    let cut = files.write("cut", &packed[..packed.len() - 100]);
    let output = backtest(&[], &config, std::slice::from_ref(&cut));
    assert_eq!(output.code, 1, "{}", output.log);
    assert!(output.log.contains(&format!("{}: ", cut.display())), "{}", output.log);
    assert_eq!(output.firing(), [("one".to_owned(), "10.0.0.1".to_owned())], "{}", output.log);
}

#[test]
fn byte_order_mark_is_accepted() {
    let files = Files::new();
    let config = files.write("config.yaml", rules(&ONE));
    for log in [lines([session().own("closed")]), columns(&[session()])] {
        let output = backtest(&[], &config, &[files.write("log", format!("\u{feff}{log}"))]);
        assert_eq!((output.code, output.firing().len()), (0, 1), "{}", output.log);
    }
}

#[test]
fn columns_without_header_are_reported() {
    let fields = ZEEK_HEADER.split_inclusive('\n').find(|line| line.starts_with("#fields")).unwrap();
    let row = session().columns();
    let header = ZEEK_HEADER.replace(fields, "");
    let other = Session { client: "10.0.0.2".to_owned(), ..session() }.columns();
    let reported = fault(&format!("{header}{row}\n{fields}{row}\n{other}\n"));
    assert_eq!(reported, "8:1: values before the `#fields` line, which names their columns");
}

#[test]
fn usage_and_configuration_errors_exit_2() {
    let files = Files::new();
    let log = files.write("log", session().own("closed"));
    let bad = files.write("bad.yaml", "rules: 7\n");
    assert_eq!(backtest(&[], &bad, std::slice::from_ref(&log)).code, 2);
    let good = files.write("config.yaml", rules(&ONE));
    assert_eq!(backtest(&[], &good, &[]).code, 2, "no log");
    assert_eq!(backtest(&["--l2-overhead", "some"], &good, &[log]).code, 2);
}

proptest! {
    /// Any line is read, skipped or reported. Only damage of the file ends the log.
    #[test]
    fn any_line_is_read_or_reported(
        kind in 0..4usize,
        cuts in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(PIECES)), 1..6),
    ) {
        let good = [session().own("closed"), session().suricata(), session().zeek(), session().columns()];
        let mut bad = good[kind].clone().into_bytes();
        for (at, piece) in cuts {
            let at = at.index(bad.len());
            let end = (at + piece.len()).min(bad.len());
            bad.splice(at..end, piece.iter().copied());
        }
        let mut log = if kind == 3 { ZEEK_HEADER.as_bytes().to_vec() } else { Vec::new() };
        for line in [good[kind].as_bytes(), &bad, good[kind].as_bytes()] {
            log.extend(line);
            log.push(b'\n');
        }
        let files = Files::new();
        let path = files.write("log", log);
        let config = config::load(None).unwrap();
        let reading = ReadContext { services: &config.engine.services, l2_overhead: None, columns: &[] };
        let mut log = FlowLog::open(&path, reading).unwrap();
        let mut read = 0;
        loop {
            match log.next_line() {
                Ok(None) => break,
                Ok(Some(_)) => read += 1,
                Err(LogError::Line { line, error, .. }) => {
                    prop_assert!(line > 1 && error.column > 0 && !error.message.is_empty(), "{error}");
                }
                Err(LogError::Format { .. }) if kind == 3 => return Ok(()),
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
        prop_assert!(read >= 2, "the good lines");
    }
}

/// Text fragments that are inserted at random places.
const PIECES: &[&[u8]] = &[
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\",
    b"\\u00",
    b"\xff",
    b"\0",
    b"\t",
    b"\r",
    b"#",
    b"-",
    b"-1",
    b"1e400",
    b"1.5",
    b"null",
    b"true",
    b"18446744073709551616",
    b"9999-12-31T23:59:60.000000+0000",
    b"::",
    "\u{e9}".as_bytes(),
    b" ",
    b"",
];
