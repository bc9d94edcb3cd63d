//! Restarts, one way of ending at a time.

use std::{process::Command, time::Duration};

use mailflow_kernel::LAYOUT;
use mailflow_test_support::lab::{agent_binary, detach_links, wait_for};
use serde_json::Value;

use crate::gateway::{Gateway, Open, add, kill};

#[test]
fn killed_agent_recovers_completely() {
    let gateway = Gateway::new(4);
    let agent = gateway.start("", &[]);
    let mut sent = [0; 2];
    let open = gateway.open();
    open.talk();
    for _ in 0..3 {
        add(&mut sent, gateway.send());
    }
    let window = |agent: &mailflow_test_support::lab::Agent, value: u32| {
        let series = format!(
            "mailflow_window_value{{rule=\"many\",condition=\"count\",source=\"10.20.0.2\"}} {value}"
        );
        wait_for(&series, Duration::from_secs(120), || Ok(agent.metrics()?.contains(&series).then_some(())))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
    };
    window(&agent, 3);
    kill(agent);
    // Packets are counted while no agent runs.
    open.talk();
    add(&mut sent, gateway.send());
    let agent = gateway.start("", &[]);
    assert!(agent.log().contains("took over the link of the agent before"), "{}", agent.log());
    window(&agent, 4);
    let alerts = wait_for("the alert", Duration::from_secs(120), || {
        Ok(Some(agent.alerts()).filter(|alerts| !alerts.is_empty()))
    });
    let alert: Value = serde_json::from_str(&alerts.unwrap()[0]).unwrap();
    assert_eq!(
        (&alert["alert"]["value"], alert["flows"].as_array().unwrap().len()),
        (&4.into(), 4),
        "with all its evidence"
    );
    kill(agent);
    let agent = gateway.start("", &[]);
    open.talk();
    add(&mut sent, open.end());
    gateway.expect(&agent, sent);
    window(&agent, 5);
    assert_eq!(agent.alerts().len(), 1, "one incident, one alert: {:#?}", agent.alerts());
    let metrics = agent.metrics().unwrap();
    for line in [
        "mailflow_alerts{rule=\"many\",state=\"firing\"} 1",
        "mailflow_conservation_difference_packets{direction=\"up\"} 0",
        "mailflow_conservation_difference_packets{direction=\"down\"} 0",
    ] {
        assert!(metrics.contains(line), "no {line} in\n{metrics}");
    }
}

#[test]
fn stop_with_keep_leaves_programs_counting() {
    let gateway = Gateway::new(100);
    let mut agent = gateway.start("--keep", &[]);
    let open = gateway.open();
    open.talk();
    let mut sent = gateway.send();
    assert_eq!(agent.stop().unwrap().code(), Some(0));
    assert!(gateway.tables(0).exists());
    open.talk();
    add(&mut sent, gateway.send());
    let mut agent = gateway.start("", &[]);
    add(&mut sent, open.end());
    gateway.expect(&agent, sent);
    // Without --keep nothing stays.
    assert_eq!(agent.stop().unwrap().code(), Some(0));
    let left = || std::fs::read_dir(gateway.pins()).unwrap().flatten().map(|entry| entry.path());
    assert_eq!(left().count(), 0, "{:?}", left().collect::<Vec<_>>());
    gateway.send();
    let mut agent = gateway.start("--keep", &[]);
    agent.settle().unwrap();
    assert_eq!(gateway.recorded(), sent, "what passed while nothing was attached was not counted");
    // Nothing stays after SIGQUIT either, which stops and detaches.
    agent.process().signal(libc::SIGQUIT).unwrap();
    assert_eq!(agent.process().wait(Duration::from_secs(60)).unwrap().code(), Some(0));
    assert_eq!(left().count(), 0, "{:?}", left().collect::<Vec<_>>());
}

#[test]
fn unwatched_interfaces_are_detached_at_start() {
    let gateway = Gateway::new(100);
    let agent = gateway.start("", &[]);
    let sent = gateway.send();
    gateway.expect(&agent, sent);
    kill(agent);
    // The gateway watches another interface.
    let config = std::fs::read_to_string(gateway.lab.folder().join("gateway.yaml")).unwrap();
    std::fs::write(gateway.lab.folder().join("gateway.yaml"), config.replace("name: lan0", "name: lan9"))
        .unwrap();
    gateway.lab.gateway.ip("link add lan9 type veth peer name other").unwrap();
    let mut agent = gateway.start("", &[]);
    assert_eq!(agent.log().matches("its link is taken away").count(), 2, "{}", agent.log());
    assert_eq!(detach_links(&gateway.lab.gateway, "lan0").unwrap(), 0, "{}", agent.log());
    gateway.send();
    gateway.expect(&agent, sent);
    assert_eq!(agent.stop().unwrap().code(), Some(0));
}

