//! A backtest of the flow log of a replay gives the alerts of the replay. Loading the program needs root.

use std::{fs, path::Path};

use mailflow_test_support::{
    frame::{FrameBuilder, flag::*},
    lab::workspace,
    pcap::{self, Stamped},
};

use super::run::{Files, RunOutput, agent, backtest};

/// Capture that joins two captures in one connection. The replay's clock wraps once in 99 days, so its
/// records and alerts contradict each other there.
const SIX_YEARS: &str = "zeek__smtp.pcap";

/// Replays captures and runs a backtest of the log; both must give the same alerts.
fn round_trip(files: &Files, config: &Path, captures: &[std::path::PathBuf], options: &[&str]) -> RunOutput {
    let log = files.path("flows");
    let _ = fs::remove_file(&log);
    let log_option = ["--flow-log", log.to_str().unwrap()];
    let replayed = agent("replay", &[&log_option, options].concat(), config, captures);
    assert_eq!(replayed.code, 0, "{}", replayed.log);
    let tested = backtest(options, config, &[log]);
    assert_eq!(tested.code, 0, "{}", tested.log);
    assert_eq!(tested.identities(), replayed.identities(), "{captures:?} {options:?}");
    replayed
}

#[test]
fn backtest_of_real_captures_equals_replay() {
    let folder = workspace().join("../shared/captures/mail");
    if !folder.is_dir() {
        println!("SKIPPED: no captures at {}", folder.display());
        return;
    }
    let files = Files::new();
    let rule = |name: &str, at_least: u32| {
        format!(
            "  - name: {name}\n    match: {{ source: any, destination: any, \
             ports: [25, 465, 587, 994, 110, 995, 143, 993], applications: [smtp, smtp+starttls, smtps, \
             pop3, pop3+stls, pop3s, imap, imap+starttls, imaps] }}\n    window: {{ length: 1h }}\n    \
             condition: {{ count: {{ at_least: {at_least} }} }}\n"
        )
    };
    let config = format!("flow_table: {{ flows: 4096 }}\nrules:\n{}{}", rule("one", 1), rule("two", 2));
    let config = files.write("config.yaml", config);
    let mut captures: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    captures.retain(|path| !path.ends_with(SIX_YEARS));
    captures.sort();
    let mut alerts = 0;
    // One at a time, as their times are years apart.
    for capture in &captures {
        alerts += round_trip(&files, &config, std::slice::from_ref(capture), &["--drain"]).alerts.len();
    }
    println!("{alerts} alerts of {} captures", captures.len());
    assert!(alerts > 50, "{alerts} alerts of {} captures", captures.len());
}

/// Start, in milliseconds since 1970.
const BEGIN: u64 = 1_700_000_000_000;

/// End of a connection.
#[derive(Clone, Copy, Debug)]
enum End {
    Fin,
    Reset,
    Silence,
}

/// Returns the frames of a connection that `smtp-burst` counts, with `turns` exchanges, `pause` apart.
fn connection(source: u64, port: u16, at: u64, turns: u64, pause: u64, end: End) -> Vec<Stamped> {
    let (client, server) = (format!("10.0.0.{source}:{port}"), "93.184.215.25:25");
    let frame = |up: bool, flags: u8, payload: usize| {
        let (from, to) = if up { (&*client, server) } else { (server, &*client) };
        FrameBuilder::tcp(from, to, flags).payload(vec![b'x'; payload]).build()
    };
    let mut frames = vec![(at, frame(true, SYN, 0)), (at + 1, frame(false, SYN | ACK, 0))];
    for turn in 0..turns {
        let at = at + 2 + turn * pause;
        frames.push((at, frame(true, ACK | PSH, 300)));
        frames.push((at + 20, frame(false, ACK | PSH, 200)));
    }
    let last = at + 30 + turns.saturating_sub(1) * pause;
    match end {
        End::Fin => {
            frames.push((last, frame(true, FIN | ACK, 0)));
            frames.push((last + 1, frame(false, FIN | ACK, 0)));
        }
        End::Reset => frames.push((last, frame(false, RST, 0))),
        End::Silence => {}
    }
    frames.into_iter().map(|(at, frame)| ((BEGIN + at) * 1_000, frame)).collect()
}

/// Returns two hours of twelve sources with every kind of end; the last connections end with the capture.
fn history() -> Vec<Stamped> {
    let mut seed = 5_u64;
    let mut below = |sides: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % sides
    };
    let mut frames = Vec::new();
    for port in 1_000..1_260 {
        let source = below(12).min(below(12)) + 1;
        let at = below(7_200_000);
        let (turns, pause) = if below(6) == 0 { (3 + below(5), 100_000 + below(90_000)) } else { (3, 200) };
        let end = [End::Fin, End::Fin, End::Reset, End::Silence][below(4) as usize];
        frames.extend(connection(source, port, at, turns, pause, end));
    }
    frames.retain(|(time, _)| *time <= (BEGIN + 7_200_000) * 1_000);
    // The replay polls when a frame arrives.
    let beat = FrameBuilder::tcp("10.0.0.99:5353", "10.0.0.98:53", 0).udp().build();
    frames.extend((0..=7_200).map(|second| ((BEGIN + second * 1_000) * 1_000 + 500, beat.clone())));
    frames
}

#[test]
fn backtest_of_generated_captures_equals_replay() {
    let files = Files::new();
    let capture = files.path("history.pcap");
    pcap::write(&capture, &history()).unwrap();
    let config = files.write("config.yaml", "flow_table: { flows: 4096 }\n");
    for options in [&[][..], &["--drain"]] {
        let output = round_trip(&files, &config, std::slice::from_ref(&capture), options);
        let states =
            |state: &str| output.alerts.iter().filter(|alert| alert["alert"]["state"] == state).count();
        assert!(states("firing") > 5, "{:?}", output.identities());
        assert!(options.is_empty() || states("resolved") > 3, "{:?}", output.identities());
        let log = fs::read_to_string(files.path("flows")).unwrap();
        for reason in ["closed", "idle", "active"] {
            assert!(log.contains(&format!("\"reason\":\"{reason}\"")), "{reason}");
        }
        assert_eq!(log.contains("\"reason\":\"shutdown\""), options.is_empty());
    }
}
