//! VLAN tags in the frame (XDP) and in metadata (TC), in both directions or in one. Both directions of a
//! connection are one flow.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use mailflow_test_support::{
    frame::{FrameBuilder, Transport, flag::*},
    lab::{Agent, Lab, LabOptions, Port, agent_binary},
};
use serde_json::Value;

const CLIENT: &str = "10.20.0.7";
const SERVER: &str = "93.184.215.77:25";

/// Tags of one direction: tag protocol and tag control information.
type Tags = &'static [(u16, u16)];

/// Tags up, tags down, and the expected zone: the one of the SYN.
const SESSIONS: [(Tags, Tags, &[u16]); 9] = [
    (&[], &[], &[]),
    (&[(0x8100, 10)], &[(0x8100, 10)], &[10]),
    (&[(0x88a8, 20), (0x8100, 10)], &[(0x88a8, 20), (0x8100, 10)], &[20, 10]),
    // A priority tag is no zone (IEEE 802.1Q).
    (&[(0x8100, 0x6000)], &[], &[]),
    (&[], &[(0x8100, 0x6000)], &[]),
    // Visible in one direction only.
    (&[(0x8100, 10)], &[], &[10]),
    (&[], &[(0x8100, 10)], &[]),
    (&[(0x88a8, 20), (0x8100, 10)], &[], &[20, 10]),
    (&[], &[(0x88a8, 20), (0x8100, 10)], &[]),
];

/// Returns the frames of a session with true for those to the server. Without its handshake the session
/// begins in the middle.
fn session(port: u16, up: Tags, down: Tags, handshake: bool) -> Vec<(bool, FrameBuilder)> {
    let client = format!("{CLIENT}:{port}");
    let frame = |is_up: bool, flags: u8, payload: &str| {
        let (from, to, tags) = if is_up { (&*client, SERVER, up) } else { (SERVER, &*client, down) };
        let frame = FrameBuilder::tcp(from, to, flags).payload(payload);
        (is_up, tags.iter().fold(frame, |frame, (protocol, tag)| frame.tag(*protocol, *tag)))
    };
    let mut frames = vec![
        frame(true, SYN, ""),
        frame(false, SYN | ACK, ""),
        frame(true, ACK, ""),
        frame(false, ACK | PSH, "220 mx.example ESMTP\r\n"),
        frame(true, ACK | PSH, "EHLO client.example\r\n"),
        frame(false, ACK | PSH, "250 mx.example\r\n"),
        frame(true, ACK | PSH, &"x".repeat(700)),
        frame(false, ACK | PSH, "250 2.0.0 Ok: queued\r\n"),
        frame(true, FIN | ACK, ""),
        frame(false, FIN | ACK, ""),
        frame(true, ACK, ""),
    ];
    let mut next = [1_000, 70_000];
    for (is_up, frame) in &mut frames {
        let next = &mut next[usize::from(*is_up)];
        let counts = matches!(frame.transport, Transport::Tcp { flags, .. } if flags & (SYN | FIN) != 0);
        *frame = frame.clone().sequence(*next);
        *next += frame.payload.len() as u32 + u32::from(counts);
    }
    if !handshake {
        frames.drain(..3);
    }
    frames
}