#[test]
fn configured_hook_replaces_pinned_one() {
    let gateway = Gateway::new(100);
    kill(gateway.start("--interface lan0 --role lan --hook tc", &[]));
    let mut agent = gateway.start("--interface lan0 --role lan --hook xdp", &[]);
    let log = agent.log();
    assert!(log.contains(r#"attached interface="lan0" direction="ingress" hook="xdp.frags""#), "{log}");
    let sent = gateway.send();
    gateway.expect(&agent, sent);
    assert_eq!(agent.stop().unwrap().code(), Some(0));
}

#[test]
fn open_flows_are_migrated_to_another_layout() {
    let gateway = Gateway::new(3);
    let agent = gateway.start("", &[]);
    let open: Vec<_> = (0..4).map(|_| gateway.open()).collect();
    open.iter().for_each(Open::talk);
    let mut sent = gateway.send();
    kill(agent);
    open[0].talk();
    add(&mut sent, gateway.send());
    let layouts = format!("{}:{}", LAYOUT + 2, LAYOUT + 1);
    let next = layouts.split_once(':').unwrap().1;
    let agent = gateway.start("", &[("MAILFLOW_TEST_LAYOUT", next)]);
    assert!(gateway.tables(1).exists() && !gateway.tables(0).exists());
    // One flow continues at once, one after another restart, one after another layout, and one only with its
    // end.
    open[0].talk();
    kill(agent);
    let agent = gateway.start("", &[("MAILFLOW_TEST_LAYOUT", next)]);
    open[1].talk();
    agent.settle().unwrap();
    kill(agent);
    let agent = gateway.start("", &[("MAILFLOW_TEST_LAYOUT", &layouts)]);
    assert!(gateway.tables(2).exists() && !gateway.tables(1).exists());
    open[2].talk();
    open[0].talk();
    let mut each = Vec::new();
    for flow in open {
        let port = flow.port();
        let packets = flow.end();
        add(&mut sent, packets);
        each.push((port, packets));
    }
    gateway.expect(&agent, sent);
    let finals = gateway.finals();
    assert_eq!(finals.len(), 6, "a record for each flow: {finals:#?}");
    for (port, [up, down]) in each {
        let flow = finals.iter().find(|flow| flow["src_port"] == port).unwrap();
        let part = &flow["flow"];
        assert_eq!((&part["pkts_toserver"], &part["pkts_toclient"]), (&up.into(), &down.into()), "{flow:#}");
        assert_eq!(
            (&flow["mailflow"]["complete"], &part["reason"]),
            (&true.into(), &"closed".into()),
            "{flow:#}"
        );
    }
    assert_eq!(agent.alerts().len(), 1, "{:#?}", agent.alerts());
    let metrics = agent.metrics().unwrap();
    for direction in ["up", "down"] {
        let line = format!("mailflow_conservation_difference_packets{{direction=\"{direction}\"}} 0");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[test]
fn other_capacity_and_unknown_layout_lose_no_packet() {
    let gateway = Gateway::new(100);
    let unknown = (LAYOUT + 1).to_string();
    let agent = gateway.start("", &[("MAILFLOW_TEST_LAYOUT", &unknown)]);
    let mut sent = gateway.send();
    gateway.expect(&agent, sent);
    kill(agent);
    gateway.configure(100, "flow_table: { flows: 1000 }\n");
    let agent = gateway.start("", &[]);
    let aside = format!("aside-v{unknown}");
    assert!(agent.log().contains(&aside), "an unknown layout is named:\n{}", agent.log());
    add(&mut sent, gateway.send());
    kill(agent);
    gateway.configure(100, "flow_table: { flows: 2000 }\n");
    add(&mut sent, gateway.send());
    let agent = gateway.start("", &[]);
    assert!(agent.log().contains("FLOWS has room for 1000 entries"), "{}", agent.log());
    add(&mut sent, gateway.send());
    gateway.expect(&agent, sent);
}

#[test]
fn second_agent_reports_running_one() {
    let gateway = Gateway::new(100);
    let mut agent = gateway.start("", &[]);
    let folder = gateway.lab.folder();
    let run = |pins: &str, state: &str| {
        let mut command = Command::new(agent_binary().unwrap());
        command.args(["run", "--interface", "lo", "--metrics", "off", "--control", "off"]);
        command.args(["--pins", pins, "--state", state]);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let pid = agent.process().pid();
    let (pins, state) = (gateway.pins(), folder.join("state"));
    let (pins, state) = (pins.to_str().unwrap(), state.to_str().unwrap());
    for (pins, state) in [(pins, "/nonexistent"), ("off", state)] {
        let (code, stderr) = run(pins, state);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(&format!("in use by another agent, process {pid}")), "{stderr}");
    }
}
