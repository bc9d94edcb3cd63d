//! How a pipeline begins: with what an agent before it left, where there is something.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;
use tracing::{info, warn};

use super::{
    network_lists::ListWatch,
    pin_watch::PinWatch,
    pipeline::{Pipeline, windows},
    program_load::{Hosts, load_for_life},
};
use crate::{
    config::{Config, NamePattern},
    outputs::{gateway::Gateway, router::Sinks, set::Outputs},
    recovery::{
        checkpointer::Keeper,
        restore,
        store::{Recovered, Store},
    },
    status::{
        duplicate_detector::Delivery, kernel_snapshot::Room, shared_status::View,
        unlisted_networks::InsideWatch,
    },
};
use mailflow_engine::Engine;
use mailflow_kernel::clock;
use mailflow_kernel::{self, HookQueryHelper, MapOrigin, PinError, Pins, ReaderCheckpoint};

impl Pipeline {
    /// Opens the outputs, loads the program and attaches it: in the order in which failing costs least.
    pub(crate) fn start(config: Config, view: Arc<View>, lookout: Option<HookQueryHelper>) -> Result<Self> {
        let pins = pins(&config)?;
        let (store, mut recovered) = match &config.state.directory {
            Some(directory) => {
                let (store, recovered) =
                    Store::open(directory, config.state.limits, clock::unix_seconds() as u64)?;
                (Some(store), recovered)
            }
            None => (None, Recovered::default()),
        };
        let pins = pins.map(|pins| pins.with_checkpoint_time(store.as_ref().and_then(Store::state)));
        let gateway = Gateway::new(config.gateway_name.as_deref());
        let outputs = Outputs::open(&config.outputs, &view.agent, gateway)?;
        let mixed = mailflow_kernel::roles_mix(&config.interfaces, true);
        let hosts = if mixed { Hosts::OwnOnly } else { Hosts::Any };
        let kept = recovered
            .state
            .as_mut()
            .map(|state| (state.generation, ReaderCheckpoint::from(std::mem::take(&mut state.tables))));
        let kept = kept.as_ref().and_then(|(generation, kept)| Some(((*generation)?, kept)));
        let directory = pins.as_ref().map(Pins::directory);
        let private = pins.as_ref().is_some_and(Pins::are_private);
        let (mut kernel, begun) = load_for_life(&config, hosts, pins, kept)?;
        info!(
            flows = config.flow_table.flows,
            programs = kernel.programs().count(),
            half_open_percent = config.flow_table.half_open_percent,
            overflow_sources = config.flow_table.overflow,
            kernel_memory = kernel.memory(),
            "program loaded"
        );
        if let Some(lookout) = lookout {
            kernel.set_hook_query_helper(lookout);
        }
        // Names first: where a pattern matches an interface too, the entry with its name decides.
        let (patterns, named): (Vec<_>, _) =
            config.interfaces.iter().partition(|entry| NamePattern::is_pattern(&entry.name));
        for entry in named.into_iter().chain(patterns) {
            kernel.attach(&entry.name, entry.role, entry.hook)?;
        }
        kernel.detach_unwatched();
        outputs.watch(&kernel.entry_bindings());
        for rule in &config.engine.rules {
            info!(rule = %rule.name, version = rule.version, "rule");
        }
        let limits = config.engine.limits;
        info!(
            subjects = limits.subjects,
            memory = limits.memory,
            alerts_per_minute = limits.alerts_per_minute,
            flood_sources = limits.flood_sources,
            "limits of each rule"
        );
        let mut engine = Engine::new(config.engine.clone());
        engine.set_epoch(clock::epoch());
        let sinks = Sinks {
            outputs,
            view,
            services: config.engine.services.clone(),
            v6_source_prefix: config.engine.v6_source_prefix,
        };
        let aside = std::mem::take(&mut recovered.notes);
        let mut keeper =
            Keeper::new(store, kernel.stale_checkpoint_mark(), recovered.trouble.take(), &config);
        kernel.migrate(clock::now(), kept)?;
        restore::resume(&mut kernel, begun, &mut engine, &sinks, &mut keeper, recovered)?;
        let (now, left) = (clock::now(), kernel.take_unmigrated());
        for effects in [
            engine.finish(&left.superseded),
            engine.look_last(now, &left.flows),
            engine.overflow(&left.overflow),
        ] {
            sinks.take((now, clock::epoch()), &effects);
        }
        // No time passes before the tables are read: flows that ended meanwhile may keep an alert up.
        // What was told just now is in no journal: it is written before the tables and the state of before go.
        sinks.wait_until_written();
        keeper.mark();
        keeper.keep(&kernel, &engine, now, &sinks);
        kernel.remove_old_maps();
        let mut numbers = sinks.view.numbers();
        numbers.settings.notes =
            notes(&config, directory.clone().map(|directory| (directory, private)), begun);
        numbers.settings.notes.extend(aside);
        if let Some(directory) = directory.filter(|_| private) {
            let warning = private_pins(&directory);
            warn!("{warning}");
            numbers.settings.warnings.push(warning);
        }
        drop(numbers);
        sinks.view.set_durability(keeper.durability(), keeper.usage());
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
            mixed,
            inside: InsideWatch::default(),
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

/// Returns the warning about pins that end with the mount namespace.
fn private_pins(directory: &Path) -> String {
    format!(
        "the pins in {} do not outlive the agent: their BPF file system is in a mount namespace of its own, as `ip netns \
         exec` makes one; start the agent with `nsenter --net=/run/netns/NAME`, or set state.pins to a directory of a \
         BPF file system that is mounted outside",
        directory.display()
    )
}

/// What there is to say of what outlives the agent.
fn notes(config: &Config, pins: Option<(PathBuf, bool)>, begun: MapOrigin) -> Vec<String> {
    let begun = match begun {
        MapOrigin::Reused => "taken over",
        MapOrigin::Migrated => "with the open flows of others",
        MapOrigin::Fresh => "begun empty",
    };
    let pins = match pins {
        Some((pins, false)) => format!("tables pinned in {}, {begun}", pins.display()),
        Some((pins, true)) => {
            format!("tables pinned in {}, {begun}; they end with this mount namespace", pins.display())
        }
        None => "tables not pinned: they end with the agent".to_owned(),
    };
    let state = match &config.state.directory {
        Some(directory) => format!("state in {}", directory.display()),
        None => "no state: windows end with the agent".to_owned(),
    };
    vec![pins, state, format!("at stop: {}", config.state.at_stop.name())]
}
