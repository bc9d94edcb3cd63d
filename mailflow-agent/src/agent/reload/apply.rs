//! Applies a new configuration to a running pipeline.

use std::sync::Arc;

use tracing::{error, info, warn};

use crate::{
    agent::{
        network_lists::ListWatch,
        pipeline::{Pipeline, windows},
        program_load::ports,
        reload,
        run::ConfigSource,
    },
    config::{Config, Interface, NamePattern},
    metrics::LoadOutcome,
    outputs::router::FINAL_WRITE_TIMEOUT,
    recovery::state_dir::AlertEventId,
    status::shared_status::ConfigSummary,
    util::error_chain,
};
use mailflow_engine::ReconfigureOutcome;
use mailflow_kernel::clock;
use mailflow_kernel::{self, Kernel, KernelError, Verification};

/// Largest number of warnings in the reply to a reload. All of them are logged.
const MAX_WARNINGS: usize = 20;

impl Pipeline {
    /// Applies a configuration that [`Reload`](super::super::reload::Reload) has read. Returns the changes if
    /// all of it is in force, or the reasons if nothing of it is.
    pub(crate) fn reload(
        &mut self,
        read: Result<Config, Vec<String>>,
        source: &ConfigSource,
    ) -> Result<Vec<String>, Vec<String>> {
        let agent = &Arc::clone(&self.sinks.status).agent;
        match read.and_then(|new| self.apply(new, source)) {
            Ok(changes) => {
                agent.record_config_load(LoadOutcome::Loaded(clock::unix_seconds()));
                info!(?changes, "the configuration was read again");
                Ok(changes)
            }
            Err(reasons) => {
                agent.record_config_load(LoadOutcome::Refused);
                reasons.iter().for_each(|reason| error!("{reason}"));
                error!("the configuration is refused; the one before stays in force");
                Err(reasons)
            }
        }
    }

    fn apply(&mut self, new: Config, source: &ConfigSource) -> Result<Vec<String>, Vec<String>> {
        let expired = new.expired_allow_entries(clock::unix_nanos());
        new.warnings.iter().chain(expired).for_each(|warning| warn!("{warning}"));
        let mut refused = reload::needs_restart(&self.config, &new);
        // Equal interfaces may resolve to other devices by now, as after a change of the default route. That
        // needs no restart.
        let interfaces_changed = new.interfaces != self.config.interfaces;
        let roles_conflict = match self.mixed {
            true => mailflow_kernel::roles_are_host(&new.interfaces),
            false => mailflow_kernel::roles_mix(&new.interfaces, false),
        };
        if interfaces_changed && roles_conflict {
            refused.push(reload::MIXED_ROLES_MESSAGE.to_owned());
        }
        refused.extend(new.interfaces.iter().filter_map(|entry| self.missing_programs(entry)));
        if !refused.is_empty() {
            return Err(refused);
        }
        let mut changes = reload::describe_changes(&self.config, &new);
        // Steps that can fail come first, and are undone if one fails.
        let outputs = self.sinks.outputs.open_changed(&new.outputs, &self.sinks.status.agent);
        let outputs = outputs.map_err(|error| vec![error_chain::format_error_chain(&error.into())])?;
        self.watch_interfaces(&new).map_err(|error| vec![error.to_string()])?;
        self.sinks.outputs.watch(&self.kernel.entry_bindings());
        let firing = self.engine.firing_with_relay_hints();
        self.sinks.outputs.replace(outputs, &firing, FINAL_WRITE_TIMEOUT, &self.sinks.status.agent);
        let now = clock::now();
        let ReconfigureOutcome { restarted, effects } = self.engine.reconfigure(now, new.engine.clone());
        self.keeper.track_alerts(effects.alerts.iter().map(AlertEventId::of));
        self.sinks.route((now, clock::epoch()), &effects);
        self.sinks.status.publish_firing(&self.engine);
        let warnings = new.warnings.iter().take(MAX_WARNINGS);
        changes.extend(warnings.map(|warning| format!("warning: {warning}")));
        changes.extend(restarted.iter().map(|rule| format!("rule {rule}: its windows start empty")));
        self.lists = ListWatch::new(new.lists.clone(), &new.engine.internal);
        self.sinks.status.lists_in_force(new.engine.internal.networks().len());
        self.windows = windows(&new);
        self.sinks.services = new.engine.services.clone();
        self.keeper.apply_config(&new);
        // Inputs that the old rules evaluated must not be replayed into the new rules.
        self.keeper.write_checkpoint(&self.kernel, &self.engine, now, &self.sinks);
        let mut summary = ConfigSummary::of(&new, source.name());
        let mut numbers = self.sinks.status.snapshot();
        summary.notes = std::mem::take(&mut numbers.settings.notes);
        summary.warnings = std::mem::take(&mut numbers.settings.warnings);
        numbers.settings = summary;
        drop(numbers);
        self.config = new;
        Ok(changes)
    }

    /// Returns the reason why an entry cannot be watched before a restart: a role of which no program is loaded.
    /// The agent has no capability left to load it.
    fn missing_programs(&self, entry: &Interface) -> Option<String> {
        let missing = entry.role.possible().iter().find(|role| !self.kernel.has_programs_of(**role))?;
        let (interface, role) = (&entry.name, missing.name());
        Some(format!(
            "interfaces: {interface}: the role `{role}`, which no interface had at the start, needs a restart"
        ))
    }

    /// Watches the interfaces and ports of `new`. Restores the previous ones on failure.
    fn watch_interfaces(&mut self, new: &Config) -> Result<(), KernelError> {
        let Self { config: old, kernel, .. } = self;
        let result = switch_interfaces(kernel, old, new);
        if result.is_err()
            && let Err(error) = switch_interfaces(kernel, new, old)
        {
            error!(%error, "failed to watch the previous interfaces again");
        }
        result
    }
}

/// Watches the interfaces and ports of `new` instead of `old`. Leaves interfaces in both unchanged.
fn switch_interfaces(kernel: &mut Kernel, old: &Config, new: &Config) -> Result<(), KernelError> {
    let is_new = |entry: &&Interface| !old.interfaces.contains(entry);
    let is_pattern = |entry: &&Interface| NamePattern::is_pattern(&entry.name);
    let (patterns, named): (Vec<_>, Vec<_>) = new.interfaces.iter().filter(is_new).partition(is_pattern);
    for entry in named.into_iter().chain(patterns) {
        kernel.unwatch(&entry.name);
        kernel.attach(&entry.name, entry.role, entry.hook)?;
    }
    let removed = |name: &str| !new.interfaces.iter().any(|interface| interface.name == name);
    for interface in old.interfaces.iter().filter(|interface| removed(&interface.name)) {
        kernel.unwatch(&interface.name);
    }
    // An interface that a removed entry has released may match a pattern.
    kernel.follow_interfaces(clock::now(), Verification::WhenDue);
    kernel.set_ports(&ports(new))?;
    kernel.set_timeouts(&new.engine.timeouts)
}
