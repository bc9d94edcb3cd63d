//! Real captures, sent by tcpreplay over a veth pair to running agents: they count what a replay of the same
//! file counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use mailflow_test_support::lab::{Agent, Lab, LabOptions, Ns, Tcpreplay, agent_binary, wait_for, workspace};
use serde_json::Value;

/// Configuration with every server port of the recount, so that captures without mail count too.
const CONFIG: &str = "watched_ports: { smtp: [25, 21, 80, 443, 3306, 3389, 5122, 5228] }\n\
                      flow_table: { flows: 4096 }\n";

/// Mirror port and mirrored port. The MTU allows the largest IP packet.
const MIRROR: &str = "mirror0";
const SPAN: &str = "span0";
const MTU: u32 = 65_535;

/// Identity of a connection: both endpoints and the VLAN tags.
type Tuple = String;
/// Records of each connection, without what depends on the clock.
type Records = BTreeMap<Tuple, Vec<Value>>;

/// Capture with its expected records.
struct Capture {
    path: PathBuf,
    frames: u64,
    replayed: Records,
}

/// Returns the Ethernet captures with whole frames: those marked for tcpreplay, and those that only need an
/// MTU above 1,500.
fn captures(folder: &Path, config: &Path) -> Vec<Capture> {
    let manifest = fs::read_to_string(folder.join("MANIFEST.tsv")).unwrap();
    let mut lines = manifest.lines();
    let names: Vec<_> = lines.next().unwrap().split('\t').collect();
    let column = |name: &str| names.iter().position(|found| *found == name).unwrap();
    let (file, frames, replay) = (column("file"), column("frames"), column("replay"));
    lines
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .filter(|fields| matches!(fields[replay], "yes" | "jumbo>1514"))
        .map(|fields| {
            let path = folder.join(fields[file]);
            let replayed = replay_of(&path, config);
            Capture { path, frames: fields[frames].parse().unwrap(), replayed }
        })
        .collect()
}

fn replay_of(capture: &Path, config: &Path) -> Records {
    let mut replay = Command::new(agent_binary().unwrap());
    replay.args(["replay", "--role", "mirror", "--flow-log", "-", "--alerts", "off", "--config"]);
    let output = replay.arg(config).arg(capture).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    records(&String::from_utf8(output.stdout).unwrap())
}

fn records(lines: &str) -> Records {
    let mut records = Records::new();
    for line in lines.lines() {
        let mut record: Value = serde_json::from_str(line).unwrap();
        if record["flow"]["reason"] == "active" {
            continue;
        }
        let ends = ["proto", "src_ip", "src_port", "dest_ip", "dest_port", "vlan"];
        let tuple = ends.map(|name| record[name].to_string()).join(" ");
        let fields = record.as_object_mut().unwrap();
        // A replay has no interface.
        for name in ["timestamp", "flow_id", "in_iface"] {
            fields.remove(name);
        }
        for name in ["start", "end", "age", "reason", "state"] {
            fields["flow"].as_object_mut().unwrap().remove(name);
        }
        records.entry(tuple).or_default().push(record);
    }
    records.values_mut().for_each(|records| records.sort_by_key(Value::to_string));
    records
}

/// Returns packets and bytes each way over all records of a connection.
fn sums(records: &[Value]) -> [u64; 4] {
    let sum = |name: &str| records.iter().map(|record| record["flow"][name].as_u64().unwrap()).sum();
    ["pkts_toserver", "bytes_toserver", "pkts_toclient", "bytes_toclient"].map(sum)
}

/// Groups captures into few rounds without a connection in two captures.
fn rounds(captures: Vec<Capture>) -> Vec<Vec<Capture>> {
    let mut rounds: Vec<(BTreeSet<Tuple>, Vec<Capture>)> = Vec::new();
    for capture in captures {
        let tuples: BTreeSet<Tuple> = capture.replayed.keys().cloned().collect();
        match rounds.iter_mut().find(|(taken, _)| taken.is_disjoint(&tuples)) {
            Some((taken, round)) => {
                taken.extend(tuples);
                round.push(capture);
            }
            None => rounds.push((tuples, vec![capture])),
        }
    }
    rounds.into_iter().map(|(_, round)| round).collect()
}

