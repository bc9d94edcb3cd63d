//! Running agent whose outputs are dead, refuse, hang and have a full disk at once. Its counts are exact, and
//! each alert is delivered or counted as lost.

use std::{
    collections::HashMap,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use mailflow_test_support::{
    frame::{FrameBuilder, flag::*},
    lab::{Agent, Lab, LabOptions, agent_binary, wait_for},
    wire::Wire,
};
use serde_json::Value;

use crate::http::Receiver;

const SERVER: &str = "93.184.216.25:25";
/// Number of hosts; each has enough flows for an alert.
const HOSTS: u32 = 300;
const FLOWS: u16 = 4;

/// Returns the frames of complete SMTP flows, and their packets.
fn frames() -> (Vec<Vec<u8>>, [u64; 2]) {
    let mut frames = Vec::new();
    let mut sent = [0; 2];
    for port in 40_000..40_000 + FLOWS {
        for host in 0..HOSTS {
            let client = format!("{}:{port}", Ipv4Addr::from(0x0a14_0100 + host));
            let mut packet = |up: bool, flags, text: &str| {
                let (from, to) = if up { (client.as_str(), SERVER) } else { (SERVER, client.as_str()) };
                let payload = if text.is_empty() { String::new() } else { format!("{text:<300}") };
                frames.push(FrameBuilder::tcp(from, to, flags).payload(payload.into_bytes()).build());
                sent[usize::from(!up)] += 1;
            };
            packet(true, SYN, "");
            packet(false, SYN | ACK, "");
            packet(false, ACK | PSH, "220 mail.example ESMTP\r\n");
            packet(true, ACK | PSH, "EHLO client.example\r\n");
            packet(false, ACK | PSH, "250 mail.example\r\n");
            packet(true, ACK | PSH, "QUIT\r\n");
            packet(true, FIN | ACK, "");
            packet(false, FIN | ACK, "");
            packet(true, ACK, "");
        }
    }
    (frames, sent)
}

/// Writes a script that runs the agent with a disk of 64 kB, mounted in a mount namespace.
fn on_a_small_disk(lab: &Lab, agent: &Path) -> (PathBuf, PathBuf) {
    // Symbolic links would lead out of the agent's mount namespace.
    let disk = fs::canonicalize(lab.folder()).unwrap().join("disk");
    fs::create_dir(&disk).unwrap();
    let script = lab.folder().join("agent.sh");
    // The lab's alert file would replace the configured one.
    let text = format!(
        "#!/bin/sh\nset -e\nmount -t tmpfs -o size=64k tmpfs {disk}\n\
         head -c 60000 /dev/zero > {disk}/filler || true\n\
         for word in \"$@\"; do shift; case \"$skip$word\" in\n\
         --alerts) skip=yes; continue;; yes*) skip=; continue;; esac; set -- \"$@\" \"$word\"; done\n\
         exec {agent} \"$@\"\n",
        disk = disk.display(),
        agent = agent.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    (script, disk)
}

/// Returns the samples of the page by name and labels.
fn samples(page: &str) -> HashMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.map(|line| line.rsplit_once(' ').unwrap());
    pairs.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

fn of_sink(found: &HashMap<String, f64>, what: &str, sink: &str) -> f64 {
    found.get(&format!("mailflow_output_{what}{{output=\"{sink}\"}}")).copied().unwrap_or(0.0)
}

#[test]
fn failing_outputs_keep_counts_exact_and_alerts_accounted() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let (script, disk) = on_a_small_disk(&lab, &agent_binary().unwrap());
    // The listeners are in the gateway's namespace, as the agent is.
    let ([manager, syslog, collector], hanging, refusing) = lab
        .gateway
        .enter(|| {
            let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
            let dead = [(); 3].map(|()| TcpListener::bind(local).unwrap());
            let dead = dead.map(|listener| listener.local_addr().unwrap());
            (dead, Receiver::start(local, 0), Receiver::start(local, 503))
        })
        .unwrap();
    let config = lab.folder().join("outputs.yaml");
    let text = format!(
        "
poll_interval: 200ms
timeouts: {{ closed: 300ms }}
# Each host has an alert of its own.
limits: {{ alerts_per_minute: 1000000 }}
rules:
  - name: few
    match: {{ ports: [25] }}
    window: {{ length: 1h }}
    condition: {{ count: {{ at_least: {FLOWS} }} }}
outputs:
  alerts:
    - {{ type: file, name: small_disk, path: {disk}/alerts.jsonl, profile: ocsf }}
    - {{ type: alertmanager, urls: [\"http://{manager}\"] }}
    - {{ type: webhook, name: hanging, url: \"{hanging}\" }}
    - {{ type: webhook, name: refusing, url: \"{refusing}\" }}
    - {{ type: syslog, name: dead, to: \"tcp:{syslog}\" }}
    - {{ type: journal, socket: /nonexistent/journal }}
  flow_log:
    - {{ type: ipfix, to: \"tcp:{collector}\" }}
    - {{ type: file, name: flows, path: {flows} }}
    - {{ type: file, name: full, path: /dev/full }}
",
        disk = disk.display(),
        hanging = hanging.url("/"),
        refusing = refusing.url("/"),
        flows = lab.folder().join("flows.jsonl").display(),
    );
    fs::write(&config, text).unwrap();
    let options = format!("--config {} --interface lan0 --role mirror", config.display());
    let mut agent = Agent::start(&lab.gateway, &script, lab.folder(), "agent", &options).unwrap();

    let (frames, sent) = frames();
    Wire::open(&lab.client, "eth0").unwrap().send(&frames).unwrap();
    let flows = f64::from(HOSTS) * f64::from(FLOWS);
    let page = wait_for("records of all flows", Duration::from_secs(60), || {
        let found = samples(&agent.metrics()?);
        let records = found["mailflow_flow_records_total{reason=\"closed\"}"];
        Ok((records >= flows && of_sink(&found, "lines_written_total", "flows") >= flows).then_some(found))
    })
    .unwrap();
    for (direction, sent) in ["up", "down"].iter().zip(sent) {
        let label = format!("{{direction=\"{direction}\"}}");
        assert_eq!(page[&format!("mailflow_kernel_packets_total{label}")], sent as f64);
        assert_eq!(page[&format!("mailflow_conservation_difference_packets{label}")], 0.0);
    }
    let logged = fs::read_to_string(lab.folder().join("flows.jsonl")).unwrap();
    let mut recorded = [0; 2];
    for line in logged.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        recorded[0] += line["flow"]["pkts_toserver"].as_u64().unwrap();
        recorded[1] += line["flow"]["pkts_toclient"].as_u64().unwrap();
    }
    assert_eq!(recorded, sent, "the flow log beside those that fail is whole");

    let alerts = f64::from(HOSTS);
    let sinks = ["small_disk", "alerts_alertmanager", "hanging", "refusing", "dead", "alerts_journal"]
        .map(str::to_owned);
    let account = |found: &HashMap<String, f64>, sink: &str| {
        of_sink(found, "lines_written_total", sink)
            + of_sink(found, "lines_dropped_total", sink)
            + of_sink(found, "queue_lines", sink)
    };
    // A page is not atomic: an alert that is delivered meanwhile may be in none of its lines. A lost alert
    // would be missing on every page.
    let whole = |found: &HashMap<String, f64>| sinks.iter().all(|sink| account(found, sink) == alerts);
    wait_for("each sink's first failure, with every alert accounted for", Duration::from_secs(60), || {
        let found = samples(&agent.metrics()?);
        let failed = sinks.iter().all(|sink| of_sink(&found, "errors_total", sink) > 0.0);
        Ok((failed && whole(&found)).then_some(()))
    })
    .unwrap();

    // Most outputs recover.
    let inside = Path::new("/proc").join(agent.process().pid().to_string()).join("root");
    let inside = |path: &Path| inside.join(path.strip_prefix("/").unwrap());
    fs::remove_file(inside(&disk.join("filler"))).unwrap();
    refusing.answer(200);
    hanging.answer(200);
    let back = lab.gateway.enter(|| Receiver::start(manager, 200)).unwrap();
    wait_for("recovery, with every alert accounted for", Duration::from_secs(120), || {
        let found = samples(&agent.metrics()?);
        let delivered = |sink: &&str| of_sink(&found, "lines_written_total", sink) == alerts;
        let recovered = ["alerts_alertmanager", "hanging", "refusing"].iter().all(delivered);
        Ok((recovered && whole(&found)).then_some(()))
    })
    .unwrap();
    let delivered: usize = back.received().iter().filter_map(|one| one.body.as_array()).map(Vec::len).sum();
    assert!(delivered >= HOSTS as usize, "{delivered}");
    assert_eq!(refusing.received().len(), HOSTS as usize);

    // The small disk is full again: the file has complete lines, each once.
    let text = fs::read_to_string(inside(&disk.join("alerts.jsonl"))).unwrap();
    let whole = &text[..=text.rfind('\n').unwrap()];
    let mut names = std::collections::HashSet::new();
    for line in whole.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(names.insert(line["finding_info"]["uid"].to_string()), "twice");
    }
    let found = samples(&agent.metrics().unwrap());
    assert_eq!(of_sink(&found, "lines_written_total", "small_disk"), names.len() as f64);
    assert!(!names.is_empty());
    println!("{} of {HOSTS} alerts on the small disk", names.len());
    // The agent logs the lost events, and still ends.
    assert_eq!(agent.stop().unwrap().code(), Some(1));
    assert!(agent.log().contains("were not delivered"), "{}", agent.log());
}
