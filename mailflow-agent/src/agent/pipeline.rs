//! One poll after the other: snapshot, engine, sinks.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use tracing::{error, info, warn};

use super::{
    GRACE, Source, cycle,
    delivery::Delivery,
    lists::ListWatch,
    load::{Hosts, load, ports},
    outputs::Outputs,
    reload,
    report::{self, Room},
    view::{Shown, View},
};
use crate::{
    clock,
    config::{Config, FlowTable, Role},
    engine::{Engine, Reconfigured, event::Effects, settings::Services, time::Time},
    kernel::{self, Kernel, KernelError, Programs, Verify},
    sink::metrics::{Load, Places},
};

/// Everything a poll passes through.
pub(super) struct Pipeline {
    /// What is in force.
    config: Config,
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
        let mut numbers = self.view.numbers();
        numbers.ledger.observe(effects, places, now);
        numbers.firing.take(&effects.alerts);
        drop(numbers);
        self.outputs.write(effects, clock::epoch());
    }
}

impl Pipeline {
    /// Opens the outputs, loads the program and attaches it: in the order in which failing costs least.
    pub(super) fn start(mut config: Config, view: Arc<View>) -> Result<Self> {
        let outputs = Outputs::open(&config.outputs, &view.agent)?;
        choose_roles(&mut config)?;
        let has = |role| config.interfaces.iter().any(|interface| interface.role == role);
        let hosts = if has(Role::Host) && has(Role::Lan) { Hosts::OwnOnly } else { Hosts::Any };
        let mut kernel = load(&config, Programs::All, hosts)?;
        info!(
            flows = config.flow_table.flows,
            programs = kernel.programs().count(),
            kernel_memory = kernel.memory(),
            "program loaded"
        );
        for interface in &config.interfaces {
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
            config,
        })
    }

    /// What is known of flows and sources.
    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Reads the kernel's table and hands on what follows from it.
    pub(super) fn poll(&mut self) -> Result<()> {
        let now = clock::now();
        let Self { kernel, engine, sinks, tables, room, delivery, lists, .. } = self;
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

    /// How often to poll.
    pub(super) fn poll_interval(&self) -> Duration {
        self.config.poll_interval
    }

    /// Reads the configuration again. Either all of it is in force then, with what changed in words, or
    /// nothing of it, with the reasons.
    pub(super) fn reload(&mut self, source: &Source) -> Result<Vec<String>, Vec<String>> {
        let agent = &Arc::clone(&self.sinks.view).agent;
        match self.read_again(source) {
            Ok(changes) => {
                agent.config_loaded(Load::Good(clock::unix_seconds()));
                info!(?changes, "the configuration was read again");
                Ok(changes)
            }
            Err(reasons) => {
                agent.config_loaded(Load::Refused);
                reasons.iter().for_each(|reason| error!("{reason}"));
                error!("the configuration is refused; the one before stays in force");
                Err(reasons)
            }
        }
    }

    fn read_again(&mut self, source: &Source) -> Result<Vec<String>, Vec<String>> {
        let mut new = (source.read)()?;
        let over = new.over(clock::unix_nanos());
        new.warnings.iter().chain(over).for_each(|warning| warn!("{warning}"));
        choose_roles(&mut new).map_err(|error| vec![error.to_string()])?;
        let refused = reload::needs_restart(&self.config, &new);
        if !refused.is_empty() {
            return Err(refused);
        }
        let mut changes = reload::changes(&self.config, &new);
        // What may fail comes first, and is taken back if it does.
        let reopened = new.outputs != self.config.outputs;
        let outputs = reopened.then(|| Outputs::open(&new.outputs, &self.sinks.view.agent)).transpose();
        let outputs = outputs.map_err(|error| vec![format!("{error:#}")])?;
        self.watch(&new).map_err(|error| vec![error.to_string()])?;
        if let Some(outputs) = outputs {
            outputs.follow(&self.sinks.outputs);
            let before = std::mem::replace(&mut self.sinks.outputs, outputs);
            if let Err(error) = before.close(GRACE) {
                warn!(%error, "the outputs before");
            }
        }
        let now = clock::now();
        let Reconfigured { restarted, effects } = self.engine.reconfigure(now, new.engine.clone());
        self.sinks.take(now, &effects);
        changes.extend(restarted.iter().map(|rule| format!("rule {rule}: its windows begin anew")));
        self.lists = ListWatch::new(new.lists.clone(), &new.engine.internal);
        self.sinks.services = new.engine.services.clone();
        let mut shown = Shown::of(&new, source.name());
        let mut numbers = self.sinks.view.numbers();
        shown.notes = std::mem::take(&mut numbers.settings.notes);
        numbers.settings = shown;
        drop(numbers);
        self.config = new;
        Ok(changes)
    }

    /// Watches other interfaces and ports from now on; if that fails, those as before.
    fn watch(&mut self, new: &Config) -> Result<(), KernelError> {
        let Self { config: old, kernel, .. } = self;
        let result = rewatch(kernel, old, new);
        if result.is_err()
            && let Err(error) = rewatch(kernel, new, old)
        {
            error!(%error, "and the interfaces before cannot be watched as they were");
        }
        result
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

/// The roles that are to be chosen.
fn choose_roles(config: &mut Config) -> Result<(), KernelError> {
    for interface in &mut config.interfaces {
        interface.role = kernel::choose_role(&interface.name, interface.role)?;
    }
    Ok(())
}

/// Watches what `new` names instead of what `old` does. What both name is left alone.
fn rewatch(kernel: &mut Kernel, old: &Config, new: &Config) -> Result<(), KernelError> {
    for interface in &new.interfaces {
        if !old.interfaces.contains(interface) {
            kernel.unwatch(&interface.name);
            kernel.attach(&interface.name, interface.role, interface.hook)?;
        }
    }
    let gone = |name: &str| !new.interfaces.iter().any(|interface| interface.name == name);
    for interface in old.interfaces.iter().filter(|interface| gone(&interface.name)) {
        kernel.unwatch(&interface.name);
    }
    kernel.watch_ports(&ports(new))?;
    kernel.set_silences(&(&new.engine.timeouts).into())
}
