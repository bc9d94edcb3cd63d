//! Overrides of the configuration by the command line.

use std::fmt;

use super::args::{BacktestArgs, ReplayArgs, RunArgs};
use crate::config::{AtStop, Config, Interface, Target, scalar::Switch};
use mailflow_engine::settings::{Match, Service};

/// Error: no interface to watch is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoInterfaceError {
    /// Interfaces of this machine.
    pub present: Vec<String>,
}

impl fmt::Display for NoInterfaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "no interface to watch: name one with `run --interface NAME` or under `interfaces` in the \
             configuration",
        )?;
        if !self.present.is_empty() {
            write!(f, "; this machine has {}", self.present.join(", "))?;
        }
        Ok(())
    }
}

impl std::error::Error for NoInterfaceError {}

/// Applies `args` to `config`. `--interface` replaces the configured list. An interface that is configured,
/// by name or by a pattern, keeps its role and hook unless they are given too. Other interfaces have the role
/// and hook `auto`.
pub fn apply(config: &mut Config, args: RunArgs) -> Result<(), NoInterfaceError> {
    let RunArgs { interfaces, role, hook, flow_log, alerts, metrics, poll_interval, kernel_log, .. } = args;
    if !interfaces.is_empty() {
        config.interfaces =
            interfaces.into_iter().map(|name| interface_named(&config.interfaces, name)).collect();
    }
    if config.interfaces.is_empty() {
        return Err(NoInterfaceError { present: interface_names() });
    }
    for interface in &mut config.interfaces {
        interface.role = role.unwrap_or(interface.role);
        interface.hook = hook.unwrap_or(interface.hook);
    }
    if let Some(target) = flow_log {
        config.outputs.set_flow_log(target.into());
    }
    if let Some(target) = alerts {
        config.outputs.set_alerts(target.into());
    }
    if let Some(address) = metrics {
        config.outputs.metrics = address.into();
    }
    if let Some(socket) = args.control {
        config.control.socket = socket.into();
    }
    if let Some(directory) = args.state {
        config.state.directory = directory.into();
    }
    if let Some(pins) = args.pins {
        config.state.pins = pins.into();
    }
    if args.keep {
        config.state.at_stop = AtStop::Keep;
    }
    config.outputs.set_dead_letter_files(config.state.directory.as_deref());
    config.poll_interval = poll_interval.unwrap_or(config.poll_interval);
    config.kernel_log = kernel_log;
    Ok(())
}

/// Applies a replay's `args` to `config`.
pub fn apply_replay(config: &mut Config, args: &ReplayArgs) {
    config.kernel_log = args.kernel_log;
    if let Some(target) = &args.flow_log {
        config.outputs.set_flow_log(target.clone().into());
    }
    if let Some(target) = &args.alerts {
        config.outputs.set_alerts(target.clone().into());
    }
    if !args.ports.is_empty() {
        // A port that is not configured is assumed to be an operator's own SMTP port.
        let configured = std::mem::take(&mut config.engine.services);
        let service = |port: &u16| configured.get(port).copied().unwrap_or(Service::Smtp);
        config.engine.services = args.ports.iter().map(|port| (*port, service(port))).collect();
        // A rule that names a service includes all of its ports.
        for rule in config.engine.rules.iter_mut().chain(&mut config.disabled_rules) {
            let Match { ports, services, .. } = &mut rule.matching;
            let named = config.engine.services.iter().filter(|(_, service)| services.contains(service));
            ports.extend(named.map(|(port, _)| *port));
            ports.sort_unstable();
            ports.dedup();
        }
    }
}

/// Applies a backtest's `args` to `config`. A backtest never writes to the agent's own outputs, unless an
/// argument names them.
pub fn apply_backtest(config: &mut Config, args: &BacktestArgs) {
    config.outputs.set_flow_log(None);
    config.outputs.alerts.clear();
    config.outputs.set_alerts(args.alerts.clone().unwrap_or(Switch::To(Target::Stdout)).into());
}

fn interface_named(configured: &[Interface], name: String) -> Interface {
    let matches = |entry: &&Interface| entry.pattern().is_some_and(|pattern| pattern.matches(&name));
    let known =
        configured.iter().find(|entry| entry.name == name).or_else(|| configured.iter().find(matches));
    let (role, hook) = known.map(|entry| (entry.role, entry.hook)).unwrap_or_default();
    Interface { name, role, hook }
}

