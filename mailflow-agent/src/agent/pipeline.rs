//! One poll after the other: snapshot, engine, sinks.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use mailflow_common::PortSet;
use tracing::info;

use super::{outputs::Outputs, view::View};
use crate::{
    clock,
    config::{Config, Interface, Role},
    engine::{Engine, event::Effects, settings::Services, time::Time},
    kernel::{self, Kernel, LoadOptions, OBJECT, Programs, SilenceLimits},
    sink::metrics::{Attached, KernelView, Places},
};

/// Everything a poll passes through.
pub(super) struct Pipeline {
    kernel: Kernel,
    engine: Engine,
    outputs: Outputs,
    view: Arc<View>,
    services: Services,
    v6_source_prefix: u8,
    capacity: u32,
}

impl Pipeline {
    /// Opens the outputs, loads the program and attaches it: in the order in which failing costs least.
    pub(super) fn start(config: &Config, view: Arc<View>) -> Result<Self> {
        let outputs = Outputs::open(&config.outputs, &view.agent)?;
        let mut interfaces = config.interfaces.clone();
        for interface in &mut interfaces {
            interface.role = kernel::choose_role(&interface.name, interface.role)?;
        }
        let mut kernel = load(config, &interfaces)?;
        for interface in &interfaces {
            kernel.attach(&interface.name, interface.role, interface.hook)?;
        }
        for rule in &config.engine.rules {
            info!(rule = %rule.name, version = rule.version, "rule");
        }
        Ok(Self {
            kernel,
            engine: Engine::new(config.engine.clone()),
            outputs,
            view,
            services: config.engine.services.clone(),
            v6_source_prefix: config.engine.v6_source_prefix,
            capacity: config.flow_table,
        })
    }

    /// Reads the kernel's table and hands on what follows from it.
    pub(super) fn poll(&mut self) -> Result<()> {
        let begin = clock::now();
        // Before the flows: a packet counted in between is then one too many, never one missing.
        let totals = self.kernel.totals()?;
        let snapshot = self.kernel.read(begin)?;
        let drain = clock::now().since(begin);
        let entries = snapshot.flows.len() as u64;
        let finished = self.engine.finish(snapshot.finished);
        let (mut effects, ended) = self.engine.poll(begin, snapshot.flows);
        self.hand_on(begin, &finished);
        self.hand_on(begin, &effects);
        if !ended.is_empty() {
            let finals = self.kernel.take(&ended, begin).context("taking ended flows out of the table")?;
            effects = self.engine.end(begin, &finals);
            self.hand_on(begin, &effects);
        }
        effects = self.engine.tick(begin);
        self.hand_on(begin, &effects);

        let attached = self.kernel.attached().iter().map(|attached| Attached {
            interface: attached.interface.clone(),
            hook: attached.attachment.name(),
            direction: attached.direction.name(),
        });
        let kernel = KernelView {
            totals,
            flows: entries,
            capacity: u64::from(self.capacity),
            attached: attached.collect(),
            drain,
        };
        let mut numbers = self.view.numbers();
        numbers.windows = self.engine.windows(begin);
        numbers.kernel = Some(kernel);
        drop(numbers);
        self.view.agent.polled(clock::now().since(begin));
        Ok(())
    }

    fn hand_on(&self, now: Time, effects: &Effects) {
        let places = Places { services: &self.services, v6_source_prefix: self.v6_source_prefix };
        self.view.numbers().ledger.observe(effects, places, now);
        self.outputs.write(effects, clock::epoch());
    }

    /// Stops counting, makes the last records and writes what waits.
    pub(super) fn stop(mut self, grace: Duration) -> Result<()> {
        self.kernel.detach();
        let read = self.finish().context("reading the flow table a last time");
        let written = self.outputs.close(grace);
        read.and(written)
    }

    fn finish(&mut self) -> Result<()> {
        let now = clock::now();
        let snapshot = self.kernel.read(now)?;
        let finished = self.engine.finish(snapshot.finished);
        let effects = self.engine.shutdown(now, snapshot.flows);
        self.hand_on(now, &finished);
        self.hand_on(now, &effects);
        Ok(())
    }
}

fn load(config: &Config, interfaces: &[Interface]) -> Result<Kernel> {
    let timeouts = &config.engine.timeouts;
    let has = |role| interfaces.iter().any(|interface| interface.role == role);
    let options = LoadOptions {
        flows: config.flow_table,
        local_only: has(Role::Host) && has(Role::Lan),
        external_clock: false,
        silences: SilenceLimits {
            closed: timeouts.closed,
            unanswered: timeouts.unanswered,
            idle: timeouts.idle,
        },
        programs: Programs::All,
    };
    let ports: PortSet = config.engine.services.keys().copied().collect();
    let kernel = Kernel::load(OBJECT, &options, &ports)?;
    info!(flows = options.flows, programs = kernel.programs().count(), "program loaded");
    Ok(kernel)
}
