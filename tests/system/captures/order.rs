//! Order of captures and of their frames.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use mailflow_test_support::{
    frame::{FrameBuilder, flag::*},
    lab::agent_binary,
    pcap,
};
use serde_json::Value;

const BEGIN: u64 = 1_700_000_000_000_000;
const HOUR: u64 = 3_600_000_000;

fn syn(port: u16) -> Vec<u8> {
    FrameBuilder::tcp(&format!("10.20.0.2:{port}"), "93.184.215.25:25", SYN).build()
}

fn folder(test: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("mailflow-order-{}-{test}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Returns client port and start of each flow, and the log.
fn replayed(folder: &Path, captures: &[&str]) -> (Vec<(u64, String)>, String) {
    let output = Command::new(agent_binary().unwrap())
        .args(["replay", "--flow-log", "-", "--alerts", "off"])
        .args(captures)
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    let flow = |line: &str| {
        let flow: Value = serde_json::from_str(line).unwrap();
        (flow["src_port"].as_u64().unwrap(), flow["flow"]["start"].as_str().unwrap()[11..19].to_owned())
    };
    let mut flows: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(flow).collect();
    flows.sort();
    (flows, log)
}

#[test]
fn captures_are_sorted_by_first_frame() {
    let folder = folder("files");
    for (name, hour) in [("cap2", 0), ("cap10", 1)] {
        pcap::write(&folder.join(name), &[(BEGIN + hour * HOUR, syn(40_000 + hour as u16))]).unwrap();
    }
    let (flows, log) = replayed(&folder, &["cap10", "cap2"]);
    assert_eq!(flows, [(40_000, "22:13:20".to_owned()), (40_001, "23:13:20".to_owned())]);
    assert!(!log.contains("WARN"), "{log}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn late_frames_are_reported() {
    let folder = folder("frames");
    // Two captures of one hour; the second begins before the end of the first.
    pcap::write(&folder.join("one"), &[(BEGIN, syn(40_000)), (BEGIN + HOUR, syn(40_001))]).unwrap();
    pcap::write(&folder.join("two"), &[(BEGIN + 1, syn(40_002)), (BEGIN + HOUR - 1, syn(40_003))]).unwrap();
    let (flows, log) = replayed(&folder, &["one", "two"]);
    assert_eq!(flows[2], (40_002, "23:13:20".to_owned()));
    // A microsecond is within the reordering by a NIC's queues.
    let warning = log.lines().find(|line| line.contains("WARN")).unwrap();
    assert!(warning.contains("capture=two frames=1") && warning.contains("out of order"), "{warning}");
    fs::remove_dir_all(folder).unwrap();
}
