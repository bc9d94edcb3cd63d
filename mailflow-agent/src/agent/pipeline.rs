//! One poll after the other: snapshot, engine, sinks.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use tracing::info;

use super::{
    cycle,
    delivery::Delivery,
    lists::ListWatch,
    load::{Hosts, load},
    outputs::Outputs,
    report::{self, Room},
    view::View,
};
use crate::{
    clock,
    config::{Config, FlowTable, Role},
    engine::{Engine, event::Effects, settings::Services, time::Time},
    kernel::{self, Kernel, Programs, Verify},
    sink::metrics::Places,
};

/// Everything a poll passes through.
pub(super) struct Pipeline {
    kernel: Kernel,
    engine: Engine,
    sinks: Sinks,
    tables: FlowTable,
    room: Room,
    delivery: Delivery,
    lists: ListWatch,
}

/// Where effects go.
struct Sinks {
    outputs: Outputs,
    view: Arc<View>,
    services: Services,
    v6_source_prefix: u8,
}

impl Sinks {
    fn take(&self, now: Time, effects: &Effects) {
        let places = Places { services: &self.services, v6_source_prefix: self.v6_source_prefix };
        self.view.numbers().ledger.observe(effects, places, now);
        self.outputs.write(effects, clock::epoch());
    }
}

impl Pipeline {
    /// Opens the outputs, loads the program and attaches it: in the order in which failing costs least.
    pub(super) fn start(config: &Config, view: Arc<View>) -> Result<Self> {
        let outputs = Outputs::open(&config.outputs, &view.agent)?;
        let mut interfaces = config.interfaces.clone();
        for interface in &mut interfaces {
            interface.role = kernel::choose_role(&interface.name, interface.role)?;
        }
        let has = |role| interfaces.iter().any(|interface| interface.role == role);
        let hosts = if has(Role::Host) && has(Role::Lan) { Hosts::OwnOnly } else { Hosts::Any };
        let mut kernel = load(config, Programs::All, hosts)?;
        info!(
            flows = config.flow_table.flows,
            programs = kernel.programs().count(),
            kernel_memory = kernel.memory(),
            "program loaded"
        );
        for interface in &interfaces {
            kernel.attach(&interface.name, interface.role, interface.hook)?;
        }
        for rule in &config.engine.rules {
            info!(rule = %rule.name, version = rule.version, "rule");
        }
        Ok(Self {
            kernel,
            engine: Engine::new(config.engine.clone()),
            sinks: Sinks {
                outputs,
                view,
                services: config.engine.services.clone(),
                v6_source_prefix: config.engine.v6_source_prefix,
            },
            tables: config.flow_table,
            room: Room::Enough,
            delivery: Delivery::default(),
            lists: ListWatch::new(config.lists.clone(), &config.engine.internal),
        })
    }

    /// Reads the kernel's table and hands on what follows from it.
    pub(super) fn poll(&mut self) -> Result<()> {
        let now = clock::now();
        let Self { kernel, engine, sinks, tables, room, delivery, lists } = self;
        if let Some(internal) = lists.look(now, &sinks.view.agent) {
            engine.set_internal(internal);
        }
        kernel.follow(now, Verify::WhenDue);
        let before = kernel.totals()?;
        let drain = cycle::look(kernel, engine, now, |effects| sinks.take(now, effects))?;
        let view = report::kernel_view(kernel, &before, tables, delivery, drain)?;
        room.note(&view);
        let mut numbers = sinks.view.numbers();
        numbers.windows = engine.windows(now);
        numbers.kernel = Some(view);
        drop(numbers);
        sinks.view.agent.polled(clock::now().since(now));
        Ok(())
    }

    /// Follows a change of the machine's interfaces.
    pub(super) fn follow(&mut self) {
        let Self { kernel, sinks, .. } = self;
        kernel.follow(clock::now(), Verify::Now);
        if let Some(view) = &mut sinks.view.numbers().kernel {
            view.attached = kernel.places().map(report::shown).collect();
        }
    }

    /// Stops counting, makes the last records and writes what waits.
    pub(super) fn stop(self, grace: Duration) -> Result<()> {
        let Self { mut kernel, mut engine, sinks, .. } = self;
        kernel.detach();
        let now = clock::now();
        let read = cycle::last_look(&mut kernel, &mut engine, now, |effects| sinks.take(now, effects));
        let written = sinks.outputs.close(grace);
        read.and(written)
    }
}
