//! Start of the pipeline, with the state of the previous process if there is one.

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
    program_load::{HostScope, load_pinned},
};
use crate::{
    config::{Config, NamePattern},
    outputs::{gateway::Gateway, router::EffectRouter, set::OutputSet},
    recovery::{
        checkpointer::Checkpointer,
        restore,
        state_dir::{RecoveredState, StateDir},
    },
    status::{
        duplicate_detector::DuplicateDetector, kernel_snapshot::TablePressure, shared_status::SharedStatus,
        unlisted_networks::InsideNetworkMonitor,
    },
};
use mailflow_engine::Engine;
use mailflow_kernel::clock;
use mailflow_kernel::{self, HookQueryHelper, MapOrigin, PinError, Pins};

impl Pipeline {
    /// Opens the outputs, loads the program and attaches it. Steps whose failure costs least come first.
    pub(crate) fn start(
        config: Config,
        view: Arc<SharedStatus>,
        hook_helper: Option<HookQueryHelper>,
    ) -> Result<Self> {
        let pins = open_pins(&config)?;
        let (state_dir, mut recovered) = match &config.state.directory {
            Some(directory) => {
                let (state_dir, recovered) =
                    StateDir::open(directory, config.state.limits, clock::unix_seconds() as u64)?;
                (Some(state_dir), recovered)
            }
            None => (None, RecoveredState::default()),
        };
        let pins = pins
            .map(|pins| pins.with_checkpoint_time(state_dir.as_ref().and_then(StateDir::checkpoint_time)));
        let gateway = Gateway::new(config.gateway_name.as_deref());
        let outputs = OutputSet::open(&config.outputs, &view.agent, gateway)?;
        let mixed = mailflow_kernel::roles_mix(&config.interfaces, true);
        let hosts = if mixed { HostScope::OwnOnly } else { HostScope::Any };
        let kernel_checkpoint = recovered
            .checkpoint
            .as_ref()
            .and_then(|checkpoint| Some((checkpoint.flow_table_id?, &checkpoint.kernel)));
        let directory = pins.as_ref().map(Pins::directory);
        let private = pins.as_ref().is_some_and(Pins::are_private);
        let (mut kernel, map_origin) = load_pinned(&config, hosts, pins, kernel_checkpoint)?;
        info!(
            flows = config.flow_table.flows,
            programs = kernel.programs().count(),
            half_open_percent = config.flow_table.half_open_percent,
            overflow_sources = config.flow_table.overflow,
            kernel_memory = kernel.memory(),
            "program loaded"
        );
        if let Some(hook_helper) = hook_helper {
            kernel.set_hook_query_helper(hook_helper);
        }
        // Names come before patterns: the entry with the name of an interface decides, even if a pattern
        // matches too.
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
            subjects = limits.groups,
            memory = limits.memory,
            alerts_per_minute = limits.alerts_per_minute,
            flood_sources = limits.flood_sources,
            "limits of each rule"
        );
        let mut engine = Engine::new(config.engine.clone());
        engine.set_clock_offset(clock::epoch());
        let sinks = EffectRouter {
            outputs,
            status: view,
            services: config.engine.services.clone(),
            v6_source_prefix: config.engine.v6_source_prefix,
        };
        let unusable_files = std::mem::take(&mut recovered.notes);
        let mut checkpointer = Checkpointer::new(
            state_dir,
            kernel.stale_checkpoint_mark(),
            recovered.write_error.take(),
            &config,
        );
        kernel.migrate(clock::now(), kernel_checkpoint)?;
        restore::restore(&mut kernel, map_origin, &mut engine, &sinks, &mut checkpointer, recovered)?;
        let (now, unmigrated) = (clock::now(), kernel.take_unmigrated());
        for effects in [
            engine.finish_superseded(&unmigrated.superseded),
            engine.observe_final_batch(now, &unmigrated.flows),
            engine.observe_overflow(&unmigrated.overflow),
        ] {
            sinks.route((now, clock::epoch()), &effects);
        }
        // Time advances with the first poll, not here, as flows that ended meanwhile may keep an alert firing.
        // The effects above are in no journal, so their lines are written before the old maps and the old
        // checkpoint are removed.
        sinks.wait_until_written();
        checkpointer.mark_output_offsets();
        checkpointer.write_checkpoint(&kernel, &engine, now, &sinks);
        kernel.remove_old_maps();
        let mut numbers = sinks.status.snapshot();
        numbers.settings.notes =
            state_notes(&config, directory.clone().map(|directory| (directory, private)), map_origin);
        numbers.settings.notes.extend(unusable_files);
        if let Some(directory) = directory.filter(|_| private) {
            let warning = private_pins_warning(&directory);
            warn!("{warning}");
            numbers.settings.warnings.push(warning);
        }
        drop(numbers);
        sinks.status.set_durability(checkpointer.durability(), checkpointer.usage());
        Ok(Self {
            kernel,
            engine,
            sinks,
            keeper: checkpointer,
            tables: config.flow_table,
            room: TablePressure::Normal,
            delivery: DuplicateDetector::default(),
            windows: windows(&config),
            pin_watch: PinWatch::default(),
            lists: ListWatch::new(config.lists.clone(), &config.engine.internal),
            config,
            mixed,
            inside: InsideNetworkMonitor::default(),
        })
    }
}

/// Opens the directory of the pins, if one is configured. Returns `None` without a BPF file system.
fn open_pins(config: &Config) -> Result<Option<Pins>> {
    let Some(root) = &config.state.pins else { return Ok(None) };
    if config.state.directory.is_none() {
        warn!("nothing is pinned, as there is no state directory");
        return Ok(None);
    }
    match Pins::open(root) {
        Ok(pins) => Ok(Some(pins)),
        Err(error @ PinError::NoFileSystem { .. }) => {
            warn!(%error, "nothing is pinned; packets are not counted while no agent runs");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the warning about pins that end with the mount namespace.
fn private_pins_warning(directory: &Path) -> String {
    format!(
        "the pins in {} do not outlive the agent: their BPF file system is in a mount namespace of its own, as `ip netns \
         exec` makes one; start the agent with `nsenter --net=/run/netns/NAME`, or set state.pins to a directory of a \
         BPF file system that is mounted outside",
        directory.display()
    )
}

/// Returns notes for the status about the state that outlives the process.
fn state_notes(config: &Config, pins: Option<(PathBuf, bool)>, map_origin: MapOrigin) -> Vec<String> {
    let map_origin = match map_origin {
        MapOrigin::Reused => "reused",
        MapOrigin::Migrated => "with the open flows of an earlier layout",
        MapOrigin::Fresh => "new and empty",
    };
    let pins = match pins {
        Some((pins, false)) => format!("tables pinned in {}, {map_origin}", pins.display()),
        Some((pins, true)) => {
            format!("tables pinned in {}, {map_origin}; they end with this mount namespace", pins.display())
        }
        None => "tables not pinned: they end with the agent".to_owned(),
    };
    let state = match &config.state.directory {
        Some(directory) => format!("state in {}", directory.display()),
        None => "no state: windows end with the agent".to_owned(),
    };
    vec![pins, state, format!("at stop: {}", config.state.at_stop.name())]
}
