//! Gateway whose wall clock is wrong, or set while alerts fire, with a real Alertmanager.
//!
//! Debian's libfaketime, unpacked and preloaded, shifts `CLOCK_REALTIME` of the agent at run time, without
//! the monotonic clock. A time namespace shifts only the latter.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use mailflow_test_support::lab::{self, Agent, With, agent_binary, wait_for};
use serde_json::Value;

use crate::{alertmanager::Program, gateway::Gateway, http::Receiver};

const PATIENCE: Duration = Duration::from_secs(90);

/// Returns the path of the unpacked library.
fn library() -> PathBuf {
    let root = lab::unpack("libfaketime", With::Nothing).unwrap().root.join("usr/lib");
    let folders = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut found =
        folders.map(|folder| folder.join("faketime/libfaketime.so.1")).filter(|file| file.is_file());
    found.next().unwrap()
}

/// Shifts the agent's wall clock by this many seconds.
fn shift(file: &Path, seconds: i64) {
    let new = file.with_extension("new");
    fs::write(&new, format!("{seconds:+}\n")).unwrap();
    fs::rename(new, file).unwrap();
}

/// Agent under test and its receivers.
struct Scene {
    gateway: Gateway,
    agent: Agent,
    offset: PathBuf,
    notified: Receiver,
    _manager: Program,
}

impl Scene {
    fn start(seconds: i64) -> Self {
        let gateway = Gateway::new(3);
        let folder = gateway.lab.folder().to_owned();
        let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let inside = &gateway.lab.gateway;
        let notified = inside.enter(|| Receiver::start(local, 200)).unwrap();
        let listen = inside.enter(|| TcpListener::bind(local).unwrap().local_addr().unwrap()).unwrap();
        let manager = Program::start(Some(inside), &folder, listen, &notified.url("/"));
        let text = format!(
            "interfaces: [{{ name: lan0, role: lan }}]\ntimeouts: {{ closed: 500ms, idle: 60s, unanswered: 2s }}\n\
             rules:\n  - name: many\n    match: {{ applications: [smtp, other], size: {{ test: count, up: 1, down: 1 }} }}\n    \
             window: {{ length: 10s }}\n    condition: {{ count: {{ at_least: 3 }} }}\n    \
             resolve: {{ below: 2, after: 1s }}\n\
             outputs:\n  alerts:\n    - {{ type: alertmanager, urls: [\"http://{listen}\"], every: 1s }}\n    \
             - {{ type: file, path: {ocsf}, profile: ocsf }}\n",
            ocsf = folder.join("ocsf.jsonl").display()
        );
        fs::write(folder.join("clock.yaml"), text).unwrap();
        let offset = folder.join("offset");
        shift(&offset, seconds);
        let options = format!("--config {} --poll-interval 200ms", folder.join("clock.yaml").display());
        let (library, file) = (library(), offset.clone());
        let environment = [
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ];
        let binary = agent_binary().unwrap();
        let agent =
            Agent::start_as_configured(inside, &binary, &folder, "agent", &options, &environment).unwrap();
        Self { gateway, agent, offset, notified, _manager: manager }
    }

    fn fire(&self) {
        (0..3).for_each(|_| _ = self.gateway.send());
    }

    /// Waits until the Alertmanager has notified of exactly these states.
    fn expect(&self, what: &str, states: &[&str]) {
        let notified = || -> Vec<String> {
            let received = self.notified.received();
            received.iter().map(|one| one.body["status"].as_str().unwrap().to_owned()).collect()
        };
        wait_for(what, PATIENCE, || Ok((notified().len() >= states.len()).then_some(())))
            .unwrap_or_else(|error| panic!("{error:#}: {:?}\n{}", notified(), self.agent.log()));
        assert_eq!(notified(), states, "{what}\n{}", self.agent.log());
    }

    /// Returns the findings so far.
    fn findings(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.gateway.lab.folder().join("ocsf.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn wrong_or_stepped_clock_delays_and_ends_no_notification() {
    // Five minutes slow.
    let scene = Scene::start(-300);
    scene.fire();
    scene.expect("slow by 300 s: it fires", &["firing"]);
    // Set back by an hour while the alert fires: the Alertmanager would end an alert after 2 s without a
    // repeat.
    shift(&scene.offset, -3_900);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(scene.notified.received().len(), 1, "it goes on firing: {}", scene.agent.log());
    let mut told = vec!["firing", "resolved"];
    scene.expect("set back by an hour: it has ended", &told);
    // Set forward by an hour while another alert fires.
    shift(&scene.offset, 0);
    scene.fire();
    told.push("firing");
    scene.expect("right: it fires", &told);
    shift(&scene.offset, 3_600);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(scene.notified.received().len(), 3, "it goes on firing: {}", scene.agent.log());
    told.push("resolved");
    scene.expect("set forward by an hour: it has ended", &told);
    // An unmodified alert that begins while the clock is an hour ahead would be refused: its start is after
    // its end.
    scene.fire();
    told.push("firing");
    scene.expect("an hour ahead: it fires", &told);
    let metrics = scene.agent.metrics().unwrap();
    let value = |name: &str| -> f64 {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(&format!("{name}{{output=\"alerts_alertmanager\"}}")));
        line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    assert!(value("mailflow_output_rejections_total") >= 1.0, "{metrics}");
    assert_eq!(value("mailflow_output_rejected_alerts"), 0.0);
    assert!((value("mailflow_receiver_clock_offset_seconds") + 3_600.0).abs() <= 3.0);
    told.push("resolved");
    scene.expect("an hour ahead: it has ended", &told);

    // Each incident is one finding from start to end, whatever the clock.
    let findings = scene.findings();
    let of = |activity: u64| -> Vec<String> {
        let found = findings.iter().filter(|finding| finding["activity_id"] == activity);
        found.map(|finding| finding["finding_info"]["uid"].to_string()).collect()
    };
    assert_eq!(of(1).len(), 3, "{findings:?}");
    assert_eq!(of(1), of(3), "{findings:?}");
}
