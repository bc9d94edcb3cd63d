//! The shipped rules on unusual connection attempts, in whole captures.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use mailflow_test_support::{
    frame::{FrameBuilder, flag::*},
    lab::agent_binary,
};
use serde_json::Value;

/// Frame with its time in milliseconds.
type Timed = (u64, Vec<u8>);

/// Returns frames as a capture of this link type, sorted by time.
fn capture(link: u32, mut frames: Vec<Timed>) -> Vec<u8> {
    frames.sort_by_key(|(time, _)| *time);
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 262_144, link] {
        bytes.extend(word.to_le_bytes());
    }
    for (time, frame) in frames {
        let (seconds, micros) = (1_700_000_000 + time / 1_000, time % 1_000 * 1_000);
        for word in [seconds as u32, micros as u32, frame.len() as u32, frame.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    bytes
}

/// Replays a capture with the shipped configuration; returns final flow lines, alert lines and the log.
fn replayed(name: &str, capture: &[u8]) -> (Vec<Value>, Vec<Value>, String) {
    let path =
        |what: &str| std::env::temp_dir().join(format!("mailflow-{name}-{}-{what}", std::process::id()));
    let (flows, alerts) = (path("flows"), path("alerts"));
    let mut agent = Command::new(agent_binary().unwrap())
        .args(["replay", "--drain", "--flow-log"])
        .arg(&flows)
        .arg("--alerts")
        .arg(&alerts)
        .arg("-")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    agent.stdin.take().unwrap().write_all(capture).unwrap();
    let output = agent.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    let [flows, alerts] = [flows, alerts].map(|path| {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    });
    let last = flows.into_iter().filter(|line| line["flow"]["reason"] != "active").collect();
    (last, alerts, log)
}

#[test]
fn unanswered_connects_are_one_attempt_each() {
    let retries = [0, 1, 3, 7, 15, 31, 63];
    let connects = |numbers: fn(u64, u64) -> u32| {
        let frames = (0..10).flat_map(|server: u64| {
            retries.map(|second| {
                let (client, server_end) =
                    (format!("10.20.0.2:{}", 40_000 + server), format!("93.184.215.{}:25", 10 + server));
                let syn = FrameBuilder::tcp(&client, &server_end, SYN).sequence(numbers(server, second));
                (server * 1_000 + second * 1_000, syn.build())
            })
        });
        capture(1, frames.collect())
    };
    let (flows, alerts, log) = replayed("dead", &connects(|server, _| 7 + server as u32));
    assert_eq!((flows.len(), alerts.len()), (10, 0), "{log}");
    assert!(flows.iter().all(|flow| flow["flow"]["pkts_toserver"] == 7), "{flows:?}");
    // Each SYN with another sequence number is another attempt: 70 attempts are bulk.
    let (flows, alerts, log) =
        replayed("numbers", &connects(|server, second| (server * 100 + second) as u32));
    assert_eq!(flows.len(), 70, "{log}");
    assert_eq!(alerts[0]["alert"]["rule"], "smtp-bulk", "{log}");
}

#[test]
fn mptcp_subflow_is_recorded_and_not_counted() {
    const CAPABLE: [u8; 4] = [30, 4, 0x01, 0x81];
    const JOIN: [u8; 12] = [30, 12, 0x10, 1, 0, 0, 0, 9, 0, 0, 0, 7];
    const JOINED: [u8; 16] = [30, 16, 0x10, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 7];
    // Sessions that the shipped rule counts by their size, each with or without an MPTCP subflow of that
    // size.
    let session = |number: u64, added: bool| {
        let (client, server) = (format!("10.20.0.2:{}", 40_000 + number), "93.184.215.25:25");
        let up = |flags, sequence| FrameBuilder::tcp(&client, server, flags).sequence(sequence);
        let down = |flags, sequence| FrameBuilder::tcp(server, &client, flags).sequence(sequence);
        let words = |text: &str| [text.as_bytes(), &[b'x'; 300]].concat();
        let (ask, agree) = if added { (&JOIN[..], &JOINED[..]) } else { (&CAPABLE[..], &CAPABLE[..]) };
        let (command, reply) = if added { ("amid ", "amid ") } else { ("EHLO ", "220 mx ") };
        let frames = [
            up(SYN, 99).tcp_options(ask),
            down(SYN | ACK, 499).tcp_options(agree),
            down(ACK | PSH, 500).payload(words(reply)),
            up(ACK | PSH, 100).payload(words(command)),
            up(FIN | ACK, 405),
            down(FIN | ACK, 807),
        ];
        let begin = number * 1_000;
        frames.into_iter().enumerate().map(move |(number, frame)| (begin + number as u64, frame.build()))
    };
    let paths =
        |count: u64, added: bool| (0..count).flat_map(move |n| session(n + u64::from(added) * 100, added));
    let (flows, alerts, log) =
        replayed("paths", &capture(1, paths(6, false).chain(paths(6, true)).collect()));
    let joins = |flow: &&Value| flow["mailflow"]["mptcp_join"] == true;
    assert_eq!((flows.len(), flows.iter().filter(joins).count(), alerts.len()), (12, 6, 0), "{log}");
    for flow in &flows {
        let app = if joins(&flow) { "unseen" } else { "smtp" };
        assert_eq!(flow["app_proto"], app, "{flow}");
        assert!(flow["flow"]["bytes_toserver"].as_u64() > Some(300), "{flow}");
    }
    // Twelve separate sessions fire.
    let (_, alerts, log) = replayed("sessions", &capture(1, paths(12, false).collect()));
    assert!(!alerts.is_empty(), "{log}");
}

#[test]
fn link_types_with_ip_are_read_and_others_reported_once() {
    let packet = FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:25", SYN).build()[14..].to_vec();
    let behind = |header: &[u8]| [header, &packet].concat();
    let field = [&(packet.len() as u16 + 4).to_le_bytes()[..], &[9, 0]].concat();
    for (link, frame) in [
        (50, behind(&[0x0f, 0, 8, 0])),
        (104, behind(&[0x0f, 0, 8, 0])),
        (109, behind(&[2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0])),
        (239, behind(&[&[2, 0, 0, 5][..], &field].concat())),
    ] {
        let (flows, _, log) = replayed("link", &capture(link, vec![(0, frame)]));
        assert_eq!(flows.len(), 1, "link type {link}: {log}");
        assert_eq!(flows[0]["flow"]["bytes_toserver"], 40, "link type {link}");
    }
    let (_, _, log) = replayed("private", &capture(147, vec![(0, packet.clone()), (1, packet)]));
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("link types")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("147: 2"), "{log}");
    let carried = |kind: u16| [&[2; 12][..], &kind.to_be_bytes(), &[0; 60]].concat();
    let datagram =
        |port: u16| FrameBuilder::tcp("10.20.0.2:40000", &format!("93.184.215.25:{port}"), 0).udp().build();
    let hidden =
        [carried(0x8903), carried(0x88e7), carried(0x8926), datagram(4789), datagram(2152), datagram(6081)];
    let (_, _, log) = replayed("hidden", &capture(1, hidden.map(|frame| (0, frame)).to_vec()));
    assert!(log.contains("not counted: link_tunnel 3, udp_tunnel 3"), "{log}");
}
