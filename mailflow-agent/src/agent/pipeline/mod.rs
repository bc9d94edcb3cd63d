//! One poll after the other: snapshot, engine, sinks.

use std::{path::PathBuf, sync::Arc, thread, time::Duration};

use anyhow::Result;
use tracing::{error, info, warn};

use super::{
    GRACE, Source, cycle,
    delivery::Delivery,
    firing::FiringAlerts,
    keeper::Keeper,
    lists::ListWatch,
    load::{Hosts, load_for_life, ports},
    outputs::Outputs,
    reload,
    report::{self, Room},
    resume,
    view::{Shown, View},
    windows::Windows,
};
use crate::{
    clock,
    config::{Config, FlowTable, Role},
    control::Firing,
    engine::{
        Engine, Reconfigured,
        event::{Alert, Effects},
        settings::Services,
        time::{Epoch, Time},
    },
    fault,
    kernel::{self, Begun, Kept, Kernel, KernelError, Lookout, PinError, Pins, Verify},
    sink::metrics::{Load, Memory, Places},
    state::{Entry, Recovered, Store, Told, Written},
};

/// Between two looks whether all is written.
const PAUSE: Duration = Duration::from_millis(5);

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
    windows: Windows,
    lists: ListWatch,
    keeper: Keeper,
}

/// Where effects go.
pub(super) struct Sinks {
    outputs: Outputs,
    view: Arc<View>,
    services: Services,
    v6_source_prefix: u8,
}

impl Sinks {
    /// Books effects without writing lines.
    pub(super) fn book(&self, now: Time, effects: &Effects) {
        let places = Places { services: &self.services, v6_source_prefix: self.v6_source_prefix };
        self.view.numbers().ledger.observe(effects, places, now);
    }

    /// These alerts fire, as another process told.
    pub(super) fn resume_alerts(&self, firing: Vec<(u64, Firing)>) {
        let mut numbers = self.view.numbers();
        for (_, alert) in &firing {
            numbers.ledger.resume(&alert.rule, &alert.fingerprint);
        }
        numbers.firing = FiringAlerts::of(firing);
    }

    /// Takes note of alerts that are told again, or were told by another process.
    pub(super) fn told(&self, alerts: &[Alert]) {
        self.view.numbers().firing.take(alerts);
    }

    /// Where alerts and records go.
    pub(super) fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    /// Waits until all lines are written, as far as that is possible within a grace.
    fn wait_until_written(&self) {
        let begin = clock::now();
        while !self.outputs.is_written() && clock::now().since(begin) < GRACE {
            thread::sleep(PAUSE);
        }
    }

    /// The alerts that fire, for the agent after this one.
    pub(super) fn firing(&self) -> Vec<(u64, Firing)> {
        self.view.numbers().firing.saved()
    }

    fn take(&self, (now, epoch): (Time, Epoch), effects: &Effects) {
        let places = Places { services: &self.services, v6_source_prefix: self.v6_source_prefix };
        let mut numbers = self.view.numbers();
        numbers.ledger.observe(effects, places, now);
        numbers.firing.take(&effects.alerts);
        drop(numbers);
        self.outputs.write(effects, epoch);
    }
}

