//! Reload of the configuration while the agent runs: all of it, or nothing.

pub(crate) mod apply;

use std::{path::PathBuf, sync::Arc, thread};

use tokio::sync::oneshot;

use crate::{
    config::{AlertDestination, Config, FlowDestination},
    control::Reply,
};
use mailflow_kernel::capabilities;

/// Source of the configuration, and the function that reads it again.
pub struct ConfigSource {
    /// Path of the file; `None` for the built-in configuration.
    pub file: Option<PathBuf>,
    /// Function that reads the configuration again, with the options of the command line.
    pub read: Arc<ReadConfig>,
}

/// Function that reads a configuration. Returns its faults on failure.
pub type ReadConfig = dyn Fn() -> Result<Config, Vec<String>> + Send + Sync;

impl std::fmt::Debug for ConfigSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("file", &self.file).finish_non_exhaustive()
    }
}

impl ConfigSource {
    /// Returns the name of the file.
    pub(crate) fn name(&self) -> Option<String> {
        self.file.as_ref().map(|file| file.display().to_string())
    }
}

/// Result of the thread that reads a configuration.
type PendingConfig = oneshot::Receiver<Result<Config, Vec<String>>>;

/// Client that waits for a reload; `None` for a signal.
type ReloadClient = Option<oneshot::Sender<Reply>>;

/// Reader of a new configuration in a thread, as lists of networks may be long or slow to read.
#[derive(Default)]
pub(crate) struct Reload {
    /// Read in progress, and the clients that wait for it.
    reading: Option<(PendingConfig, Vec<ReloadClient>)>,
    /// Clients that asked during the read. The files may have changed since, so they need another read.
    next: Vec<ReloadClient>,
}

impl Reload {
    /// Starts a read, or queues one for the end of the read in progress.
    pub(crate) fn request(&mut self, source: &ConfigSource, client: ReloadClient) {
        self.next.push(client);
        if self.reading.is_none() {
            self.begin(source);
        }
    }

    fn begin(&mut self, source: &ConfigSource) {
        let (finished, reading) = oneshot::channel();
        let read = Arc::clone(&source.read);
        let thread = thread::Builder::new().name("reload".into()).spawn(move || {
            capabilities::drop_all();
            // The agent may have ended meanwhile.
            let _ = finished.send(read());
        });
        let reading = match thread {
            Ok(_) => reading,
            Err(error) => failed_reading(format!("no thread to read the configuration: {error}")),
        };
        self.reading = Some((reading, std::mem::take(&mut self.next)));
    }

    /// Returns the result of the read in progress. Never returns if there is none.
    pub(crate) async fn read(&mut self) -> Result<Config, Vec<String>> {
        match &mut self.reading {
            Some((reading, _)) => {
                let ended = || Err(vec!["the thread that read the configuration ended".to_owned()]);
                reading.await.unwrap_or_else(|_| ended())
            }
            None => std::future::pending().await,
        }
    }

    /// Answers the clients of the finished read, and starts another one for clients that asked during the
    /// read. Returns true if it starts one.
    pub(crate) fn finish(
        &mut self,
        source: &ConfigSource,
        outcome: &Result<Vec<String>, Vec<String>>,
    ) -> bool {
        let (_, client) = self.reading.take().unzip();
        for client in client.into_iter().flatten().flatten() {
            let reply = match outcome {
                Ok(changes) => Reply::Reloaded(changes.clone()),
                Err(reasons) => Reply::Refused(reasons.clone()),
            };
            // The client may have disconnected.
            let _ = client.send(reply);
        }
        let restart = !self.next.is_empty();
        if restart {
            self.begin(source);
        }
        restart
    }
}

/// Returns a read that has failed.
fn failed_reading(reason: String) -> PendingConfig {
    let (finished, reading) = oneshot::channel();
    let _ = finished.send(Err(vec![reason]));
    reading
}

