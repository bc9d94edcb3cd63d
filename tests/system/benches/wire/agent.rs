//! The agent as it is run: its CPU time while flows come and go.

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
/// New flows that are asked for in a second.
const RATE: f64 = 100_000.0;
/// Until flows come and go alike: two readings.
const BEFORE: Duration = Duration::from_secs(20);
/// Three readings.
const DURING: Duration = Duration::from_secs(30);
/// Flows that are sent between two looks at the clock.
const AT_ONCE: usize = 200;
/// Ports of a client, one after the other; they come again when the flows before have long ended.
const PORTS: usize = 60_000;
const CLIENTS: usize = 100;
/// Sources that each send one flow, and then are quiet.
const SOURCES: usize = 1_000_000;
/// Until each of these flows has ended, and the state of all has been kept.
const SETTLING: Duration = Duration::from_secs(60);
/// Sixty readings.
const QUIET_FOR: Duration = Duration::from_secs(60);

/// As installed, but for room for the flows of all sources at once.
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
    // As it is installed.
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
    // It has millions of records still to make, which may take longer than it is given.
    agent.stop().map(drop)
}

/// The agent as it is installed, while a million sources that its rules remember send nothing.
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
    let held =
        value(&page, "mailflow_rule_subjects{rule=\"smtp-bulk\"").context("no series of the subjects")?;
    ensure!(held >= SOURCES as f64, "{held} sources are remembered:\n{page}");
    line(&format!("{QUIET}, CPU"), "% a core", share, Some(1.0));
    agent.stop().map(drop)
}

/// Returns the value of the first series that begins so.
fn value(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.rsplit_once(' ')?.1.parse().ok())
}

/// Flows that begin and are reset at once: each is two packets and one record.
struct Flows {
    frames: Vec<[u8; 54]>,
    sent: usize,
    /// The client and the port of a flow, by its number.
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

    /// Sends at the rate asked for, or as fast as it goes.
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
                // Where client and port lie in such a frame.
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
