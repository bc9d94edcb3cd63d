//! The agent as installed: its CPU time while flows begin and end.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mailflow_test_support::{
    frame::{FrameBuilder, flag::*},
    lab::{Agent, Lab, LabOptions, agent_binary},
    wire::Wire,
};

use crate::{cpu, line};

pub(crate) const NAME: &str = "wire: agent";
pub(crate) const QUIET: &str = "wire: quiet agent, 1000000 sources";
/// Target rate of new flows per second.
const RATE: f64 = 100_000.0;
/// Time until as many flows end as begin: two polls.
const BEFORE: Duration = Duration::from_secs(20);
/// Measured time: three polls.
const DURING: Duration = Duration::from_secs(30);
/// Flows that are sent between two readings of the clock.
const AT_ONCE: usize = 200;
/// Ports of a client, used in turn. Earlier flows have ended when a port is used again.
const PORTS: usize = 60_000;
const CLIENTS: usize = 100;
/// Sources that send one flow each and nothing after it.
const SOURCES: usize = 1_000_000;
/// Time until each of these flows has ended and the checkpoint is written.
const SETTLING: Duration = Duration::from_secs(60);
/// Measured time: sixty polls.
const QUIET_FOR: Duration = Duration::from_secs(60);

/// Configuration as installed, with a capacity for the flows of all sources.
const QUIET_CONFIG: &str = "
flow_table: { flows: 2000000 }
outputs: { metrics: { listen: '127.0.0.1:10825' }, alerts: off }
";

const CONFIG: &str = "
poll_interval: 10s
flow_table: { flows: 3000000 }
outputs: { metrics: { listen: '127.0.0.1:10825' }, alerts: off }
";

pub(crate) fn measure() -> Result<()> {
    measure_with("", None)?;
    // The second run has a state directory, as an installed agent has.
    measure_with(", with its state kept", Some("state"))
}

fn measure_with(which: &str, state: Option<&str>) -> Result<()> {
    let lab = Lab::new(&LabOptions::default())?;
    let config = lab.folder().join("wire.yaml");
    fs::write(&config, CONFIG)?;
    let state = state.map_or("off".into(), |folder| lab.folder().join(folder).display().to_string());
    let options = format!("--config {} --interface lan0 --role mirror --state {state}", config.display());
    let mut agent = Agent::start(&lab.gateway, &agent_binary()?, lab.folder(), "agent", &options)?;
    let id = agent.process().pid();
    let wire = Wire::open(&lab.client, "eth0")?;
    let mut flows = Flows::new(|number| (number / PORTS % CLIENTS, number % PORTS));
    flows.send(&wire, BEFORE)?;
    let (before, began, sent) = (cpu::process(id)?, Instant::now(), flows.sent);
    flows.send(&wire, DURING)?;
    let took = began.elapsed().as_secs_f64();
    let share = (cpu::process(id)? - before) / 1e9 / took * 100.0;
    let page = agent.metrics()?;
    let difference = value(&page, "mailflow_conservation_difference_packets{");
    ensure!(difference.context("no series of the difference")? == 0.0, "packets are missing:\n{page}");
    line(&format!("{NAME}{which}: new flows sent"), "flows/s", (flows.sent - sent) as f64 / took, None);
    line(&format!("{NAME} polling every 10 s{which}, CPU"), "% a core", share, Some(8.0));
    // The agent still has millions of records to write, which may exceed the stop timeout.
    agent.stop().map(drop)
}

/// Measures the agent as installed, while a million sources with state in its rules send nothing.
pub(crate) fn measure_quiet() -> Result<()> {
    let lab = Lab::new(&LabOptions::default())?;
    let config = lab.folder().join("wire.yaml");
    fs::write(&config, QUIET_CONFIG)?;
    let options = format!(
        "--config {} --interface lan0 --role mirror --state {}",
        config.display(),
        lab.folder().join("state").display()
    );
    let mut agent = Agent::start(&lab.gateway, &agent_binary()?, lab.folder(), "agent", &options)?;
    let id = agent.process().pid();
    let wire = Wire::open(&lab.client, "eth0")?;
    let mut flows = Flows::new(|number| (number, 0));
    while flows.sent < SOURCES {
        flows.send(&wire, Duration::from_millis(100))?;
    }
    thread::sleep(SETTLING);
    let (before, began) = (cpu::process(id)?, Instant::now());
    thread::sleep(QUIET_FOR);
    let share = (cpu::process(id)? - before) / 1e9 / began.elapsed().as_secs_f64() * 100.0;
    let page = agent.metrics()?;
    let subjects =
        value(&page, "mailflow_rule_subjects{rule=\"smtp-bulk\"").context("no series of the subjects")?;
    ensure!(subjects >= SOURCES as f64, "{subjects} sources are remembered:\n{page}");
    line(&format!("{QUIET}, CPU"), "% a core", share, Some(1.0));
    agent.stop().map(drop)
}

/// Returns the value of the first series with the prefix `series`.
fn value(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.rsplit_once(' ')?.1.parse().ok())
}

/// Flows that begin and are reset at once: two packets and one record each.
struct Flows {
    frames: Vec<[u8; 54]>,
    sent: usize,
    /// Client and port of a flow, by its number.
    of: fn(usize) -> (usize, usize),
}

impl Flows {
    fn new(of: fn(usize) -> (usize, usize)) -> Self {
        let frame = |flags| {
            let built = FrameBuilder::tcp("10.64.0.0:1024", "93.184.215.25:25", flags).build();
            built.try_into().unwrap_or([0; 54])
        };
        let pair = [frame(SYN), frame(RST | ACK)];
        Self { frames: pair.repeat(AT_ONCE), sent: 0, of }
    }

    /// Sends at the target rate, or as fast as possible.
    fn send(&mut self, wire: &Wire, time: Duration) -> Result<()> {
        let began = Instant::now();
        let first = self.sent;
        while began.elapsed() < time {
            let due = (began.elapsed().as_secs_f64() * RATE) as usize;
            if self.sent - first >= due {
                thread::sleep(Duration::from_micros(500));
                continue;
            }
            for pair in self.frames.chunks_exact_mut(2) {
                // Offsets of the client address and port in such a frame.
                let (client, port) = (self.of)(self.sent);
                let (client, port) = (0x0a40_0000 + client as u32, 1024 + port as u16);
                for frame in pair {
                    frame[26..30].copy_from_slice(&client.to_be_bytes());
                    frame[34..36].copy_from_slice(&port.to_be_bytes());
                }
                self.sent += 1;
            }
            wire.send(&self.frames)?;
        }
        Ok(())
    }
}
