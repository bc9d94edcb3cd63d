//! Interfaces that are missing at the agent's start, and name patterns.

use std::{fs, process::Command};

use mailflow_agent::control::{Client, Reply, Request, Status};
use mailflow_test_support::lab::{Agent, Lab, agent_binary, wait_for};

use super::{
    lifecycle::{lab, make_lan0},
    watched::{SECONDS, all_is_counted, attached, metric, start, wait_for_metric},
};

/// Returns the agent's status.
fn status(agent: &Agent) -> Status {
    let mut client = Client::connect(agent.socket()).unwrap();
    let Reply::Status(status) = client.call(&Request::Status).unwrap() else { panic!("a status") };
    *status
}

/// Runs the command `status`; returns its output and its exit status.
fn status_command(agent: &Agent) -> (String, Option<i32>) {
    let mut command = Command::new(agent_binary().unwrap());
    let output = command.arg("status").arg("--socket").arg(agent.socket()).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

fn bound(entry: &str) -> String {
    format!("mailflow_interfaces{{entry=\"{entry}\"}}")
}

/// Waits until an entry is bound to these interfaces.
fn wait_for_bound(agent: &Agent, entry: &str, interfaces: &[&str]) {
    let waited = wait_for(&format!("{entry} is bound to {interfaces:?}"), SECONDS, || {
        let status = status(agent);
        // Before the first poll the status is empty.
        let Some(watched) = status.watched.iter().find(|watched| watched.entry == entry) else {
            return Ok(None);
        };
        let mut names: Vec<_> = watched.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        names.sort_unstable();
        Ok((names == interfaces).then_some(()))
    });
    waited.unwrap_or_else(|error| panic!("{error:#}\n{:#?}\n{}", status(agent).watched, agent.log()));
}

fn add(lab: &Lab, name: &str) {
    lab.gateway.ip(&format!("link add {name} type veth peer name peer-{name}")).unwrap();
}

#[test]
fn absent_interface_is_attached_when_created() {
    let lab = lab();
    lab.gateway.ip("link del lan0").unwrap();
    let mut agent = start(&lab, "--interface lan0 --interface lan1 --role lan --hook tc");
    wait_for_metric(&agent, &attached("tcx", "ingress").replace("lan0", "lan1"), 1);
    assert_eq!(metric(&agent, &attached("tcx", "ingress")), Some(0));
    assert_eq!((metric(&agent, &bound("lan0")), metric(&agent, &bound("lan1"))), (Some(0), Some(1)));
    let (text, code) = status_command(&agent);
    assert!(text.contains("lan0: WAITING, no such interface for"), "{text}");
    assert_eq!(code, Some(1), "{text}");
    let log = agent.log();
    assert_eq!(log.matches("there is no such interface").count(), 1, "{log}");
    assert!(log.contains("lan1, ") || log.contains(", lan1"), "what there is instead: {log}");

    make_lan0(&lab);
    wait_for_metric(&agent, &attached("tcx", "ingress"), 1);
    wait_for_metric(&agent, &bound("lan0"), 1);
    all_is_counted(&lab, &[&agent]);
    assert_eq!(metric(&agent, &super::watched::again("ingress")), Some(0), "it was not attached before");
    let (text, code) = status_command(&agent);
    assert!(!text.contains("WAITING"), "{text}");
    assert_eq!(code, Some(0), "{text}");
    assert!(agent.stop().unwrap().success());
}

#[test]
fn start_without_interfaces_is_ready() {
    let lab = lab();
    for name in ["lan0", "lan1"] {
        lab.gateway.ip(&format!("link del {name}")).unwrap();
    }
    // `start` waits until the agent is ready.
    let mut agent = start(&lab, "--interface lan0 --interface ppp* --role lan --poll-interval 60s");
    wait_for_bound(&agent, "lan0", &[]);
    let status = status(&agent);
    assert!(status.watched.iter().all(|watched| watched.missing_seconds.is_some()), "{status:#?}");
    make_lan0(&lab);
    // The agent follows the interface at once, not at the next poll.
    wait_for_bound(&agent, "lan0", &["lan0"]);
    assert!(agent.stop().unwrap().success());
}

#[test]
fn patterns_follow_created_removed_and_renamed_interfaces() {
    let lab = lab();
    let config = lab.folder().join("patterns.yaml");
    let text = "interfaces:\n  - { name: 're:^wg[0-9]+$', role: lan, hook: tc }\n  - { name: 'lan*', role: lan }\n  \
                - { name: 'l*', role: host }\n  - { name: lan1, role: lan, hook: tc }\n";
    fs::write(&config, text).unwrap();
    let mut agent = start(&lab, &format!("--config {}", config.display()));
    // A name precedes a pattern, and the first pattern precedes the second; no pattern matches the loopback.
    wait_for_bound(&agent, "lan*", &["lan0"]);
    wait_for_bound(&agent, "lan1", &["lan1"]);
    wait_for_bound(&agent, "l*", &[]);
    all_is_counted(&lab, &[&agent]);

    for name in ["wg0", "wg12", "wgx", "l2tp0"] {
        add(&lab, name);
    }
    wait_for_bound(&agent, "re:^wg[0-9]+$", &["wg0", "wg12"]);
    wait_for_bound(&agent, "l*", &["l2tp0"]);
    let roles: Vec<_> = status(&agent).watched.into_iter().flat_map(|watched| watched.interfaces).collect();
    let role = |name: &str| roles.iter().find(|interface| interface.name == name).unwrap().role.clone();
    assert_eq!([role("wg0"), role("l2tp0")], ["lan", "host"]);

    // A name that no longer matches, one that matches another pattern, an alternative name, a removed
    // interface.
    for words in
        ["set wg0 name other0", "set l2tp0 name wg7", "property add dev wgx altname lanparty", "del wg12"]
    {
        lab.gateway.ip(&format!("link {words}")).unwrap();
    }
    wait_for_bound(&agent, "re:^wg[0-9]+$", &["wg7"]);
    wait_for_bound(&agent, "l*", &[]);
    wait_for_bound(&agent, "lan*", &["lan0", "wgx"]);
    let metrics = agent.metrics().unwrap();
    for gone in ["\"wg0\"", "\"wg12\"", "\"l2tp0\""] {
        assert!(!metrics.contains(gone), "{gone}: {metrics}");
    }

    // The interface is removed and created while traffic flows.
    lab.gateway.ip("link del lan0").unwrap();
    wait_for_bound(&agent, "lan*", &["wgx"]);
    make_lan0(&lab);
    wait_for_bound(&agent, "lan*", &["lan0", "wgx"]);
    all_is_counted(&lab, &[&agent]);
    let log = agent.log();
    assert!(!log.contains("poll failed") && !log.contains("not attached"), "{log}");
    assert!(agent.stop().unwrap().success());
}

#[test]
fn series_of_removed_interfaces_are_dropped() {
    let lab = lab();
    let mut agent = start(&lab, "--interface ppp* --interface lan0 --role lan --hook tc");
    wait_for_bound(&agent, "lan0", &["lan0"]);
    // Only the series of interfaces; others depend on the traffic.
    let series = || {
        let metrics = agent.metrics().unwrap();
        metrics.lines().filter(|line| line.contains("interface=") || line.contains("entry=")).count()
    };
    let before = series();
    for number in 0..40 {
        let name = format!("ppp{number}");
        add(&lab, &name);
        if number % 10 == 0 {
            wait_for_bound(&agent, "ppp*", &[&name]);
        }
        lab.gateway.ip(&format!("link del {name}")).unwrap();
    }
    wait_for_bound(&agent, "ppp*", &[]);
    wait_for("the series are those of before", SECONDS, || Ok((series() == before).then_some(()))).unwrap();
    assert!(agent.stop().unwrap().success());
}

#[test]
fn interface_with_two_names_is_attached_once() {
    let lab = lab();
    lab.gateway.ip("link property add dev lan0 altname office").unwrap();
    let mut agent = start(&lab, "--interface lan0 --interface office --interface lan? --role lan --hook tc");
    wait_for_bound(&agent, "lan?", &["lan1"]);
    wait_for_bound(&agent, "office", &[]);
    assert!(agent.log().contains("another entry watches this interface"), "{}", agent.log());
    all_is_counted(&lab, &[&agent]);
    assert!(agent.stop().unwrap().success());
    // The alternative name alone is sufficient.
    let mut agent = start(&lab, "--interface office --role lan --hook tc");
    all_is_counted(&lab, &[&agent]);
    assert!(agent.stop().unwrap().success());
}

#[test]
fn unassigned_metrics_address_does_not_stop_agent() {
    let lab = lab();
    let binary = agent_binary().unwrap();
    let (log, socket) = (lab.folder().join("early.log"), lab.folder().join("early.sock"));
    let command = format!(
        "{} run --interface lan0 --role lan --state off --pins off --alerts off --metrics 10.77.0.1:10825 --control {}",
        binary.display(),
        socket.display()
    );
    let mut running = lab.gateway.spawn(&command, &log).unwrap();
    let text = || {
        let output = Command::new(&binary).arg("status").arg("--socket").arg(&socket).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let pending = "the metrics are served at 10.77.0.1:10825, which no interface has yet";
    // As long as an agent may take to start: every program is verified.
    wait_for("status reports it", SECONDS * 4, || Ok(text().contains(pending).then_some(()))).unwrap();
    lab.gateway.ip("address add 10.77.0.1/32 dev lo").unwrap();
    let page = "10.77.0.1:10825".parse().unwrap();
    wait_for("the page is served", SECONDS, || {
        Ok(matches!(mailflow_test_support::lab::get(&lab.gateway, page, "/-/ready"), Ok((200, _)))
            .then_some(()))
    })
    .unwrap();
    assert!(!text().contains(pending), "{}", text());
    // The agent has tried again by now.
    let logged = fs::read_to_string(&log).unwrap();
    assert_eq!(logged.matches("no interface has the address of the metrics yet").count(), 1, "{logged}");
    assert!(running.stop().unwrap().success());
}
