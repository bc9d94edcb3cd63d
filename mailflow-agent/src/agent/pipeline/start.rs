//! How a pipeline begins: with what an agent before it left, where there is something.

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;
use tracing::{info, warn};

use super::{Pipeline, choose_roles, windows};
use crate::{
    agent::{
        delivery::Delivery,
        keeper::Keeper,
        lists::ListWatch,
        load::{Hosts, load_for_life},
        outputs::Outputs,
        pin_watch::PinWatch,
        report::Room,
        resume,
        sinks::Sinks,
        view::View,
    },
    clock,
    config::{Config, Role},
    engine::Engine,
    kernel::{Begun, Kept, Lookout, PinError, Pins},
    state::{Recovered, Store},
};

impl Pipeline {
    /// Opens the outputs, loads the program and attaches it: in the order in which failing costs least.
    pub(in crate::agent) fn start(
        mut config: Config,
        view: Arc<View>,
        lookout: Option<Lookout>,
    ) -> Result<Self> {
        let pins = pins(&config)?;
        let (store, mut recovered) = match &config.state.directory {
            Some(directory) => {
                let (store, recovered) =
                    Store::open(directory, config.state.limits, clock::unix_seconds() as u64)?;
                (Some(store), recovered)
            }
            None => (None, Recovered::default()),
        };
        let pins = pins.map(|pins| pins.with_state(store.as_ref().and_then(Store::state)));
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
        kernel.leave_others();
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
        let aside = std::mem::take(&mut recovered.notes);
        let mut keeper = Keeper::new(store, kernel.ahead(), recovered.trouble.take(), &config);
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
        let notes = notes(&config, directory, begun).into_iter().chain(aside).collect();
        sinks.view.numbers().settings.notes = notes;
        sinks.view.set_durability(&keeper);
        Ok(Self {
            kernel,
            engine,
            sinks,
            keeper,
            tables: config.flow_table,
            room: Room::Enough,
            delivery: Delivery::default(),
            windows: windows(&config),
            pin_watch: PinWatch::default(),
            lists: ListWatch::new(config.lists.clone(), &config.engine.internal),
            config,
        })
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