impl Pipeline {
    /// Opens the outputs, loads the program and attaches it: in the order in which failing costs least.
    pub(super) fn start(mut config: Config, view: Arc<View>, lookout: Option<Lookout>) -> Result<Self> {
        let pins = pins(&config)?;
        let (store, mut recovered) = match &config.state.directory {
            Some(directory) => Store::open(directory).map(|(store, recovered)| (Some(store), recovered))?,
            None => (None, Recovered::default()),
        };
        let outputs = Outputs::open(&config.outputs, &view.agent)?;
        choose_roles(&mut config)?;
        let has = |role| config.interfaces.iter().any(|interface| interface.role == role);
        let hosts = if has(Role::Host) && has(Role::Lan) { Hosts::OwnOnly } else { Hosts::Any };
        let kept = recovered
            .state
            .as_mut()
            .map(|state| (state.generation, Kept::from(std::mem::take(&mut state.tables))));
        let kept = kept.as_ref().and_then(|(generation, kept)| Some(((*generation)?, kept)));
        let directory = pins.as_ref().map(Pins::directory);
        let (mut kernel, begun) = load_for_life(&config, hosts, pins, kept)?;
        info!(
            flows = config.flow_table.flows,
            programs = kernel.programs().count(),
            kernel_memory = kernel.memory(),
            "program loaded"
        );
        if let Some(lookout) = lookout {
            kernel.look_through(lookout);
        }
        for interface in &config.interfaces {
            kernel.attach(&interface.name, interface.role, interface.hook)?;
        }
        for rule in &config.engine.rules {
            info!(rule = %rule.name, version = rule.version, "rule");
        }
        let mut engine = Engine::new(config.engine.clone());
        engine.set_epoch(clock::epoch());
        let sinks = Sinks {
            outputs,
            view,
            services: config.engine.services.clone(),
            v6_source_prefix: config.engine.v6_source_prefix,
        };
        let mut keeper = Keeper::new(store, &config);
        kernel.carry(clock::now(), kept)?;
        resume::resume(&mut kernel, begun, &mut engine, &sinks, &mut keeper, recovered)?;
        let (now, left) = (clock::now(), kernel.take_left());
        for effects in [
            engine.finish(&left.finished),
            engine.look_last(now, &left.flows),
            engine.overflow(&left.spilled),
        ] {
            sinks.take((now, clock::epoch()), &effects);
        }
        // No time passes before the tables are read: flows that ended meanwhile may keep an alert up.
        // What was told just now is in no journal: it is written before the tables and the state of before go.
        sinks.wait_until_written();
        keeper.mark();
        keeper.keep(&kernel, &engine, now, &sinks);
        kernel.forget_left();
        sinks.view.numbers().settings.notes = notes(&config, directory, begun);
        Ok(Self {
            kernel,
            engine,
            sinks,
            keeper,
            tables: config.flow_table,
            room: Room::Enough,
            delivery: Delivery::default(),
            windows: windows(&config),
            lists: ListWatch::new(config.lists.clone(), &config.engine.internal),
            config,
        })
    }

    /// Who looks at the hooks.
    pub(super) fn lookout(&self) -> Option<&Lookout> {
        self.kernel.lookout()
    }

