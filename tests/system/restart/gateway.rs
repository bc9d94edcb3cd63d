//! Gateway whose agents are restarted, and the true packet counts.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use mailflow_kernel::LAYOUT;
use mailflow_test_support::lab::{
    Agent, Connection, Family, Lab, LabOptions, TcpFacts, agent_binary, command, output, transfer, wait_for,
};
use serde_json::Value;

/// Small tmpfs, unmounted on drop.
pub(crate) struct SmallDisk {
    mount: Mounted,
}

impl SmallDisk {
    /// Creates the folder and mounts a tmpfs of this size there.
    #[allow(dead_code, reason = "shared with the suite `outputs`")]
    pub(crate) fn new(folder: &Path, size: &str) -> Self {
        fs::create_dir_all(folder).unwrap();
        let options = format!("size={size},mode=750");
        output(command("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder)).unwrap();
        Self { mount: Mounted(folder.to_owned()) }
    }

    /// Fills the remaining space.
    pub(crate) fn fill(&self) {
        let mut filler = fs::File::options().create(true).append(true).open(self.filler()).unwrap();
        // Whole pages first, then the rest.
        for size in [4_096, 1] {
            while filler.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Frees the space.
    pub(crate) fn empty(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    /// Remounts with these options, for example read-only.
    pub(crate) fn remount(&self, options: &str) {
        output(command("mount").args(["-o", &format!("remount,{options}")]).arg(&self.mount.0)).unwrap();
    }

    /// Returns the mount point.
    pub(crate) fn path(&self) -> &Path {
        &self.mount.0
    }

    fn filler(&self) -> PathBuf {
        self.mount.0.join("filler")
    }
}

/// Time until the last records: the shortest idle timeout, a poll, and slack for a busy machine.
const SECONDS: Duration = Duration::from_secs(120);

/// Packets up and down.
pub(crate) type Packets = [u64; 2];

/// Gateway with its own bpffs, and a configuration with short idle timeouts.
pub(crate) struct Gateway {
    // First field: it is unmounted before the lab's folder is removed.
    mount: Mounted,
    pub(crate) lab: Lab,
    options: String,
}

/// Mount point, unmounted on drop.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = output(command("umount").arg("-l").arg(&self.0)) {
            eprintln!("{error:#}");
        }
    }
}

impl Gateway {
    /// Creates a gateway with a rule that needs this many flows.
    pub(crate) fn new(rule: u32) -> Self {
        let lab = Lab::new(&LabOptions::default()).unwrap();
        let folder = lab.folder().to_owned();
        let mount = folder.join("bpf");
        fs::create_dir_all(&mount).unwrap();
        output(command("mount").args(["-t", "bpf", "bpf"]).arg(&mount)).unwrap();
        let gateway = Self { options: String::new(), lab, mount: Mounted(mount) };
        gateway.configure(rule, "");
        let options = format!(
            "--config {} --poll-interval 200ms --state {} --pins {}",
            folder.join("gateway.yaml").display(),
            folder.join("state").display(),
            gateway.pins().display(),
        );
        Self { options, ..gateway }
    }

    /// Returns the folder of the pinned maps and links.
    pub(crate) fn pins(&self) -> PathBuf {
        self.mount.0.join("mailflow")
    }

    /// Returns the folder of the maps of a layout: `later` versions after the agent's.
    pub(crate) fn tables(&self, later: u32) -> PathBuf {
        self.pins().join(format!("v{}", LAYOUT + later))
    }

    /// Writes the configuration, with further lines. No flow becomes idle: on a busy machine an agent may take more than
    /// a minute to start.
    pub(crate) fn configure(&self, rule: u32, more: &str) {
        let text = format!(
            "interfaces: [{{ name: lan0, role: lan }}]\ntimeouts: {{ closed: 500ms, idle: 1h, unanswered: 2s }}\n\
             rules:\n  - name: many\n    match: {{ applications: [smtp, other], size: {{ test: count, up: 1, down: 1 }} }}\n    \
             window: {{ length: 1h }}\n    condition: {{ count: {{ at_least: {rule} }} }}\n{more}"
        );
        fs::write(self.lab.folder().join("gateway.yaml"), text).unwrap();
    }

    /// Starts an agent with this gateway's files, and with further options and environment variables.
    pub(crate) fn start(&self, more: &str, environment: &[(&str, &str)]) -> Agent {
        let log = self.lab.folder().join("flows.jsonl");
        let options = format!("{} --flow-log {} {more}", self.options, log.display());
        let binary = agent_binary().unwrap();
        Agent::start_in(&self.lab.gateway, &binary, self.lab.folder(), "agent", &options, environment)
            .unwrap()
    }

    /// Starts an agent with only the outputs of its configuration.
    #[allow(dead_code, reason = "shared with the suite `outputs`")]
    pub(crate) fn start_as_configured(&self) -> Agent {
        let (folder, binary) = (self.lab.folder(), agent_binary().unwrap());
        let options = &self.options;
        Agent::start_as_configured(&self.lab.gateway, &binary, folder, "agent", options, &[]).unwrap()
    }

    /// Makes a connection and closes it; returns the packets by TCP_INFO.
    pub(crate) fn send(&self) -> Packets {
        let server = SocketAddr::new(self.lab.server_ip(Family::V4), 25);
        let facts = transfer(&self.lab.client, &self.lab.server, server, 6_000, 6_000).unwrap().client_facts;
        packets(&facts)
    }

    /// Opens a connection that stays open.
    pub(crate) fn open(&self) -> Open {
        let server = SocketAddr::new(self.lab.server_ip(Family::V4), 587);
        Open(Connection::open(&self.lab.client, 0, &self.lab.server, server).unwrap())
    }

    /// Returns the final records of the flow log.
    pub(crate) fn finals(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.lab.folder().join("flows.jsonl")).unwrap_or_default();
        let lines = text.lines().map(|line| {
            serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"))
        });
        lines.filter(|flow| flow["flow"]["reason"] != "active").collect()
    }

    /// Returns the packets of the final records.
    pub(crate) fn recorded(&self) -> Packets {
        let mut sum = [0; 2];
        for flow in self.finals() {
            sum[0] += flow["flow"]["pkts_toserver"].as_u64().unwrap();
            sum[1] += flow["flow"]["pkts_toclient"].as_u64().unwrap();
        }
        sum
    }

    /// Waits until the final records have exactly these packets, and checks that the number stays.
    pub(crate) fn expect(&self, agent: &Agent, sent: Packets) {
        let all = || {
            wait_for("every packet is in a record", SECONDS, || Ok((self.recorded() == sent).then_some(())))
        };
        all().unwrap_or_else(|error| {
            let flows: Vec<String> = self.finals().iter().map(short).collect();
            let metrics = agent.metrics().unwrap_or_default();
            let relevant = metrics.lines().filter(|line| {
                line.contains("_accounted_")
                    || line.contains("difference")
                    || line.contains("_output_")
                    || line.contains("table_entries")
            });
            let relevant: Vec<&str> = relevant.collect();
            panic!(
                "{error:#}: {:?} of {sent:?}\n{}\n{}\n{}",
                self.recorded(),
                flows.join("\n"),
                relevant.join("\n"),
                agent.log()
            )
        });
        // A flow that is still in the table, or in the journal, would be recorded again.
        agent.settle().unwrap();
        assert_eq!(self.recorded(), sent, "and none twice");
    }
}

/// Formats a flow as one line.
fn short(flow: &Value) -> String {
    let part = &flow["flow"];
    format!(
        "{} {} {}/{} {} {}",
        flow["src_port"],
        flow["dest_port"],
        part["pkts_toserver"],
        part["pkts_toclient"],
        part["reason"],
        part["start"]
    )
}

/// Connection that stays open.
pub(crate) struct Open(Connection);

impl Open {
    /// Returns the client's port.
    pub(crate) fn port(&self) -> u16 {
        self.0.client_address().unwrap().port()
    }

    /// Sends some bytes in both directions.
    pub(crate) fn talk(&self) {
        self.0.exchange(100, 100).unwrap();
    }

    /// Closes the connection; returns all of its packets.
    pub(crate) fn end(self) -> Packets {
        self.0.close().unwrap();
        packets(&self.0.facts().unwrap().0)
    }
}

fn packets(facts: &TcpFacts) -> Packets {
    [u64::from(facts.segments_out), u64::from(facts.segments_in)]
}

/// Kills the agent.
pub(crate) fn kill(mut agent: Agent) {
    agent.process().signal(libc::SIGKILL).unwrap();
    agent.process().wait(Duration::from_secs(60)).unwrap();
}

/// Adds packets to a sum.
pub(crate) fn add(sum: &mut Packets, more: Packets) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}
