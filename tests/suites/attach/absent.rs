//! Interfaces that are not there when the agent starts, and patterns of names.

use std::{fs, process::Command, time::Duration};

use mailflow_agent::control::{Client, Reply, Request, Status};
use mailflow_tests::lab::{Agent, Lab, agent_binary, wait_for};

use super::{
    life::{lab, make_lan0},
    watched::{SECONDS, all_is_counted, attached, metric, start, wait_for_metric},
};

/// Status of the agent.
fn status(agent: &Agent) -> Status {
    let mut client = Client::connect(agent.socket()).unwrap();
    let Reply::Status(status) = client.call(&Request::Status).unwrap() else { panic!("a status") };
    *status
}

/// The command `status`: its output, and its exit status.
fn status_command(agent: &Agent) -> (String, Option<i32>) {
    let mut command = Command::new(agent_binary().unwrap());
    let output = command.arg("status").arg("--socket").arg(agent.socket()).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

fn bound(entry: &str) -> String {
    format!("mailflow_watched_interfaces{{entry=\"{entry}\"}}")
}

/// Waits until an entry is bound to these interfaces.
fn wait_for_bound(agent: &Agent, entry: &str, interfaces: &[&str]) {
    let waited = wait_for(&format!("{entry} is bound to {interfaces:?}"), SECONDS, || {
        let status = status(agent);
        // Before the first poll there is nothing to tell.
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
fn an_interface_that_is_absent_at_the_start_is_waited_for_and_the_others_are_watched() {
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
fn a_start_with_nothing_to_watch_waits_and_is_ready() {
    let lab = lab();
    for name in ["lan0", "lan1"] {
        lab.gateway.ip(&format!("link del {name}")).unwrap();
    }
    // `start` waits until the agent says that it is ready.
    let mut agent = start(&lab, "--interface lan0 --interface ppp* --role lan --poll-interval 60s");
    wait_for_bound(&agent, "lan0", &[]);
    let status = status(&agent);
    assert!(status.watched.iter().all(|watched| watched.missing_seconds.is_some()), "{status:#?}");
    make_lan0(&lab);
    // Word of the interface comes at once, not with the next poll.
    wait_for_bound(&agent, "lan0", &["lan0"]);
    assert!(agent.stop().unwrap().success());
}

#[test]
fn patterns_are_bound_as_interfaces_come_go_and_are_renamed() {
    let lab = lab();
    let config = lab.folder().join("patterns.yaml");
    let text = "interfaces:\n  - { name: 're:^wg[0-9]+$', role: lan, hook: tc }\n  - { name: 'lan*', role: lan }\n  \
                - { name: 'l*', role: host }\n  - { name: lan1, role: lan, hook: tc }\n";
    fs::write(&config, text).unwrap();
    let mut agent = start(&lab, &format!("--config {}", config.display()));
    // The name comes before the pattern, and the first pattern before the second; no pattern takes the loopback.
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

    // A name that matches no more, one that matches another pattern, one by an alternative name, one that goes.
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

    // While traffic flows, the interface goes and comes back.
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
fn series_of_interfaces_that_come_and_go_do_not_add_up() {
    let lab = lab();
    let mut agent = start(&lab, "--interface ppp* --interface lan0 --role lan --hook tc");
    wait_for_bound(&agent, "lan0", &["lan0"]);
    // Those of interfaces; others depend on what is counted.
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
fn an_interface_is_watched_once_whatever_names_it_is_listed_by() {
    let lab = lab();
    lab.gateway.ip("link property add dev lan0 altname office").unwrap();
    let mut agent = start(&lab, "--interface lan0 --interface office --interface lan? --role lan --hook tc");
    wait_for_bound(&agent, "lan?", &["lan1"]);
    wait_for_bound(&agent, "office", &[]);
    assert!(agent.log().contains("another entry watches this interface"), "{}", agent.log());
    all_is_counted(&lab, &[&agent]);
    assert!(agent.stop().unwrap().success());
    // Alone, the alternative name is as good.
    let mut agent = start(&lab, "--interface office --role lan --hook tc");
    all_is_counted(&lab, &[&agent]);
    assert!(agent.stop().unwrap().success());
}

#[test]
fn a_metrics_address_that_no_interface_has_yet_ends_nothing() {
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
    let told = "the metrics are served at 10.77.0.1:10825, which no interface has yet";
    wait_for("status says so", SECONDS, || Ok(text().contains(told).then_some(()))).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let logged = fs::read_to_string(&log).unwrap();
    assert_eq!(logged.matches("no interface has the address of the metrics yet").count(), 1, "{logged}");
    lab.gateway.ip("address add 10.77.0.1/32 dev lo").unwrap();
    let page = "10.77.0.1:10825".parse().unwrap();
    wait_for("the page is served", SECONDS, || {
        Ok(matches!(mailflow_tests::lab::get(&lab.gateway, page, "/-/ready"), Ok((200, _))).then_some(()))
    })
    .unwrap();
    assert!(!text().contains(told), "{}", text());
    assert!(running.stop().unwrap().success());
}
