//! Real collector: nfcapd reads the export of a replay, and nfdump's numbers equal the flow log's.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use mailflow_test_support::lab::{self, With, agent_binary, workspace};
use serde_json::Value;

use crate::peer::until;

/// Client and server, each with its port, and the protocol.
type Tuple = (IpAddr, u64, IpAddr, u64, u64);
/// Packets and bytes up, packets and bytes down.
type Sums = [u64; 4];

fn captures() -> Option<Vec<PathBuf>> {
    let folder = workspace().join("../shared/captures");
    if !folder.is_dir() {
        println!("SKIPPED: no captures at {}", folder.display());
        return None;
    }
    let is_capture = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        [".pcap", ".pcapng", ".cap", ".gz"].iter().any(|end| name.ends_with(end))
    };
    let entries = ["mail", "struct"].map(|kind| fs::read_dir(folder.join(kind)).unwrap());
    let paths = entries.into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut captures: Vec<_> = paths.filter(is_capture).collect();
    captures.sort();
    assert!(captures.len() > 10, "{captures:?}");
    Some(captures)
}

/// nfcapd, killed on drop.
struct Collector {
    child: Child,
    port: u16,
}

impl Collector {
    fn start(root: &Path, folder: &Path) -> Self {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = fs::File::create(folder.join("nfcapd.log")).unwrap();
        let child = Command::new(root.join("usr/bin/nfcapd"))
            .args(["-b", "127.0.0.1", "-p", &port.to_string(), "-w"])
            .arg(folder.join("flows"))
            // One file; a receive buffer for all flows of a replay.
            .args(["-t", "3600", "-B", "4000000"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        // nfcapd listens once the port is in use.
        until("nfcapd listens", || UdpSocket::bind(("127.0.0.1", port)).is_err());
        Self { child, port }
    }

    /// Returns the size of the socket's receive buffer, by /proc/net/udp (proc_pid_net(5)).
    fn unread_bytes(&self) -> u64 {
        let table = fs::read_to_string("/proc/net/udp").unwrap();
        let port = format!(":{:04X}", self.port);
        let mut sockets = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let socket = sockets.find(|fields| fields.get(1).is_some_and(|local| local.ends_with(&port)));
        let (_sent, unread) = socket.unwrap()[4].split_once(':').unwrap();
        u64::from_str_radix(unread, 16).unwrap()
    }

    /// Stops nfcapd with SIGTERM, so that it writes its data.
    fn stop(mut self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: kill(2) takes two integers and touches no memory of this process.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn add(sums: &mut BTreeMap<Tuple, Sums>, tuple: Tuple, flow: Sums) {
    let sum = sums.entry(tuple).or_default();
    for (sum, value) in sum.iter_mut().zip(flow) {
        *sum += value;
    }
}

/// Returns the last record of each flow in a flow log.
fn logged(path: &Path) -> BTreeMap<Tuple, Sums> {
    let mut sums = BTreeMap::new();
    for line in fs::read_to_string(path).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let ip = |name: &str| line[name].as_str().unwrap().parse().unwrap();
        let port = |name: &str| line[name].as_u64().unwrap();
        let count = |name: &str| line["flow"][name].as_u64().unwrap();
        if line["flow"]["reason"] != "active" {
            let protocol = if line["proto"] == "UDP" { 17 } else { 6 };
            let tuple = (ip("src_ip"), port("src_port"), ip("dest_ip"), port("dest_port"), protocol);
            let counts = ["pkts_toserver", "bytes_toserver", "pkts_toclient", "bytes_toclient"];
            add(&mut sums, tuple, counts.map(count));
        }
    }
    sums
}

/// Returns nfdump's output.
fn dumped(root: &Path, folder: &Path) -> BTreeMap<Tuple, Sums> {
    let output = Command::new(root.join("usr/bin/nfdump"))
        .args(["-q", "-o", "json", "-R"])
        .arg(folder)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    // nfdump writes list members without brackets.
    let text = String::from_utf8(output.stdout).unwrap();
    let list = format!("[{}]", text.trim().trim_end_matches(','));
    let flows: Vec<Value> = serde_json::from_str(&list).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    let mut sums = BTreeMap::new();
    for flow in flows {
        let ip = |end: &str| {
            let found = ["4", "6"].iter().find_map(|family| flow.get(format!("{end}{family}_addr")));
            found.unwrap().as_str().unwrap().parse().unwrap()
        };
        let count = |name: &str| flow.get(name).and_then(Value::as_u64).unwrap_or(0);
        let tuple = (ip("src"), count("src_port"), ip("dst"), count("dst_port"), count("proto"));
        add(&mut sums, tuple, ["in_packets", "in_bytes", "out_packets", "out_bytes"].map(count));
    }
    sums
}

#[test]
fn nfdump_equals_flow_log() {
    let Some(captures) = captures() else { return };
    let root = lab::unpack("nfdump", With::Libraries).unwrap().root;
    let folder = std::env::temp_dir().join(format!("mailflow-nfcapd-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("flows")).unwrap();
    let collector = Collector::start(&root, &folder);
    let (log, config) = (folder.join("flows.jsonl"), folder.join("config.yaml"));
    let text = format!(
        "outputs:\n  alerts: off\n  flow_log:\n    - {}\n    - {{ type: ipfix, to: \"udp:127.0.0.1:{}\" }}\n",
        log.display(),
        collector.port
    );
    fs::write(&config, text).unwrap();
    let output = Command::new(agent_binary().unwrap())
        .args(["replay", "--config"])
        .arg(&config)
        .args(&captures)
        .output()
        .unwrap();
    // Some captures are damaged: their readable frames count here too.
    println!("{}", String::from_utf8_lossy(&output.stderr));
    // Every datagram has passed the loopback: nfcapd has read those that are not in its receive buffer.
    until("nfcapd has read every datagram", || collector.unread_bytes() == 0);
    collector.stop();
    let (logged, dumped) = (logged(&log), dumped(&root, &folder.join("flows")));
    println!("{} captures, {} tuples", captures.len(), logged.len());
    assert!(logged.len() > 50);
    for (tuple, sums) in &logged {
        assert_eq!(dumped.get(tuple), Some(sums), "{tuple:?}: packets and bytes up, then down");
    }
    assert_eq!(dumped.len(), logged.len(), "and no others");
    fs::remove_dir_all(&folder).unwrap();
}
