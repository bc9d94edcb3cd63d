//! Outputs after a restart: firing alerts are repeated to receivers that need repeats, no other receiver gets
//! an event twice, and undelivered events are delivered.

use std::{fs, net::SocketAddr, time::Duration};

use mailflow_test_support::lab::{Agent, wait_for};
use serde_json::Value;

use crate::{
    gateway::{Gateway, kill},
    http::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

fn receiver(gateway: &Gateway, status: u16) -> Receiver {
    let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
    gateway.lab.gateway.enter(|| Receiver::start(local, status)).unwrap()
}

/// Returns every alert of every request, in order.
fn posted(manager: &Receiver) -> Vec<Value> {
    manager.received().iter().flat_map(|one| one.body.as_array().unwrap().clone()).collect()
}

fn wait(what: &str, agent: &Agent, mut done: impl FnMut() -> bool) {
    wait_for(what, PATIENCE, || Ok(done().then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
}

fn lines(gateway: &Gateway, name: &str) -> Vec<String> {
    let text = fs::read_to_string(gateway.lab.folder().join(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn firing_alert_is_repeated_after_restart_and_written_once() {
    let gateway = Gateway::new(3);
    let (manager, hook) = (receiver(&gateway, 200), receiver(&gateway, 200));
    let outputs = format!(
        "outputs:\n  alerts:\n    - {{ type: alertmanager, urls: [\"{}\"], every: 1s }}\n    - {{ type: webhook, url: \"{}\" }}\n",
        manager.url(""),
        hook.url("/"),
    );
    gateway.configure(3, &outputs);
    let mut agent = gateway.start("", &[]);
    (0..3).for_each(|_| _ = gateway.send());
    wait("the alert, and a repeat", &agent, || posted(&manager).len() >= 3 && hook.received().len() == 1);
    // Ends of the agent: a kill, a stop that keeps the maps, a stop that removes them.
    for end in ["kill", "keep", "stop"] {
        let before = posted(&manager);
        match end {
            "kill" => kill(agent),
            "keep" => {
                kill(agent);
                let mut kept = gateway.start("--keep", &[]);
                assert_eq!(kept.stop().unwrap().code(), Some(0), "{}", kept.log());
            }
            _ => assert_eq!(agent.stop().unwrap().code(), Some(0), "{}", agent.log()),
        }
        let posted_before = posted(&manager).len();
        agent = gateway.start("", &[]);
        wait(&format!("what fires after {end}"), &agent, || posted(&manager).len() >= posted_before + 2);
        let (first, last) = (&before[0], posted(&manager).pop().unwrap());
        assert_eq!(last["labels"], first["labels"], "{end}");
        assert_eq!(last["startsAt"], first["startsAt"], "{end}");
    }
    agent.settle().unwrap();
    assert_eq!(agent.alerts().len(), 1, "{:#?}", agent.alerts());
    assert_eq!(hook.received().len(), 1, "a webhook gets each event once");
}

#[test]
fn failing_output_delays_no_checkpoint_and_gets_missed_events() {
    let gateway = Gateway::new(3);
    let [dead, fine] = [0, 200].map(|status| receiver(&gateway, status));
    let folder = gateway.lab.folder().display();
    let outputs = format!(
        "outputs:\n  alerts:\n    - {{ type: webhook, name: dead, url: \"{}\" }}\n    \
         - {{ type: webhook, name: fine, url: \"{}\" }}\n    \
         - {{ type: file, name: ecs, path: {folder}/ecs.jsonl, profile: ecs }}\n    \
         - {{ type: file, name: ocsf, path: {folder}/ocsf.jsonl, profile: ocsf }}\n  \
         flow_log:\n    - {{ type: ipfix, to: \"tcp:127.0.0.1:9\" }}\n    \
         - {{ type: file, name: ecs_flows, path: {folder}/ecs-flows.jsonl, profile: ecs }}\n",
        dead.url("/"),
        fine.url("/"),
    );
    gateway.configure(3, &outputs);
    // `--alerts` and `--flow-log` replace configured files.
    let agent = gateway.start_as_configured();
    (0..3).for_each(|_| _ = gateway.send());
    let state = || fs::metadata(gateway.lab.folder().join("state/state")).unwrap().modified().unwrap();
    wait("the alert", &agent, || fine.received().len() == 1 && lines(&gateway, "ecs-flows.jsonl").len() == 3);
    for _ in 0..3 {
        let before = state();
        let begun = std::time::Instant::now();
        wait("a state", &agent, || state() > before);
        assert!(begun.elapsed() < SECOND * 5, "kept after {:?} while a webhook hangs", begun.elapsed());
    }
    kill(agent);
    dead.answer(200);
    let agent = gateway.start_as_configured();
    wait("what was missed", &agent, || !dead.received().is_empty());
    agent.settle_without(&["flow_log_ipfix"]).unwrap();
    assert_eq!((dead.received().len(), fine.received().len()), (1, 1), "{}", agent.log());
    for (name, expected) in [("ecs.jsonl", 1), ("ocsf.jsonl", 1), ("ecs-flows.jsonl", 3)] {
        assert_eq!(lines(&gateway, name).len(), expected, "{name}: {:#?}", lines(&gateway, name));
    }
}

#[test]
fn killed_agent_writes_lines_of_each_profile_once() {
    let gateway = Gateway::new(1_000);
    let folder = gateway.lab.folder().display();
    let profiles = ["ecs", "ocsf"];
    let file = |profile| {
        format!(
            "    - {{ type: file, name: {profile}, path: {folder}/{profile}.jsonl, profile: {profile} }}\n"
        )
    };
    let outputs = format!("outputs:\n  alerts: []\n  flow_log:\n{}", profiles.map(file).concat());
    gateway.configure(1_000, &outputs);
    let mut agent = gateway.start_as_configured();
    const TURNS: usize = 12;
    const FLOWS: usize = 8;
    for turn in 0..TURNS {
        (0..FLOWS).for_each(|_| _ = gateway.send());
        // The time is the subject: each round ends at another moment of a poll. Flows end after half a second.
        std::thread::sleep(Duration::from_millis(300 + 37 * turn as u64));
        kill(agent);
        agent = gateway.start_as_configured();
    }
    for profile in profiles {
        let name = format!("{profile}.jsonl");
        wait(&name, &agent, || lines(&gateway, &name).len() >= TURNS * FLOWS);
    }
    agent.settle().unwrap();
    for profile in profiles {
        let written = lines(&gateway, &format!("{profile}.jsonl"));
        let mut once = written.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!((once.len(), written.len()), (TURNS * FLOWS, TURNS * FLOWS), "{profile}");
    }
}
