//! Many sources, each with a few flows that count, through the rules that are shipped.

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

/// Longer than any of these rules remembers anything.
pub(crate) const MEMORY: Duration = Duration::from_secs(3 * 86_400);

/// Records that an engine keeps at most, to be shown with alerts and to be explained.
const BOUNDED: u32 = 300_000;

/// A source beyond those that are counted from 0: 10.255.0.0.
const OTHER: u32 = 0x00ff_0000;

/// An engine that is shown records.
pub(crate) struct Sources {
    engine: Engine,
    now: Time,
    record: FlowRecord,
}

impl Sources {
    /// With the shipped rules of these names; with none, with all of them.
    pub(crate) fn new(names: &[&str]) -> Result<Self> {
        let config =
            config::parse(config::DEFAULT_NAME, config::DEFAULT).map_err(|faults| anyhow!("{faults}"))?;
        let mut settings = config.engine;
        // All of them are to be remembered, whatever memory that takes.
        settings.limits = RuleLimits::WIDEST;
        settings.rules.retain(|rule| names.is_empty() || names.contains(&&*rule.name));
        let flow = flows::flow(0, Kind::Counts, 1);
        let (app, reason) = (App::Smtp, RecordReason::Closed);
        let record = FlowRecord { flow, app, reason, complete: true, fields: RecordFields::all() };
        Ok(Self { engine: Engine::new(settings), now: flows::at(1_000), record })
    }

    /// The next flow of a source, a microsecond after the one before.
    pub(crate) fn flow(&mut self, source: u32, round: u32) -> Effects {
        self.now = self.now + Duration::from_micros(1);
        let flow = &mut self.record.flow;
        flow.key.client = Address::from(std::net::IpAddr::from(Ipv4Addr::from(0x0a00_0000 + source)));
        flow.key.client_port = 1_024 + round as u16;
        (flow.first, flow.up.last, flow.down.last) = (self.now, Some(self.now), Some(self.now));
        self.engine.ingest_record(self.now, &self.record)
    }

    /// One source has so many flows that all places for records are taken.
    pub(crate) fn fill_what_is_bounded(&mut self) {
        (0..BOUNDED).for_each(|round| drop(self.flow(OTHER, round % 60_000)));
    }

    /// Subjects that are remembered, summed over the rules.
    pub(crate) fn held(&self) -> u64 {
        self.engine.stats().rules.sources
    }

    /// Lets time pass, in steps in which all subjects are gone over.
    pub(crate) fn pass(&mut self, time: Duration) {
        for _ in 0..3 {
            self.now = self.now + time;
            self.engine.tick(self.now);
        }
    }

    /// A tick a second later.
    pub(crate) fn tick(&mut self) -> Effects {
        self.now = self.now + Duration::from_secs(1);
        self.engine.tick(self.now)
    }

    /// A step over the windows.
    pub(crate) fn step(&self, survey: &mut WindowScan) -> Option<WindowReport> {
        self.engine.scan_windows(survey, self.now)
    }
}
