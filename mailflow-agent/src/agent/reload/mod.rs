//! A new configuration while the agent runs: all of it, or nothing.

pub(crate) mod apply;

use std::{path::PathBuf, sync::Arc, thread};

use tokio::sync::oneshot;

use crate::{
    config::{AlertTo, Config, FlowTo},
    control::Reply,
};
use mailflow_kernel::capabilities;

/// Where the configuration came from, and how it is read again.
pub struct Source {
    /// Its file; the built-in one without.
    pub file: Option<PathBuf>,
    /// Reads it again, with what the command line said on top; otherwise what is wrong with it.
    pub read: Arc<ReadConfig>,
}

/// Reads a configuration; otherwise returns what is wrong with it.
pub type ReadConfig = dyn Fn() -> Result<Config, Vec<String>> + Send + Sync;

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Source {
    /// The file's name, for people.
    pub(crate) fn name(&self) -> Option<String> {
        self.file.as_ref().map(|file| file.display().to_string())
    }
}

/// The outcome of a thread that reads a configuration.
type Reading = oneshot::Receiver<Result<Config, Vec<String>>>;

/// The client that waits for a reload; none for a signal.
type Waiting = Option<oneshot::Sender<Reply>>;

/// Reads the configuration beside the poll loop, as its lists of networks may be long or slow to come by.
#[derive(Default)]
pub(crate) struct Reload {
    /// The reading in progress, and the clients that wait for it.
    reading: Option<(Reading, Vec<Waiting>)>,
    /// Clients that asked meanwhile: the files may have changed once more.
    next: Vec<Waiting>,
}

impl Reload {
    /// Begins to read, or does so again once the reading that is on has ended.
    pub(crate) fn ask(&mut self, source: &Source, waiting: Waiting) {
        self.next.push(waiting);
        if self.reading.is_none() {
            self.begin(source);
        }
    }

    fn begin(&mut self, source: &Source) {
        let (finished, reading) = oneshot::channel();
        let read = Arc::clone(&source.read);
        let thread = thread::Builder::new().name("reload".into()).spawn(move || {
            capabilities::drop_all();
            // The agent may have ended meanwhile.
            let _ = finished.send(read());
        });
        let reading = match thread {
            Ok(_) => reading,
            Err(error) => refused(format!("no thread to read the configuration: {error}")),
        };
        self.reading = Some((reading, std::mem::take(&mut self.next)));
    }

    /// Returns what was read, once it is. Never returns where nothing is being read.
    pub(crate) async fn read(&mut self) -> Result<Config, Vec<String>> {
        match &mut self.reading {
            Some((reading, _)) => {
                let gone = || Err(vec!["the thread that read the configuration ended".to_owned()]);
                reading.await.unwrap_or_else(|_| gone())
            }
            None => std::future::pending().await,
        }
    }

    /// Answers the clients that waited for the reading that has ended, and reads again for those that came
    /// meanwhile. Returns true if it does.
    pub(crate) fn end(&mut self, source: &Source, outcome: &Result<Vec<String>, Vec<String>>) -> bool {
        let (_, waiting) = self.reading.take().unzip();
        for client in waiting.into_iter().flatten().flatten() {
            let reply = match outcome {
                Ok(changes) => Reply::Reloaded(changes.clone()),
                Err(reasons) => Reply::Refused(reasons.clone()),
            };
            // The client may have disconnected.
            let _ = client.send(reply);
        }
        let again = !self.next.is_empty();
        if again {
            self.begin(source);
        }
        again
    }
}

/// A reading that has failed.
fn refused(why: String) -> Reading {
    let (finished, reading) = oneshot::channel();
    let _ = finished.send(Err(vec![why]));
    reading
}

/// The settings that differ and are read at start only.
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

/// Said where `host` interfaces come to stand beside `lan` ones: the program is loaded for one or the other.
pub(crate) const MIXED: &str = "interfaces: `host` beside `lan`, or no longer: a change needs a restart";

/// What differs otherwise, for people.
pub(crate) fn changes(old: &Config, new: &Config) -> Vec<String> {
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
    let names = |config: &Config| outputs(config).map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
    let (before, after) = (names(old), names(new));
    for (name, output) in outputs(new) {
        match outputs(old).find(|(known, _)| *known == name) {
            None => say(format!("output {name}: opened")),
            Some((_, known)) if known != output => say(format!("output {name}: opened again")),
            Some(_) => {}
        }
    }
    for name in before.iter().filter(|name| !after.contains(name)) {
        say(format!("output {name}: closed"));
    }
    changes
}

/// An output, whatever it is for.
#[derive(PartialEq)]
enum Output<'a> {
    Alerts(&'a AlertTo),
    Flows(&'a FlowTo),
}

/// The outputs by their names, of which no two are equal.
fn outputs(config: &Config) -> impl Iterator<Item = (&str, Output<'_>)> {
    let alerts = config.outputs.alerts.iter().map(|output| (&*output.name, Output::Alerts(&output.to)));
    alerts.chain(config.outputs.flow_log.iter().map(|output| (&*output.name, Output::Flows(&output.to))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn parsed(text: &str) -> Config {
        config::parse("f", text).unwrap()
    }

    /// The reading waits until the test lets it go on, as one of a list on a server that is gone.
    #[tokio::test]
    async fn a_configuration_is_read_beside_the_loop_and_again_for_who_came_meanwhile() {
        use std::sync::{Mutex, mpsc::channel};
        let (release, released) = channel();
        let released = Mutex::new(released);
        let read = move || {
            let text: &str = released.lock().unwrap().recv().unwrap();
            Ok(config::parse("f", text).unwrap())
        };
        let source = Source { file: None, read: Arc::new(read) };
        let mut reload = Reload::default();
        let (one, mut first) = oneshot::channel();
        reload.ask(&source, Some(one));
        let (other, mut second) = oneshot::channel();
        reload.ask(&source, Some(other));
        // The loop turns meanwhile.
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
        assert!(reload.end(&source, &Ok(vec!["poll_interval: 5s".to_owned()])), "read again");
        assert!(matches!(first.try_recv(), Ok(Reply::Reloaded(changes)) if changes.len() == 1));
        assert!(second.try_recv().is_err(), "not answered by the reading before");
        release.send("poll_interval: 7s").unwrap();
        assert_eq!(reload.read().await.unwrap().poll_interval.as_secs(), 7);
        assert!(!reload.end(&source, &Err(vec!["no".to_owned()])));
        assert!(matches!(second.try_recv(), Ok(Reply::Refused(reasons)) if reasons == ["no"]));
    }

    #[test]
    fn what_needs_a_restart_is_named() {
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

    #[test]
    fn outputs_that_change_are_named_and_no_others() {
        let webhook = |name: &str, port: u16| {
            format!("{{ type: webhook, name: {name}, url: \"http://127.0.0.1:{port}\" }}")
        };
        let of = |outputs: &[String]| parsed(&format!("outputs: {{ alerts: [{}] }}", outputs.join(", ")));
        let old = of(&[webhook("a", 1), webhook("b", 1), webhook("c", 1)]);
        let new = of(&[webhook("d", 1), webhook("c", 2), webhook("a", 1)]);
        assert_eq!(changes(&old, &new), ["output d: opened", "output c: opened again", "output b: closed"]);
    }
}
