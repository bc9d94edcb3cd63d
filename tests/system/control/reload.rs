//! Reloads of the configuration of a running agent.

use std::{fs, net::SocketAddr, process::Command};

use mailflow_test_support::lab::{
    Agent, Bystander, Family, Hosts, Lab, LabOptions, Slot, Verdict, agent_binary, transfer, wait_for,
};
use serde_json::Value;

use crate::{
    queries::{ask, status},
    watched::{SECONDS, all_is_counted, metric, send, start, wait_for_metric},
};

const GOOD: &str = "mailflow_config_last_reload_successful";

struct Gateway {
    lab: Lab,
    agent: Agent,
}

impl Gateway {
    /// Starts an agent with the configuration `text` and a short poll interval.
    fn new(text: &str) -> Self {
        let lab = Lab::new(&LabOptions { hosts: Hosts::ClientAndInside, ..LabOptions::default() }).unwrap();
        fs::write(lab.folder().join("gateway.yaml"), text).unwrap();
        let options =
            format!("--config {} --poll-interval 100ms", lab.folder().join("gateway.yaml").display());
        let agent = start(&lab, &options);
        Self { lab, agent }
    }

    /// Writes another configuration and reloads it; returns the exit status and the output.
    fn reload(&self, text: &str) -> (Option<i32>, String) {
        fs::write(self.lab.folder().join("gateway.yaml"), text).unwrap();
        let output = ask(&self.agent, "reload");
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    /// Returns the packets up on a port that the shipped configuration does not watch.
    fn count_on(&self, port: u16) -> u64 {
        let series = "mailflow_packets_total{service=\"smtp\",direction=\"up\"}";
        let before = metric(&self.agent, series).unwrap();
        let server = SocketAddr::new(self.lab.server_ip(Family::V4), port);
        let truth = transfer(&self.lab.client, &self.lab.server, server, 5_000, 5_000).unwrap().client_facts;
        // A later transfer on a watched port: once it is counted, the earlier one would be too.
        let mail = send(&self.lab);
        wait_for_metric(
            &self.agent,
            series,
            before + u64::from(mail.segments_out) + self.watched(port) * u64::from(truth.segments_out),
        );
        u64::from(truth.segments_out)
    }

    fn watched(&self, port: u16) -> u64 {
        let text = fs::read_to_string(self.lab.folder().join("gateway.yaml")).unwrap();
        u64::from(text.contains(&port.to_string()))
    }

    fn interfaces(&self) -> Vec<String> {
        let found = status(&self.agent);
        let places = found["interfaces"].as_array().unwrap();
        let names: std::collections::BTreeSet<_> =
            places.iter().map(|place| place["interface"].as_str().unwrap().to_owned()).collect();
        names.into_iter().collect()
    }
}

const ONE: &str = "interfaces: [{ name: lan0, role: lan }]\n";

#[test]
fn reload_changes_ports_and_interfaces_of_loaded_program() {
    let gateway = Gateway::new(ONE);
    let program = || {
        let found = gateway.lab.gateway.run("ip -details link show lan0");
        found.map(|text| text.lines().count()).unwrap()
    };
    let before = program();
    gateway.count_on(2525);
    let (code, answer) = gateway.reload(&format!("{ONE}watched_ports: {{ smtp: [25, 2525] }}\n"));
    assert_eq!(code, Some(0), "{answer}");
    assert!(answer.contains("watched ports: [25, 110,") && answer.contains("2525]"), "{answer}");
    gateway.count_on(2525);
    assert_eq!(program(), before);

    let both = "interfaces: [{ name: lan0, role: lan }, { name: lan1, role: lan }]\n";
    let (code, answer) = gateway.reload(both);
    assert_eq!(code, Some(0), "{answer}");
    assert!(answer.contains("interface lan1: watched from now on"), "{answer}");
    wait_for("lan1", SECONDS, || Ok((gateway.interfaces() == ["lan0", "lan1"]).then_some(()))).unwrap();
    let (code, answer) = gateway.reload(ONE);
    assert!(code == Some(0) && answer.contains("interface lan1: not watched any more"), "{answer}");
    wait_for("no lan1", SECONDS, || Ok((gateway.interfaces() == ["lan0"]).then_some(()))).unwrap();
    all_is_counted(&gateway.lab, &[&gateway.agent]);
    let again =
        metric(&gateway.agent, "mailflow_reattachments_total{interface=\"lan0\",direction=\"ingress\"}");
    assert_eq!(again, Some(0), "lan0 was left alone");
}

#[test]
fn invalid_reload_changes_nothing() {
    let mut gateway = Gateway::new(ONE);
    let refused = |text: &str, reasons: &[&str]| {
        let (code, answer) = gateway.reload(text);
        assert_eq!(code, Some(1), "{answer}");
        reasons.iter().for_each(|reason| assert!(answer.contains(reason), "no {reason} in\n{answer}"));
        wait_for_metric(&gateway.agent, GOOD, 0);
        assert_eq!(status(&gateway.agent)["config_good"], false);
        assert_eq!(ask(&gateway.agent, "status").status.code(), Some(1));
        assert_eq!(gateway.interfaces(), ["lan0"]);
        all_is_counted(&gateway.lab, &[&gateway.agent]);
    };
    refused(
        "interfaces: [{ name: lan0, rol: lan }]\npoll_interval: 7\n",
        &["gateway.yaml:1:28: interfaces[0].rol: unknown key", "gateway.yaml:2:16: poll_interval"],
    );
    refused(
        &format!("{ONE}flow_table: {{ flows: 1000 }}\nsources: {{ ipv6_prefix: 56 }}\n"),
        &["flow_table.flows: a change needs a restart", "sources.ipv6_prefix: a change needs a restart"],
    );
    refused(
        "interfaces: [{ name: lan0, role: mirror }]\n",
        &["interfaces: lan0: the role `mirror`, which no interface had at the start, needs a restart"],
    );
    // If half of a reload fails, none of it is applied. TCX accepts 63 programs (bpf_mprog_max(),
    // linux/bpf_mprog.h).
    let others: Vec<_> = (0..63).map(|_| Bystander::load("other", Verdict::TcNext).unwrap()).collect();
    let attach =
        |other: &Bystander| other.attach(&gateway.lab.gateway, "lan1", Slot::TcxEgressFirst).unwrap();
    let links: Vec<_> = others.iter().map(attach).collect();
    gateway.lab.gateway.ip("link add lan2 type veth peer name far").unwrap();
    refused(
        "interfaces: [{ name: lan2, role: lan }, { name: lan1, role: lan }]\n",
        &["attaching to `lan1` failed: tcx at egress"],
    );
    drop(links);
    refused(
        &format!("{ONE}outputs: {{ flow_log: /nosuch/flows.json }}\n"),
        &["cannot open /nosuch/flows.json"],
    );
    assert!(gateway.agent.log().contains("the configuration is refused; the one before stays in force"));

    // A missing interface is no error: the agent waits for it.
    let (code, answer) =
        gateway.reload(&format!("{}, {{ name: nosuch, role: lan }}]\n", ONE.trim_end_matches("]\n")));
    assert!(code == Some(0) && answer.contains("interface nosuch: watched from now on"), "{answer}");
    wait_for("it is waited for", SECONDS, || Ok((gateway.interfaces() == ["lan0", "nosuch"]).then_some(())))
        .unwrap();

    // SIGHUP reloads too.
    fs::write(gateway.lab.folder().join("gateway.yaml"), ONE).unwrap();
    gateway.agent.process().signal(libc::SIGHUP).unwrap();
    wait_for_metric(&gateway.agent, GOOD, 1);
}

#[test]
fn replaced_shipped_rules_are_listed_by_every_command() {
    const GONE: &str = "not evaluated any more: smtp-burst (with its size test), smtp-bulk, smtp-auth-guess, \
                        mail-server-fan-in (off as shipped)";
    let list = format!("{ONE}rules: []\n");
    let gateway = Gateway::new(&list);
    assert_eq!(gateway.agent.log().matches(GONE).count(), 1, "at the start: {}", gateway.agent.log());
    let (code, answer) = gateway.reload(&list);
    assert!(code == Some(0) && answer.contains("warning: ") && answer.contains(GONE), "{answer}");
    assert!(gateway.agent.log().matches(GONE).count() >= 2, "at a reload: {}", gateway.agent.log());
    let file = gateway.lab.folder().join("gateway.yaml");
    for command in ["check-config", "doctor"] {
        let output =
            Command::new(agent_binary().unwrap()).args([command, "--config"]).arg(&file).output().unwrap();
        let answer = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(answer.contains(GONE), "{command}: {answer}");
    }
    let (code, answer) = gateway.reload(ONE);
    assert!(code == Some(0) && !answer.contains("warning"), "{answer}");
}

#[test]
fn reload_changes_rules_and_keeps_windows() {
    // An expired allow-list entry suppresses nothing.
    let over = "allow: [{ source: internal, reason: test, until: 2020-01-01 }]\n";
    let rule = |name: &str, at_least: u32, window: &str| {
        format!(
            "{ONE}{over}timeouts: {{ closed: 100ms }}\nrules:\n  - {{ name: {name}, match: {{ applications: [smtp, other] }}, window: {{ length: {window} }}, condition: {{ count: {{ at_least: {at_least} }} }} }}\n"
        )
    };
    let gateway = Gateway::new(&rule("few", 100, "1h"));
    let window = |value: u64| {
        wait_for("the window", SECONDS, || {
            let found = status(&gateway.agent);
            Ok((found["rules"][0]["highest"] == value).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {:#}", status(&gateway.agent)["rules"]));
    };
    send(&gateway.lab);
    send(&gateway.lab);
    window(2);
    let (code, answer) = gateway.reload(&rule("few", 3, "1h"));
    assert!(
        code == Some(0) && answer.contains("rule few: changed") && !answer.contains("start empty"),
        "{answer}"
    );
    window(2);
    send(&gateway.lab);
    let alerts =
        wait_for(
            "an alert",
            SECONDS,
            || Ok(Some(gateway.agent.alerts()).filter(|alerts| !alerts.is_empty())),
        );
    let alert: Value = serde_json::from_str(&alerts.unwrap()[0]).unwrap();
    assert_eq!((&alert["alert"]["value"], &alert["alert"]["threshold"]), (&3.into(), &3.into()));
    assert_eq!(status(&gateway.agent)["alerts"][0]["source"], alert["src_ip"]);

    let (code, answer) = gateway.reload(&rule("few", 3, "2h"));
    assert!(code == Some(0) && answer.contains("rule few: its windows start empty"), "{answer}");
    window(0);
    let (code, answer) = gateway.reload(&rule("another", 3, "2h"));
    assert!(code == Some(0) && answer.contains("rule few: not evaluated any more"), "{answer}");
    wait_for("its end", SECONDS, || Ok((gateway.agent.alerts().len() == 2).then_some(()))).unwrap();
    assert_eq!(status(&gateway.agent)["alerts"], serde_json::json!([]));
}

#[test]
fn status_explain_and_metrics_agree_on_alert() {
    let gateway = Gateway::new(&format!(
        "{ONE}timeouts: {{ closed: 100ms }}\nrules:\n  - name: much\n    match: {{ applications: [smtp, other] }}\n    \
         window: {{ length: 1h }}\n    condition: {{ any: [{{ count: {{ at_least: 1000 }} }}, \
         {{ sum: {{ of: payload_up, at_least: 1kB }} }}] }}\n"
    ));
    let source = gateway.lab.client_ip(Family::V4, 0).to_string();
    let series =
        format!("mailflow_window_value{{rule=\"much\",condition=\"sum payload_up\",source=\"{source}\"}}");
    for sent in 1..=3 {
        send(&gateway.lab);
        let records = "mailflow_flow_records_total{reason=\"closed\"}";
        wait_for_metric(&gateway.agent, records, sent);
    }
    // The alert event has the value at the first flow; the window has a higher value by now.
    let alert: Value = serde_json::from_str(&gateway.agent.alerts()[0]).unwrap();
    let first = alert["alert"]["value"].as_u64().unwrap();
    assert_eq!(
        (&alert["alert"]["condition"], &alert["alert"]["unit"]),
        (&"sum payload_up".into(), &"bytes".into())
    );
    let value = wait_for("the window", SECONDS, || {
        let value = metric(&gateway.agent, &series).unwrap_or(0);
        Ok((value >= 3 * first).then_some(value))
    })
    .unwrap();
    let found = wait_for("the status", SECONDS, || {
        let found = status(&gateway.agent);
        Ok((found["alerts"][0]["value"] == value).then_some(found))
    })
    .unwrap_or_else(|error| panic!("{error:#}, {value}: {:#}", status(&gateway.agent)["alerts"]));
    let (rule, firing) = (&found["rules"][0], &found["alerts"][0]);
    for (of, names) in [
        (firing, ["value", "condition", "unit", "threshold"]),
        (rule, ["highest", "highest_condition", "highest_unit", "highest_threshold"]),
    ] {
        let expected: [Value; 4] = [value.into(), "sum payload_up".into(), "bytes".into(), 1_000.into()];
        assert_eq!(names.map(|name| of[name].clone()), expected, "{of:#}");
    }
    let explained = ask(&gateway.agent, &format!("explain {source} --json"));
    let explained: Value = serde_json::from_slice(&explained.stdout).unwrap();
    let term = explained["rules"][0]["terms"]
        .as_array()
        .unwrap()
        .iter()
        .find(|term| term["name"] == "sum payload_up");
    let term = term.unwrap();
    assert_eq!((term["value"].as_f64(), &term["unit"]), (Some(value as f64), &"bytes".into()));
    let amount = format!("{value} of 1000 bytes");
    for question in ["status".to_owned(), format!("explain {source}")] {
        let answer = String::from_utf8(ask(&gateway.agent, &question).stdout).unwrap();
        assert!(answer.contains(&amount), "{amount}: {answer}");
    }
}
