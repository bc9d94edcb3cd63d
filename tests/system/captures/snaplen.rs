//! Truncated frames, and frames with an excessive length: the length counts, and the missing bytes are
//! unknown.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Stdio},
};

use mailflow_test_support::{
    frame::{FrameBuilder, flag::*},
    lab::agent_binary,
};
use serde_json::Value;

/// Direction (true for up), flags and payload of the packets of a session.
const TALK: [(bool, u8, &[u8]); 7] = [
    (true, SYN, b""),
    (false, SYN | ACK, b""),
    (true, ACK, b""),
    (false, ACK, b"220 mx.example ESMTP\r\n"),
    (true, ACK, b"EHLO client.example\r\n"),
    (false, ACK, b"250 mx.example\r\n"),
    (true, ACK, b"QUIT\r\n"),
];

/// Returns a session's frames with consistent sequence numbers.
fn session(client: &str, server: &str) -> Vec<Vec<u8>> {
    let mut sequences = [1_000_u32, 5_000];
    let mut frames = Vec::new();
    for (up, flags, payload) in TALK {
        let (from, to) = if up { (client, server) } else { (server, client) };
        let sequence = &mut sequences[usize::from(!up)];
        frames.push(FrameBuilder::tcp(from, to, flags).sequence(*sequence).payload(payload).build());
        *sequence += payload.len() as u32 + u32::from(flags & SYN != 0);
    }
    frames
}

/// Writes a capture of frames, each with its length on the wire.
fn capture(name: &str, frames: impl IntoIterator<Item = (Vec<u8>, u32)>) -> PathBuf {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 65_535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for (number, (frame, length)) in (0..).zip(frames) {
        for word in [1_700_000_000, number, frame.len() as u32, length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    let path = std::env::temp_dir().join(format!("mailflow-snapped-{}-{name}", std::process::id()));
    fs::write(&path, bytes).unwrap();
    path
}

fn snapped(name: &str, frames: Vec<Vec<u8>>, snap: usize) -> PathBuf {
    capture(
        name,
        frames.into_iter().map(|frame| (frame[..frame.len().min(snap)].to_vec(), frame.len() as u32)),
    )
}

/// Replays a capture; returns the flows and the log.
fn replayed(capture: &PathBuf) -> (Vec<Value>, String) {
    // A shell limits the memory to 2 GiB.
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 2097152; exec \"$@\"", "sh"])
        .arg(agent_binary().unwrap())
        .args(["replay", "--flow-log", "-", "--alerts", "off", "-"])
        .stdin(Stdio::from(File::open(capture).unwrap()))
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    fs::remove_file(capture).unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    let lines = String::from_utf8(output.stdout).unwrap();
    (lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), log)
}

#[test]
fn headers_only_capture_is_counted_without_application() {
    for (client, server, headers) in
        [("10.20.0.2:40000", "93.184.215.25:25", 54), ("[fd00::2]:40000", "[2606:4700::25]:25", 74)]
    {
        let frames = session(client, server);
        let sum = |up: bool| -> u64 {
            frames
                .iter()
                .zip(TALK)
                .filter(|(_, talk)| talk.0 == up)
                .map(|(frame, _)| frame.len() as u64 - 14)
                .sum()
        };
        for (snap, app, evidence) in
            [(headers, "unseen", "port"), (headers + 3, "unseen", "port"), (96, "smtp", "server_greeting")]
        {
            let (flows, log) = replayed(&snapped("headers", frames.clone(), snap));
            let [flow] = &flows[..] else { panic!("{snap}: {flows:?}") };
            let counted = (&flow["flow"]["bytes_toserver"], &flow["flow"]["bytes_toclient"]);
            assert_eq!(counted, (&Value::from(sum(true)), &Value::from(sum(false))), "{snap}");
            assert_eq!(
                (&flow["app_proto"], &flow["mailflow"]["app_evidence"]),
                (&app.into(), &evidence.into()),
                "{snap}"
            );
            assert!(log.contains("frames=7 counted=7"), "{log}");
        }
    }
}

#[test]
fn frame_without_complete_headers_is_truncated() {
    // Without TCP's flags; up to the TCP ports behind IPv6; within the addresses.
    for snap in [67, 64, 40] {
        let frames = session("[fd00::2]:40000", "[2606:4700::25]:25");
        let (flows, log) = replayed(&snapped("truncated", frames, snap));
        assert!(flows.is_empty(), "{flows:?}");
        assert!(log.contains("frames=7 counted=0") && log.contains("not counted: truncated 7"), "{log}");
    }
}

#[test]
fn frame_length_in_file_allocates_no_memory() {
    let syn = FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:25", SYN).build();
    // IP has its own length: that of the frame does not matter.
    let (flows, log) = replayed(&capture("long", [(syn.clone(), u32::MAX), (syn, 60)]));
    let [flow] = &flows[..] else { panic!("{flows:?}\n{log}") };
    assert_eq!((&flow["flow"]["pkts_toserver"], &flow["flow"]["bytes_toserver"]), (&2.into(), &80.into()));
}

#[test]
fn frames_are_counted_or_have_a_reason() {
    let syn = FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:25", SYN);
    let mut arp = syn.build();
    arp[12..14].copy_from_slice(&[8, 6]);
    let frames = [
        syn.build(),
        syn.clone().with(|frame| frame.ends[1].1 = 80).build(),
        syn.clone().with(|frame| frame.length = Some(1_000)).build(),
        syn.clone().with(|frame| frame.fragment = 7).build(),
        arp,
        // Too short for an ethertype.
        vec![0; 10],
    ];
    let whole = frames.map(|frame| (frame.clone(), frame.len() as u32));
    let (_, log) = replayed(&capture("reasons", whole));
    assert!(log.contains("frames=5 counted=1 skipped=1 damaged=0"), "{log}");
    assert!(log.contains("not counted: not_ip 1, not_watched 1, forged_length 1, fragment 1"), "{log}");
}