/// Returns the machine's interfaces, except the loopback.
fn interface_names() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/class/net") else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| name != "lo").collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{self, Hook, Role};

    fn configured() -> Config {
        let text = "interfaces: [{ name: eth1, role: lan, hook: xdp }, { name: eth2 }]";
        config::parse("f", text).unwrap()
    }

    fn interface(name: &str, role: Role, hook: Hook) -> Interface {
        Interface { name: name.to_owned(), role, hook }
    }

    #[test]
    fn no_arguments_change_nothing() {
        let mut config = configured();
        apply(&mut config, RunArgs::default()).unwrap();
        assert_eq!(config.interfaces, configured().interfaces);
        assert_eq!(config.outputs, configured().outputs);
        assert_eq!(config.poll_interval, configured().poll_interval);
    }

    #[test]
    fn interface_arguments_replace_the_list() {
        let mut config = configured();
        let interfaces = vec!["eth1".to_owned(), "wg0".to_owned()];
        apply(&mut config, RunArgs { interfaces, hook: Some(Hook::Tc), ..RunArgs::default() }).unwrap();
        assert_eq!(
            config.interfaces,
            [interface("eth1", Role::Lan, Hook::Tc), interface("wg0", Role::Auto, Hook::Tc)]
        );
    }

    #[test]
    fn interface_argument_uses_exact_entry_then_pattern() {
        let text = "interfaces: [{ name: 'ppp*', role: lan, hook: tc }, { name: ppp9, role: host }]";
        let mut config = config::parse("f", text).unwrap();
        let interfaces = ["ppp3", "ppp9", "re:^wg", "ppp*"].map(str::to_owned).to_vec();
        apply(&mut config, RunArgs { interfaces, ..RunArgs::default() }).unwrap();
        assert_eq!(
            config.interfaces,
            [
                interface("ppp3", Role::Lan, Hook::Tc),
                interface("ppp9", Role::Host, Hook::Auto),
                interface("re:^wg", Role::Auto, Hook::Auto),
                interface("ppp*", Role::Lan, Hook::Tc)
            ]
        );
    }

    #[test]
    fn replay_ports_extend_rules_of_their_service() {
        let mut config = config::parse("f", "{}").unwrap();
        let args = ReplayArgs {
            captures: Vec::new(),
            flow_log: None,
            alerts: None,
            ports: vec![25, 2525, 143],
            role: Role::Mirror,
            kernel_log: None,
            drain: false,
        };
        apply_replay(&mut config, &args);
        for rule in config.engine.rules.iter().chain(&config.disabled_rules) {
            assert_eq!(rule.matching.ports, [25, 465, 587, 994, 2525], "{}", rule.name);
        }
    }

    #[test]
    fn role_argument_applies_to_configured_interfaces() {
        let mut config = configured();
        apply(&mut config, RunArgs { role: Some(Role::Mirror), ..RunArgs::default() }).unwrap();
        assert_eq!(
            config.interfaces,
            [interface("eth1", Role::Mirror, Hook::Xdp), interface("eth2", Role::Mirror, Hook::Auto)]
        );
    }

    #[test]
    fn output_arguments_override() {
        let mut config = configured();
        let args = RunArgs {
            flow_log: Some(Switch::To(Target::Stdout)),
            alerts: Some(Switch::Off),
            metrics: Some(Switch::Off),
            poll_interval: Some(Duration::from_secs(5)),
            ..RunArgs::default()
        };
        apply(&mut config, args).unwrap();
        assert!(config.outputs.to_stdout());
        assert_eq!(config.outputs.flow_log.len(), 1);
        assert_eq!((config.outputs.alerts, config.outputs.metrics), (vec![], None));
        assert_eq!(config.poll_interval, Duration::from_secs(5));
    }

    #[test]
    fn file_argument_keeps_other_outputs() {
        let text = "outputs: { alerts: [a.json, { type: journal }] }\ninterfaces: [{ name: eth1 }]";
        let mut config = config::parse("f", text).unwrap();
        let alerts = Some(Switch::To(Target::File("b.json".into())));
        apply(&mut config, RunArgs { alerts, ..RunArgs::default() }).unwrap();
        let names: Vec<_> = config.outputs.alerts.iter().map(|output| output.name.as_str()).collect();
        assert_eq!(names, ["alerts_journal", "alerts"]);
        config.outputs.retain_file_alerts();
        assert_eq!(config.outputs.alerts.len(), 1);
    }

    #[test]
    fn backtest_writes_only_to_named_outputs() {
        let mut config = configured();
        config.outputs.set_flow_log(Some(Target::File("flows".into())));
        config.outputs.set_alerts(Some(Target::File("alerts".into())));
        let mut args =
            BacktestArgs { logs: Vec::new(), alerts: None, reading: Default::default(), drain: false };
        apply_backtest(&mut config, &args);
        assert!(config.outputs.to_stdout());
        assert_eq!((config.outputs.alerts.len(), config.outputs.flow_log.len()), (1, 0));
        args.alerts = Some(Switch::Off);
        apply_backtest(&mut config, &args);
        assert_eq!(config.outputs.alerts, []);
    }

    #[test]
    fn missing_interface_error_names_the_options() {
        let mut config = config::load(None).unwrap();
        let error = apply(&mut config, RunArgs::default()).unwrap_err();
        assert!(error.to_string().contains("run --interface NAME"), "{error}");
        let error = NoInterfaceError { present: vec!["eth0".to_owned(), "eth1".to_owned()] };
        assert!(error.to_string().ends_with("this machine has eth0, eth1"), "{error}");
    }
}