/// Client and server behind a bridge on the gateway. The client's side is watched: frames up are seen as
/// received, frames down as the bridge sends them, with tags in metadata.
struct Bridge {
    client: Port,
    server: Port,
    agents: Vec<(&'static str, Agent, PathBuf)>,
    _lab: Lab,
}

impl Bridge {
    fn new() -> Self {
        let lab = Lab::new(&LabOptions::default()).unwrap();
        let gateway = &lab.gateway;
        gateway.ip("link add bridge0 type bridge").unwrap();
        for (port, host) in [("tap0", &lab.client), ("tap1", &lab.server)] {
            gateway.ip(&format!("link add {port} type veth peer name wire0 netns {}", host.name())).unwrap();
            gateway.ip(&format!("link set {port} master bridge0")).unwrap();
            for (ns, port) in [(gateway, port), (host, "wire0")] {
                ns.sysctl(&format!("ipv6/conf/{port}/disable_ipv6"), "1").unwrap();
                ns.ip(&format!("link set {port} up")).unwrap();
            }
        }
        gateway.ip("link set bridge0 up").unwrap();
        // If the kernel has it, the bridge's packet filter drops frames without an IPv4 checksum.
        if Path::new("/proc/sys/net/bridge").exists() {
            gateway.sysctl("bridge/bridge-nf-call-iptables", "0").unwrap();
        }
        let start = |(hook, port)| {
            let log = lab.folder().join(format!("{hook}.jsonl"));
            let options = format!(
                "--interface tap0 --role lan --hook {hook} --metrics 127.0.0.1:{port} --flow-log {}",
                log.display()
            );
            let agent =
                Agent::start(gateway, &agent_binary().unwrap(), lab.folder(), hook, &options).unwrap();
            (hook, agent, log)
        };
        let agents = [("xdp", 10_825), ("tc", 10_826)].map(start).into();
        let [client, server] = [&lab.client, &lab.server].map(|host| Port::open(host, "wire0").unwrap());
        Self { client, server, agents, _lab: lab }
    }

    /// Sends a frame and waits until it has passed the bridge.
    fn pass(&self, is_up: bool, frame: &FrameBuilder) {
        let (from, to) = if is_up { (&self.client, &self.server) } else { (&self.server, &self.client) };
        let frame = frame.build();
        from.send(&frame).unwrap();
        to.receive(&frame).unwrap();
    }
}

/// Sends every session, with and without its handshake, then compares each hook's records with the frames.
#[test]
fn tagged_directions_are_one_flow() {
    let mut bridge = Bridge::new();
    let mut expected = BTreeMap::new();
    for (first_port, handshake) in [(30_000_u16, true), (31_000, false)] {
        for (port, (up, down, zone)) in (first_port..).zip(SESSIONS) {
            let frames = session(port, up, down, handshake);
            frames.iter().for_each(|(is_up, frame)| bridge.pass(*is_up, frame));
            let sum = |side: bool| {
                let frames = frames.iter().filter(move |(is_up, _)| *is_up == side);
                frames.fold([0, 0], |[packets, bytes], (_, frame)| [packets + 1, bytes + frame.ip_bytes()])
            };
            // Without a SYN the zone is that of the first packet, here the server's.
            let first = if handshake { zone.to_vec() } else { zone_of(down) };
            expected.insert(u64::from(port), (first, sum(true), sum(false), 1, "smtp".to_owned()));
        }
    }
    for (hook, agent, log) in &mut bridge.agents {
        assert!(agent.stop().unwrap().success());
        let records = std::fs::read_to_string(log).unwrap();
        let mut found: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        for line in records.lines() {
            let flow: Value = serde_json::from_str(line).unwrap();
            let zone = flow["vlan"].as_array().into_iter().flatten();
            let zone: Vec<u16> = zone.map(|tag| tag.as_u64().unwrap() as u16).collect();
            let counts = |names: [&str; 2]| names.map(|name| flow["flow"][name].as_u64().unwrap());
            let (up, down) = (["pkts_toserver", "bytes_toserver"], ["pkts_toclient", "bytes_toclient"]);
            let messages = flow["mailflow"]["messages_estimated"].as_u64().unwrap();
            let app = flow["app_proto"].as_str().unwrap().to_owned();
            let one = (zone, counts(up), counts(down), messages, app);
            found.entry(flow["src_port"].as_u64().unwrap()).or_default().push(one);
        }
        for (port, expected) in &expected {
            assert_eq!(found.get(port), Some(&vec![expected.clone()]), "{hook}, port {port}");
        }
        assert_eq!(found.len(), expected.len(), "{hook}");
        println!("{hook}: {} sessions, each one flow with both directions and its message", found.len());
    }
}

/// Returns the VLANs of tags.
fn zone_of(tags: Tags) -> Vec<u16> {
    tags.iter().map(|(_, tag)| tag & 0xfff).filter(|vlan| *vlan != 0).collect()
}
