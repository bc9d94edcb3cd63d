//! Facts that another tool's log implies, and unknown facts.

use super::{
    run::{Files, RunOutput, backtest},
    writers::{BEGIN, Session, Way, ZEEK_HEADER, columns, lines},
};

/// Third part of the condition of the shipped rule `smtp-bulk`.
const FAILED: &str = "rules:
  - name: failed
    match: { source: internal, destination: external }
    window: { length: 1h }
    condition:
      all:
        - count: { of: failed, at_least: 20 }
        - ratio: { of: failed, to: attempts, at_least: 0.5 }
        - distinct: { of: destination, among: failed, at_least: 10 }
";

/// Returns unanswered SYNs, each to another server.
fn unanswered() -> Vec<Session> {
    let way = Way { packets: 3, bytes: 180, ..Way::default() };
    let of = |number: u16| Session {
        server: format!("93.184.215.{}", 1 + number % 12),
        answered: false,
        messages: 0,
        up: way,
        down: Way::default(),
        ..Session::mail("10.0.0.1", 20_000 + number, (BEGIN + u64::from(number)) * 1_000_000)
    };
    (0..20).map(of).collect()
}

/// Returns earlier sessions; only mailflow's own log records if they delivered mail.
fn answered(number: u16) -> Vec<Session> {
    (0..number).map(|port| Session::mail("10.0.0.1", 40_000 + port, BEGIN * 1_000_000)).collect()
}

/// Runs a backtest in each format, by its name.
fn outputs(sessions: &[Session]) -> Vec<(&'static str, RunOutput)> {
    let files = Files::new();
    let config = files.write("config.yaml", FAILED);
    let each = |write: fn(&Session) -> String| lines(sessions.iter().map(write));
    let logs = [
        ("mailflow", each(|session| session.own("closed"))),
        ("suricata", each(Session::suricata)),
        ("zeek", each(Session::zeek)),
        ("columns", columns(sessions)),
    ];
    logs.into_iter().map(|(name, log)| (name, backtest(&[], &config, &[files.write(name, log)]))).collect()
}

#[test]
fn unanswered_attempts_fail_in_every_format() {
    for (format, output) in outputs(&unanswered()) {
        assert_eq!(
            output.firing(),
            [("failed".to_owned(), "10.0.0.1".to_owned())],
            "{format}: {}",
            output.log
        );
        assert!(!output.log.contains("not evaluable"), "{format}: {}", output.log);
    }
}

#[test]
fn sessions_with_unknown_delivery_count_as_attempts_not_as_failed() {
    // Twenty of forty are half; twenty of forty-one are not.
    for (sessions, fires) in [(20, 1), (21, 0)] {
        let all = [answered(sessions), unanswered()].concat();
        for (format, output) in outputs(&all) {
            assert_eq!(output.firing().len(), fires, "{format}, {sessions} sessions: {}", output.log);
            let is_reported =
                output.log.contains(&format!("ratio failed/attempts: not evaluable for {sessions} records"));
            assert_eq!(is_reported, format != "mailflow", "{format}: {}", output.log);
        }
    }
}

#[test]
fn zeek_log_with_other_separators_is_read() {
    let files = Files::new();
    let config = files.write(
        "config.yaml",
        "rules: [{ name: tls, match: { applications: [smtp+starttls] }, window: 1h, condition: { count: { at_least: 1 } } }]\n",
    );
    let row =
        Session::mail("10.0.0.1", 4_000, BEGIN * 1_000_000).columns().replace("\tsmtp\t", "\tsmtp;ssl\t");
    let header = ZEEK_HEADER.replace("#set_separator\t,", "#set_separator\t;");
    let log =
        format!("{header}{row}\n").replace("\\x09", "\\x7c").replace('\t', "|").replace("(empty)", "EMPTY");
    let output = backtest(&[], &config, &[files.write("conn.log", log)]);
    assert_eq!(output.firing(), [("tls".to_owned(), "10.0.0.1".to_owned())], "{}", output.log);
}