/// Creates a veth pair without other traffic.
fn wire(lab: &Lab) {
    lab.gateway
        .ip(&format!("link add {MIRROR} type veth peer name {SPAN} netns {}", lab.client.name()))
        .unwrap();
    for (ns, port) in [(&lab.gateway, MIRROR), (&lab.client, SPAN)] {
        ns.sysctl(&format!("ipv6/conf/{port}/disable_ipv6"), "1").unwrap();
        ns.ip(&format!("link set {port} mtu {MTU} up")).unwrap();
        // Merged frames would be counted correctly too, but inspected as one.
        ns.run(&format!("ethtool -K {port} gro off")).unwrap();
    }
}

fn counter(ns: &Ns, port: &str, name: &str) -> u64 {
    ns.run(&format!("cat /sys/class/net/{port}/statistics/{name}")).unwrap().trim().parse().unwrap()
}

/// Returns the number of counted frames: in flows, and by reason.
fn shown(metrics: &str) -> u64 {
    let families = ["mailflow_kernel_buffers_total{", "mailflow_uncounted_buffers_total{"];
    let lines = metrics.lines().filter(|line| families.iter().any(|family| line.starts_with(family)));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn captures_on_wire_equal_replay() {
    let folder = workspace().join("../shared/captures");
    if !folder.is_dir() {
        println!("SKIPPED: no captures at {}", folder.display());
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let config = lab.folder().join("ports.yaml");
    fs::write(&config, CONFIG).unwrap();
    wire(&lab);
    let tcpreplay = Tcpreplay::unpack().unwrap();
    let (mut exact, mut summed, mut packets) = (0, 0, 0);
    for (number, round) in rounds(captures(&folder, &config)).iter().enumerate() {
        // Both agents see the same frames: with their tags in the frame at XDP, and in metadata at TC.
        let mut agents =
            [("xdp", "xdp.frags", 10_825), ("tc", "tcx", 10_826)].map(|(hook, attached, port)| {
                let name = format!("{hook}-{number}");
                let log = lab.folder().join(format!("{name}.jsonl"));
                let often = crate::OFTEN;
                let options = format!(
                    "--interface {MIRROR} --role mirror --hook {hook} --metrics 127.0.0.1:{port} {often} --config {} \
                 --flow-log {}",
                    config.display(),
                    log.display()
                );
                let binary = agent_binary().unwrap();
                let agent = Agent::start(&lab.gateway, &binary, lab.folder(), &name, &options).unwrap();
                let line = format!("interface=\"{MIRROR}\" direction=\"ingress\" hook=\"{attached}\"");
                assert!(agent.log().contains(&line), "no `{line}` in\n{}", agent.log());
                (hook, agent, log)
            });
        let before = counter(&lab.gateway, MIRROR, "rx_packets");
        let files: Vec<_> = round.iter().map(|capture| capture.path.clone()).collect();
        let sent = tcpreplay.send(&lab.client, SPAN, &files).unwrap();
        assert_eq!(sent, round.iter().map(|capture| capture.frames).sum::<u64>(), "frames sent");
        assert_eq!(counter(&lab.gateway, MIRROR, "rx_packets") - before, sent, "frames received");
        assert_eq!(counter(&lab.gateway, MIRROR, "rx_dropped"), 0);

        for (hook, agent, log) in &mut agents {
            let shown = wait_for("a look at every frame", Duration::from_secs(120), || {
                let shown = shown(&agent.metrics()?);
                Ok((shown >= sent).then_some(shown))
            });
            assert_eq!(shown.unwrap(), sent, "each frame in one counter");
            assert!(agent.stop().unwrap().success(), "{}", agent.log());
            let live = records(&fs::read_to_string(log).unwrap());
            let expected: Records = round.iter().flat_map(|capture| capture.replayed.clone()).collect();
            assert!(expected.keys().eq(live.keys()), "{hook}:\n{:#?}\n{:#?}", expected.keys(), live.keys());
            for (tuple, replayed) in &expected {
                let live = &live[tuple];
                // The pauses of a capture are shorter on the wire: flows that only an idle timeout separates
                // are one flow here.
                if live.len() == replayed.len() {
                    assert_eq!(live, replayed, "{hook}");
                    exact += 1;
                } else {
                    assert_eq!(sums(live), sums(replayed), "{hook} {tuple}");
                    summed += 1;
                }
                packets += sums(live)[0] + sums(live)[2];
            }
        }
    }
    println!("{exact} tuples equal in every field, {summed} in their sums, {packets} packets");
    assert!(exact > 150 && summed <= 10, "{exact} compared, {summed} by their sums");
}
