//! A new configuration for a pipeline that runs.

use std::sync::Arc;

use tracing::{error, info, warn};

use crate::{
    agent::{
        network_lists::ListWatch,
        pipeline::{Pipeline, windows},
        program_load::ports,
        reload,
        run::Source,
    },
    config::{Config, Interface, NamePattern},
    metrics::Load,
    outputs::router::GRACE,
    recovery::store::Told,
    status::shared_status::Shown,
    util::error_chain,
};
use mailflow_engine::Reconfigured;
use mailflow_kernel::clock;
use mailflow_kernel::{self, Kernel, KernelError, Verification};

/// Warnings that a reload answers with; all of them are in the log.
const MAX_WARNINGS: usize = 20;

impl Pipeline {
    /// Puts a configuration into force that was read beside the poll loop ([`Reload`](super::super::reload::Reload)).
    /// Either all of it is in force then, with what changed in words, or nothing of it, with the reasons.
    pub(crate) fn reload(
        &mut self,
        read: Result<Config, Vec<String>>,
        source: &Source,
    ) -> Result<Vec<String>, Vec<String>> {
        let agent = &Arc::clone(&self.sinks.view).agent;
        match read.and_then(|new| self.renew(new, source)) {
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

    fn renew(&mut self, new: Config, source: &Source) -> Result<Vec<String>, Vec<String>> {
        let over = new.over(clock::unix_nanos());
        new.warnings.iter().chain(over).for_each(|warning| warn!("{warning}"));
        let mut refused = reload::needs_restart(&self.config, &new);
        // The same interfaces may be taken otherwise by now: a default route leaves elsewhere. That changes nothing.
        let other = new.interfaces != self.config.interfaces;
        let misfits = match self.mixed {
            true => mailflow_kernel::roles_are_host(&new.interfaces),
            false => mailflow_kernel::roles_mix(&new.interfaces, false),
        };
        if other && misfits {
            refused.push(reload::MIXED.to_owned());
        }
        if !refused.is_empty() {
            return Err(refused);
        }
        let mut changes = reload::changes(&self.config, &new);
        // What may fail comes first, and is taken back if it does.
        let outputs = self.sinks.outputs.prepare(&new.outputs, &self.sinks.view.agent);
        let outputs = outputs.map_err(|error| vec![error_chain::told(&error.into())])?;
        self.watch(&new).map_err(|error| vec![error.to_string()])?;
        self.sinks.outputs.watch(&self.kernel.entry_bindings());
        self.sinks.outputs.renew(outputs, GRACE, &self.sinks.view.agent);
        let now = clock::now();
        let Reconfigured { restarted, effects } = self.engine.reconfigure(now, new.engine.clone());
        self.keeper.tell(effects.alerts.iter().map(Told::of));
        self.sinks.take((now, clock::epoch()), &effects);
        let warnings = new.warnings.iter().take(MAX_WARNINGS);
        changes.extend(warnings.map(|warning| format!("warning: {warning}")));
        changes.extend(restarted.iter().map(|rule| format!("rule {rule}: its windows begin anew")));
        self.lists = ListWatch::new(new.lists.clone(), &new.engine.internal);
        self.sinks.view.lists_in_force(new.engine.internal.networks().len());
        self.windows = windows(&new);
        self.sinks.services = new.engine.services.clone();
        self.keeper.configure(&new);
        // What the rules before judged is not to be judged again by these.
        self.keeper.keep(&self.kernel, &self.engine, now, &self.sinks);
        let mut shown = Shown::of(&new, source.name());
        let mut numbers = self.sinks.view.numbers();
        shown.notes = std::mem::take(&mut numbers.settings.notes);
        shown.warnings = std::mem::take(&mut numbers.settings.warnings);
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
}

/// Watches what `new` names instead of what `old` does. What both name is left alone.
fn rewatch(kernel: &mut Kernel, old: &Config, new: &Config) -> Result<(), KernelError> {
    let is_new = |entry: &&Interface| !old.interfaces.contains(entry);
    let is_pattern = |entry: &&Interface| NamePattern::is_pattern(&entry.name);
    let (patterns, named): (Vec<_>, Vec<_>) = new.interfaces.iter().filter(is_new).partition(is_pattern);
    for entry in named.into_iter().chain(patterns) {
        kernel.unwatch(&entry.name);
        kernel.attach(&entry.name, entry.role, entry.hook)?;
    }
    let gone = |name: &str| !new.interfaces.iter().any(|interface| interface.name == name);
    for interface in old.interfaces.iter().filter(|interface| gone(&interface.name)) {
        kernel.unwatch(&interface.name);
    }
    // What an entry has let go of may match a pattern.
    kernel.follow_interfaces(clock::now(), Verification::WhenDue);
    kernel.set_ports(&ports(new))?;
    kernel.set_timeouts(&new.engine.timeouts)
}