    /// What is known of flows and sources.
    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Reads the kernel's table and hands on what follows from it.
    pub(super) fn poll(&mut self) -> Result<()> {
        let begin = clock::now();
        let Self { kernel, engine, sinks, tables, room, delivery, lists, keeper, windows, .. } = self;
        keeper.look_at(sinks);
        if let Some(internal) = lists.look(begin, &sinks.view.agent) {
            engine.set_internal(internal);
            // What was judged by the list before is not to be judged again by this one.
            keeper.keep(kernel, engine, begin, sinks);
        }
        let now = clock::now();
        let moment = (now, clock::epoch());
        kernel.follow(now, Verify::WhenDue);
        let before = kernel.totals()?;
        // The wall clock may have been set: hours and the ends of allow-lists are its.
        engine.set_epoch(moment.1);
        let drain = cycle::look(kernel, engine, keeper, moment, |effects| sinks.take(moment, effects))?;
        keeper.over(kernel, engine, now, sinks);
        let view = report::kernel_view(kernel, &before, tables, delivery, drain)?;
        room.note(&view);
        let shown = windows.show(engine, now);
        let (rules, thresholds) = (engine.rule_counts(), engine.thresholds());
        let memory = Memory { stats: engine.stats(), rules, thresholds };
        let mut numbers = sinks.view.numbers();
        if let Some(shown) = shown {
            numbers.windows = shown;
        }
        numbers.kernel = Some(view);
        numbers.memory = Some(memory);
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
        let outputs = outputs.map_err(|error| vec![fault::told(&error.into())])?;
        self.watch(&new).map_err(|error| vec![error.to_string()])?;
        if let Some(outputs) = outputs {
            let mut before = std::mem::replace(&mut self.sinks.outputs, outputs);
            if let Err(error) = before.close(GRACE) {
                warn!(%error, "the outputs before");
            }
            let untold = before.untold();
            // Namesakes share their numbers: the new ones begin at none that wait.
            before.give_up();
            self.sinks.outputs.follow(&before);
            // An output of the same name goes on with what its namesake could not deliver.
            self.sinks.outputs.write_untold(&untold, &mut Written::default());
        }
        let now = clock::now();
        let Reconfigured { restarted, effects } = self.engine.reconfigure(now, new.engine.clone());
        self.keeper.tell(effects.alerts.iter().map(Told::of));
        self.sinks.take((now, clock::epoch()), &effects);
        changes.extend(restarted.iter().map(|rule| format!("rule {rule}: its windows begin anew")));
        self.lists = ListWatch::new(new.lists.clone(), &new.engine.internal);
        self.windows = windows(&new);
        self.sinks.services = new.engine.services.clone();
        self.keeper.configure(&new);
        // What the rules before judged is not to be judged again by these.
        self.keeper.keep(&self.kernel, &self.engine, now, &self.sinks);
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

    /// The programs are not to count on after the stop, whatever the configuration says.
    pub(super) fn detach_at_stop(&mut self) {
        self.kernel.detach_at_stop();
    }

    /// Stops counting, makes the last records and writes what waits.
    pub(super) fn stop(self, grace: Duration) -> Result<()> {
        let Self { mut kernel, mut engine, mut sinks, mut keeper, .. } = self;
        let now = clock::now();
        let moment = (now, clock::epoch());
        let stays = kernel.stays();
        let take = |effects: &Effects| sinks.take(moment, effects);
        let read = if stays {
            cycle::look(&mut kernel, &mut engine, &mut keeper, moment, take).map(drop)
        } else {
            kernel.detach();
            cycle::last_look(&mut kernel, &mut engine, &mut keeper, moment, take)
        };
        // As after every poll.
        let _ = keeper.note(vec![Entry::Over]);
        let written = sinks.outputs.close(grace);
        keeper.look_at(&sinks);
        if stays {
            keeper.keep(&kernel, &engine, now, &sinks);
            info!("the programs stay and count on");
            kernel.leave();
        } else {
            kernel.unpin();
            keeper.keep(&kernel, &engine, now, &sinks);
        }
        read.and(written)
    }
}

/// The directory of the pins, where there is to be one. Without a BPF file system the agent runs without.
fn pins(config: &Config) -> Result<Option<Pins>> {
    let Some(root) = &config.state.pins else { return Ok(None) };
    if config.state.directory.is_none() {
        warn!("nothing is pinned, as there is no state directory to go with it");
        return Ok(None);
    }
    match Pins::open(root) {
        Ok(pins) => Ok(Some(pins)),
        Err(error @ PinError::NoFileSystem { .. }) => {
            warn!(%error, "nothing is pinned: what is counted while no agent runs is lost");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The windows from the beginning, as these settings ask for them.
fn windows(config: &Config) -> Windows {
    Windows::new(config.outputs.max_windows, config.poll_interval)
}

/// What there is to say of what outlives the agent.
fn notes(config: &Config, pins: Option<PathBuf>, begun: Begun) -> Vec<String> {
    let pins = match (pins, begun) {
        (Some(pins), Begun::Resumed) => format!("tables pinned in {}, taken over", pins.display()),
        (Some(pins), Begun::Carried) => {
            format!("tables pinned in {}, with the open flows of others", pins.display())
        }
        (Some(pins), Begun::Anew) => format!("tables pinned in {}, begun empty", pins.display()),
        (None, _) => "tables not pinned: they end with the agent".to_owned(),
    };
    let state = match &config.state.directory {
        Some(directory) => format!("state in {}", directory.display()),
        None => "no state: windows end with the agent".to_owned(),
    };
    vec![pins, state, format!("at stop: {}", config.state.at_stop.name())]
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
