//! A real Alertmanager, which must not flap.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use mailflow_agent::config::{
    AlertDestination, Receiver as Settings,
    outputs::url::{Url, UrlForm},
};
use mailflow_engine::event::Alert;
use mailflow_test_support::lab::{self, Ns, With};

use crate::{
    http::Receiver,
    peer::{SENTENCE, alert, event, resolved, sink, until},
};

fn alertmanager(url: String, every: Duration) -> AlertDestination {
    let labels = [("site".to_owned(), "berlin".to_owned())].into();
    let url = Url::parse(&url, UrlForm::Base).unwrap();
    AlertDestination::Alertmanager { urls: vec![url], receiver: Settings::default(), labels, every }
}

const SECOND: Duration = Duration::from_secs(1);
/// Time after which the Alertmanager ends an alert without a repeat.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Process that is killed on drop.
pub(crate) struct Program(Child, PathBuf);

impl Program {
    /// Starts a real Alertmanager in a namespace, if one is given. Alerts end after [`RESOLVE_TIMEOUT`]. It
    /// listens on `listen` and notifies `hook` of each alert separately.
    pub(crate) fn start(ns: Option<&Ns>, folder: &Path, listen: SocketAddr, hook: &str) -> Self {
        let package = lab::unpack("prometheus-alertmanager", With::Nothing).unwrap();
        let config = format!(
            "global: {{ resolve_timeout: {timeout}s }}\n\
             route: {{ receiver: hook, group_by: [fingerprint], group_wait: 0s, group_interval: 1s, repeat_interval: 1h }}\n\
             receivers: [{{ name: hook, webhook_configs: [{{ url: \"{hook}\", send_resolved: true }}] }}]\n",
            timeout = RESOLVE_TIMEOUT.as_secs()
        );
        fs::write(folder.join("am.yml"), config).unwrap();
        let log = fs::File::create(folder.join("am.log")).unwrap();
        // Its templates must be in the installation path: a tmpfs in a mount namespace.
        let templates = package.root.join("usr/share/prometheus");
        let script = "cp -r \"$0\" templates && mount -t tmpfs tmpfs /usr/share && cp -r templates /usr/share/prometheus \
                      && exec \"$@\"";
        let mut command = match ns {
            Some(ns) => ns.command("unshare"),
            None => Command::new("unshare"),
        };
        let child = command
            .args(["--mount", "sh", "-c", script])
            .args([templates, package.root.join("usr/bin/prometheus-alertmanager")])
            .args(["--config.file=am.yml", "--storage.path=data", "--cluster.listen-address="])
            .arg(format!("--web.listen-address={listen}"))
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child, folder.join("am.log"))
    }

    /// Returns the log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.1).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a real Alertmanager for three times the resolve timeout: it notifies once that the alert fires, and
/// once that it is resolved.
#[test]
fn real_alertmanager_does_not_flap() {
    let folder = std::env::temp_dir().join(format!("mailflow-am-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let notified = Receiver::anywhere(200);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let program = Program::start(None, &folder, free, &notified.url("/"));

    let firing = alert(1);
    let sink = sink(alertmanager(format!("http://{free}"), SECOND));
    sink.push(event(&firing));
    until("a notification", || !notified.received().is_empty());
    // The time is the subject: an alert without a repeat ends after 2 s.
    let begun = Instant::now();
    while begun.elapsed() < RESOLVE_TIMEOUT * 3 {
        assert_eq!(states(&notified, &firing), ["firing"], "after {:?}", begun.elapsed());
        thread::sleep(Duration::from_millis(100));
    }
    sink.push(event(&resolved(&firing)));
    until("the end", || states(&notified, &firing) == ["firing", "resolved"]);
    // Notifications of an alert are at least a group interval apart. Until another alert has begun and ended, each of
    // them would have come.
    let other = alert(2);
    sink.push(event(&other));
    until("another alert", || states(&notified, &other) == ["firing"]);
    sink.push(event(&resolved(&other)));
    until("its end", || states(&notified, &other) == ["firing", "resolved"]);
    assert_eq!(states(&notified, &firing), ["firing", "resolved"]);
    let alert = &notified.received()[0].body["alerts"][0];
    assert_eq!(alert["labels"]["source"], "10.0.0.9");
    assert_eq!(alert["annotations"]["summary"], SENTENCE);
    assert!(SENTENCE.ends_with(alert["annotations"]["like_a_relay"].as_str().unwrap()));
    let log = program.log();
    drop(program);
    assert!(!log.contains("level=error"), "{log}");
    fs::remove_dir_all(&folder).unwrap();
}

/// Returns the states that the Alertmanager has notified of for an alert.
fn states(notified: &Receiver, alert: &Alert) -> Vec<String> {
    let received = notified.received();
    let of_alert = received
        .iter()
        .filter(|request| request.body["alerts"][0]["labels"]["fingerprint"] == alert.fingerprint);
    of_alert.map(|request| request.body["status"].as_str().unwrap().to_owned()).collect()
}