/// Returns the settings that differ, and that apply at a start only.
pub(crate) fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let differs: [(&str, bool); 13] = [
        ("gateway_name", old.gateway_name != new.gateway_name),
        ("flow_table.flows", old.flow_table.flows != new.flow_table.flows),
        ("flow_table.source_share_percent", old.flow_table.share_percent != new.flow_table.share_percent),
        ("flow_table.overflow_sources", old.flow_table.overflow != new.flow_table.overflow),
        (
            "flow_table.half_open_percent",
            old.flow_table.half_open_percent != new.flow_table.half_open_percent,
        ),
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

/// Message for a change that mixes `host` and `lan` interfaces, or ends the mix: the program is loaded for
/// one of the two.
pub(crate) const MIXED_ROLES_MESSAGE: &str =
    "interfaces: a change to or from both `host` and `lan` needs a restart";

/// Describes all other differences.
pub(crate) fn describe_changes(old: &Config, new: &Config) -> Vec<String> {
    let mut changes = Vec::new();
    let mut add = |change: String| changes.push(change);
    for interface in &new.interfaces {
        match old.interfaces.iter().find(|previous| previous.name == interface.name) {
            None => add(format!("interface {}: watched from now on", interface.name)),
            Some(previous) if previous != interface => {
                add(format!("interface {}: attached again", interface.name))
            }
            Some(_) => {}
        }
    }
    let removed = |name: &String| !new.interfaces.iter().any(|interface| interface.name == *name);
    for name in old.interfaces.iter().map(|interface| &interface.name).filter(|name| removed(name)) {
        add(format!("interface {name}: not watched any more"));
    }
    let ports = |config: &Config| config.engine.services.keys().copied().collect::<Vec<u16>>();
    if ports(old) != ports(new) {
        add(format!("watched ports: {:?}", ports(new)));
    } else if old.engine.services != new.engine.services {
        add("watched ports: other services".to_owned());
    }
    if old.poll_interval != new.poll_interval {
        add(format!("poll_interval: {:?}", new.poll_interval));
    }
    if old.engine.timeouts != new.engine.timeouts {
        add("timeouts: changed".to_owned());
    }
    if old.engine.internal.networks() != new.engine.internal.networks() {
        add(format!("internal networks: {} lines", new.engine.internal.networks().len()));
    }
    for rule in &new.engine.rules {
        match old.engine.rules.iter().find(|previous| previous.name == rule.name) {
            None => add(format!("rule {}: evaluated from now on", rule.name)),
            Some(previous) if previous != rule => add(format!("rule {}: changed", rule.name)),
            Some(_) => {}
        }
    }
    let removed = |name: &str| !new.engine.rules.iter().any(|rule| *rule.name == *name);
    for rule in old.engine.rules.iter().filter(|rule| removed(&rule.name)) {
        add(format!("rule {}: not evaluated any more", rule.name));
    }
    let names = |config: &Config| outputs(config).map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
    let (before, after) = (names(old), names(new));
    for (name, output) in outputs(new) {
        match outputs(old).find(|(previous, _)| *previous == name) {
            None => add(format!("output {name}: opened")),
            Some((_, previous)) if previous != output => add(format!("output {name}: opened again")),
            Some(_) => {}
        }
    }
    for name in before.iter().filter(|name| !after.contains(name)) {
        add(format!("output {name}: closed"));
    }
    changes
}

/// Target of an output of alerts or flows.
#[derive(PartialEq)]
enum OutputTarget<'a> {
    Alerts(&'a AlertDestination),
    Flows(&'a FlowDestination),
}

/// Returns the outputs and their names, which are unique.
fn outputs(config: &Config) -> impl Iterator<Item = (&str, OutputTarget<'_>)> {
    let alerts = config.outputs.alerts.iter().map(|output| (&*output.name, OutputTarget::Alerts(&output.to)));
    alerts
        .chain(config.outputs.flow_log.iter().map(|output| (&*output.name, OutputTarget::Flows(&output.to))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn parsed(text: &str) -> Config {
        config::parse("f", text).unwrap()
    }

    /// The read waits for the test, as that of a list on a server that does not answer.
    #[tokio::test]
    async fn a_configuration_is_read_outside_of_the_loop_and_again_for_later_clients() {
        use std::sync::{Mutex, mpsc::channel};
        let (release, released) = channel();
        let released = Mutex::new(released);
        let read = move || {
            let text: &str = released.lock().unwrap().recv().unwrap();
            Ok(config::parse("f", text).unwrap())
        };
        let source = ConfigSource { file: None, read: Arc::new(read) };
        let mut reload = Reload::default();
        let (one, mut first) = oneshot::channel();
        reload.request(&source, Some(one));
        let (other, mut second) = oneshot::channel();
        reload.request(&source, Some(other));
        // The poll loop continues meanwhile.
        for _ in 0..10 {
            tokio::select! {
                biased;
                _ = reload.read() => panic!("nothing was read yet"),
                () = tokio::task::yield_now() => {}
            }
        }
        release.send("poll_interval: 5s").unwrap();
        let config = reload.read().await.unwrap();
        assert_eq!(config.poll_interval.as_secs(), 5);
        assert!(reload.finish(&source, &Ok(vec!["poll_interval: 5s".to_owned()])), "read again");
        assert!(matches!(first.try_recv(), Ok(Reply::Reloaded(changes)) if changes.len() == 1));
        assert!(second.try_recv().is_err(), "not answered by the reading before");
        release.send("poll_interval: 7s").unwrap();
        assert_eq!(reload.read().await.unwrap().poll_interval.as_secs(), 7);
        assert!(!reload.finish(&source, &Err(vec!["no".to_owned()])));
        assert!(matches!(second.try_recv(), Ok(Reply::Refused(reasons)) if reasons == ["no"]));
    }

    #[test]
    fn settings_that_need_a_restart_are_named() {
        let old = parsed("{}");
        assert_eq!(needs_restart(&old, &parsed("poll_interval: 5s")), Vec::<String>::new());
        for (text, setting) in [
            ("gateway_name: gw1", "gateway_name"),
            ("flow_table: { flows: 7 }", "flow_table.flows"),
            ("flow_table: { source_share_percent: 7 }", "flow_table.source_share_percent"),
            ("flow_table: { overflow_sources: 7 }", "flow_table.overflow_sources"),
            ("flow_table: { half_open_percent: 7 }", "flow_table.half_open_percent"),
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
    fn changes_are_described() {
        let old = parsed("interfaces: [{ name: a }, { name: b, role: lan }]");
        let new = parsed(
            "interfaces: [{ name: b, role: mirror }, { name: c }]\npoll_interval: 5s\nwatched_ports: { smtp: [25, 26] }",
        );
        let changes = describe_changes(&old, &new);
        assert_eq!(
            changes[..3],
            [
                "interface b: attached again",
                "interface c: watched from now on",
                "interface a: not watched any more"
            ]
        );
        assert!(
            changes[3].starts_with("watched ports: [25, 26, ") && changes[4] == "poll_interval: 5s",
            "{changes:?}"
        );
        // These rules refer to the service, and so to its new port.
        let rules = ["smtp-burst", "smtp-bulk", "smtp-auth-guess"];
        assert_eq!(changes[5..], rules.map(|rule| format!("rule {rule}: changed")));
    }

    #[test]
    fn only_changed_outputs_are_named() {
        let webhook = |name: &str, port: u16| {
            format!("{{ type: webhook, name: {name}, url: \"http://127.0.0.1:{port}\" }}")
        };
        let of = |outputs: &[String]| parsed(&format!("outputs: {{ alerts: [{}] }}", outputs.join(", ")));
        let old = of(&[webhook("a", 1), webhook("b", 1), webhook("c", 1)]);
        let new = of(&[webhook("d", 1), webhook("c", 2), webhook("a", 1)]);
        assert_eq!(
            describe_changes(&old, &new),
            ["output d: opened", "output c: opened again", "output b: closed"]
        );
    }
}
