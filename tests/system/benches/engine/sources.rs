//! Many sources, each with a few matching flows, under the shipped rules.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Result, anyhow};
use mailflow_agent::config;
use mailflow_common::{Address, App};
use mailflow_engine::{
    Engine,
    event::Effects,
    flow::RecordFields,
    flow::{FlowRecord, RecordReason},
    query::window_scan::{WindowReport, WindowScan},
    settings::RuleLimits,
    time::Time,
};

use super::flows::{self, Kind};

/// Time longer than the longest window of these rules.
pub(crate) const MEMORY: Duration = Duration::from_secs(3 * 86_400);

/// Maximum number of records that an engine keeps as evidence and to be explained.
const BOUNDED: u32 = 300_000;

/// Source outside of the sources that are numbered from 0: 10.255.0.0.
const OTHER: u32 = 0x00ff_0000;

/// Engine that reads synthetic records.
pub(crate) struct Sources {
    engine: Engine,
    now: Time,
    record: FlowRecord,
}

impl Sources {
    /// Creates an engine with the shipped rules of these names, or with all of them if `names` is empty.
    pub(crate) fn new(names: &[&str]) -> Result<Self> {
        let config =
            config::parse(config::DEFAULT_NAME, config::DEFAULT).map_err(|faults| anyhow!("{faults}"))?;
        let mut settings = config.engine;
        // Every source must stay in the engine, whatever the memory.
        settings.limits = RuleLimits::WIDEST;
        settings.rules.retain(|rule| names.is_empty() || names.contains(&&*rule.name));
        let flow = flows::flow(0, Kind::Counts, 1);
        let (app, reason) = (App::Smtp, RecordReason::Closed);
        let record = FlowRecord { flow, app, reason, complete: true, fields: RecordFields::all() };
        Ok(Self { engine: Engine::new(settings), now: flows::at(1_000), record })
    }

    /// Adds the next flow of a source, one microsecond after the previous flow.
    pub(crate) fn flow(&mut self, source: u32, round: u32) -> Effects {
        self.now = self.now + Duration::from_micros(1);
        let flow = &mut self.record.flow;
        flow.key.client = Address::from(std::net::IpAddr::from(Ipv4Addr::from(0x0a00_0000 + source)));
        flow.key.client_port = 1_024 + round as u16;
        (flow.first, flow.up.last, flow.down.last) = (self.now, Some(self.now), Some(self.now));
        self.engine.ingest_record(self.now, &self.record)
    }

    /// Fills every bounded store of records with the flows of one source.
    pub(crate) fn fill_what_is_bounded(&mut self) {
        (0..BOUNDED).for_each(|round| drop(self.flow(OTHER, round % 60_000)));
    }

    /// Returns the number of group keys with state, summed over the rules.
    pub(crate) fn subjects(&self) -> u64 {
        self.engine.stats().rules.sources
    }

    /// Advances time, in steps that visit all group keys.
    pub(crate) fn pass(&mut self, time: Duration) {
        for _ in 0..3 {
            self.now = self.now + time;
            self.engine.tick(self.now);
        }
    }

    /// Advances time by one second.
    pub(crate) fn tick(&mut self) -> Effects {
        self.now = self.now + Duration::from_secs(1);
        self.engine.tick(self.now)
    }

    /// Does one step of the scan over the windows.
    pub(crate) fn step(&self, survey: &mut WindowScan) -> Option<WindowReport> {
        self.engine.scan_windows(survey, self.now)
    }
}
