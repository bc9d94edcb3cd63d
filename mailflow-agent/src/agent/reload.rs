//! A new configuration while the agent runs: all of it, or nothing.

use std::path::PathBuf;

use crate::config::Config;

/// Where the configuration came from, and how it is read again.
pub struct Source {
    /// Its file; the built-in one without.
    pub file: Option<PathBuf>,
    /// Reads it again, with what the command line said on top; otherwise what is wrong with it.
    pub read: Box<dyn Fn() -> Result<Config, Vec<String>> + Send>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Source {
    /// The file's name, for people.
    pub(super) fn name(&self) -> Option<String> {
        self.file.as_ref().map(|file| file.display().to_string())
    }
}

/// The settings that differ and are read at start only.
pub(super) fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let differs: [(&str, bool); 11] = [
        ("flow_table.flows", old.flow_table.flows != new.flow_table.flows),
        ("flow_table.source_share_percent", old.flow_table.share_percent != new.flow_table.share_percent),
        ("flow_table.overflow_sources", old.flow_table.overflow != new.flow_table.overflow),
        ("sources.ipv6_prefix", old.engine.v6_source_prefix != new.engine.v6_source_prefix),
        ("outputs.metrics.listen", old.outputs.metrics != new.outputs.metrics),
        ("outputs.metrics.max_sources", old.outputs.max_sources != new.outputs.max_sources),
        ("outputs.metrics.max_windows", old.outputs.max_windows != new.outputs.max_windows),
        ("outputs.metrics.web_config", old.outputs.web_config != new.outputs.web_config),
        ("control.socket", old.control != new.control),
        ("state.directory", old.state.directory != new.state.directory),
        ("state.pins", old.state.pins != new.state.pins),
    ];
    let named = differs.into_iter().filter(|(_, differs)| *differs);
    named.map(|(setting, _)| format!("{setting}: a change needs a restart")).collect()
}

/// Said where `host` interfaces come to stand beside `lan` ones: the program is loaded for one or the other.
pub(super) const MIXED: &str = "interfaces: `host` beside `lan`, or no longer: a change needs a restart";

/// What differs otherwise, for people.
pub(super) fn changes(old: &Config, new: &Config) -> Vec<String> {
    let mut changes = Vec::new();
    let mut say = |change: String| changes.push(change);
    for interface in &new.interfaces {
        match old.interfaces.iter().find(|known| known.name == interface.name) {
            None => say(format!("interface {}: watched from now on", interface.name)),
            Some(known) if known != interface => say(format!("interface {}: attached anew", interface.name)),
            Some(_) => {}
        }
    }
    let gone = |name: &String| !new.interfaces.iter().any(|interface| interface.name == *name);
    for name in old.interfaces.iter().map(|interface| &interface.name).filter(|name| gone(name)) {
        say(format!("interface {name}: not watched any more"));
    }
    let ports = |config: &Config| config.engine.services.keys().copied().collect::<Vec<u16>>();
    if ports(old) != ports(new) {
        say(format!("watched ports: {:?}", ports(new)));
    } else if old.engine.services != new.engine.services {
        say("watched ports: other services".to_owned());
    }
    if old.poll_interval != new.poll_interval {
        say(format!("poll_interval: {:?}", new.poll_interval));
    }
    if old.engine.timeouts != new.engine.timeouts {
        say("timeouts: changed".to_owned());
    }
    if old.engine.internal.networks() != new.engine.internal.networks() {
        say(format!("internal networks: {} lines", new.engine.internal.networks().len()));
    }
    for rule in &new.engine.rules {
        match old.engine.rules.iter().find(|known| known.name == rule.name) {
            None => say(format!("rule {}: evaluated from now on", rule.name)),
            Some(known) if known != rule => say(format!("rule {}: changed", rule.name)),
            Some(_) => {}
        }
    }
    let gone = |name: &str| !new.engine.rules.iter().any(|rule| *rule.name == *name);
    for rule in old.engine.rules.iter().filter(|rule| gone(&rule.name)) {
        say(format!("rule {}: not evaluated any more", rule.name));
    }
    if old.outputs != new.outputs {
        say("outputs: opened anew".to_owned());
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn parsed(text: &str) -> Config {
        config::parse("f", text).unwrap()
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let old = parsed("{}");
        assert_eq!(needs_restart(&old, &parsed("poll_interval: 5s")), Vec::<String>::new());
        for (text, setting) in [
            ("flow_table: { flows: 7 }", "flow_table.flows"),
            ("flow_table: { source_share_percent: 7 }", "flow_table.source_share_percent"),
            ("flow_table: { overflow_sources: 7 }", "flow_table.overflow_sources"),
            ("sources: { ipv6_prefix: 56 }", "sources.ipv6_prefix"),
            ("outputs: { metrics: { listen: off } }", "outputs.metrics.listen"),
            ("outputs: { metrics: { max_sources: 7 } }", "outputs.metrics.max_sources"),
            ("outputs: { metrics: { max_windows: 7 } }", "outputs.metrics.max_windows"),
            ("control: { socket: off }", "control.socket"),
            ("state: { directory: off }", "state.directory"),
            ("state: { pins: off }", "state.pins"),
        ] {
            let refused = needs_restart(&old, &parsed(text));
            assert_eq!(refused.len(), 1, "{text}: {refused:?}");
            assert!(
                refused[0].starts_with(setting) && refused[0].ends_with("needs a restart"),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn what_changes_is_told() {
        let old = parsed("interfaces: [{ name: a }, { name: b, role: lan }]");
        let new = parsed(
            "interfaces: [{ name: b, role: mirror }, { name: c }]\npoll_interval: 5s\nwatched_ports: { smtp: [25, 26] }",
        );
        let changes = changes(&old, &new);
        assert_eq!(
            changes[..3],
            [
                "interface b: attached anew",
                "interface c: watched from now on",
                "interface a: not watched any more"
            ]
        );
        assert!(
            changes[3].starts_with("watched ports: [25, 26, ") && changes[4] == "poll_interval: 5s",
            "{changes:?}"
        );
        // They name the service, and so its new port.
        let rules = ["smtp-burst", "smtp-bulk", "smtp-auth-guess"];
        assert_eq!(changes[5..], rules.map(|rule| format!("rule {rule}: changed")));
    }
}
