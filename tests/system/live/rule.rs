//! `smtp-burst` end to end, with the shipped default configuration and a real Postfix.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mailflow_test_support::lab::{
    Agent, Family, Hosts, HttpServer, Lab, LabOptions, Mail, Mode, Package, Postfix, PostfixOptions,
    agent_binary, send_mail, wait_for,
};
use serde_json::Value;

/// Time until a record: the default idle timeout of a closed flow, two polls, and slack for a busy machine.
const RECORDED: Duration = Duration::from_secs(12);

struct Gateway {
    agent: Agent,
    lab: Lab,
    flow_log: std::path::PathBuf,
}

fn gateway(hosts: Hosts, sources: u8) -> Gateway {
    let lab = Lab::new(&LabOptions { hosts, sources, ..LabOptions::default() }).unwrap();
    let flow_log = lab.folder().join("flows.jsonl");
    let options = format!("--interface lan0 --flow-log {}", flow_log.display());
    let agent =
        Agent::start(&lab.gateway, &agent_binary().unwrap(), lab.folder(), "agent", &options).unwrap();
    Gateway { agent, lab, flow_log }
}

impl Gateway {
    fn flows(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.flow_log).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for the records of this many flows.
    fn wait_for_flows(&self, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} flow records"), RECORDED, || {
            let flows = self.flows();
            Ok((flows.len() >= count).then_some(flows))
        })
        .unwrap()
    }

    fn alerts(&self) -> Vec<Value> {
        self.agent.alerts().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn tenth_flow_fires_once() {
    let gateway = gateway(Hosts::Client, 2);
    let _server = Postfix::start(
        &gateway.lab.server,
        &Package::unpack().unwrap(),
        gateway.lab.folder(),
        &PostfixOptions::default(),
    )
    .unwrap();
    let submission = SocketAddr::new(gateway.lab.server_ip(Family::V4), 587);
    let mail = Mail::to(submission, Mode::StartTls);
    for _ in 0..9 {
        send_mail(&gateway.lab.client, &mail).unwrap();
    }
    // Flows of another source do not count.
    let other = Mail { source: Some(gateway.lab.client_ip(Family::V4, 1)), ..mail };
    send_mail(&gateway.lab.client, &other).unwrap();
    gateway.wait_for_flows(10);
    gateway.agent.settle().unwrap();
    assert_eq!(gateway.alerts(), Vec::<Value>::new());

    send_mail(&gateway.lab.client, &mail).unwrap();
    let flows = gateway.wait_for_flows(11);
    let recorded = SystemTime::now();
    let alerts = wait_for("the alert", Duration::from_secs(2), || {
        let alerts = gateway.alerts();
        Ok((!alerts.is_empty()).then_some(alerts))
    })
    .unwrap();
    assert!(recorded.elapsed().unwrap() <= Duration::from_secs(2), "poll interval + 1 s");

    let alert = &alerts[0];
    assert_eq!(alert["event_type"], "alert");
    assert_eq!(alert["src_ip"], gateway.lab.client_ip(Family::V4, 0).to_string());
    assert_eq!(alert["alert"]["rule"], "smtp-burst");
    assert_eq!(alert["alert"]["state"], "firing");
    assert_eq!(
        (alert["alert"]["value"].as_u64(), alert["alert"]["threshold"].as_u64()),
        (Some(10), Some(10))
    );
    assert_eq!(alert["alert"]["ends_at"], Value::Null);
    let evidence = alert["flows"].as_array().unwrap();
    assert_eq!(evidence.len(), 10);
    for flow in evidence {
        assert!(flows.contains(flow), "evidence that was never recorded: {flow:#}");
        assert_eq!(flow["app_proto"], "smtp+starttls");
        assert_eq!(flow["mailflow"]["messages_estimated"], 1);
        assert_eq!(flow["flow"]["reason"], "closed");
    }
    assert!(flow_age(&alert["alert"]["starts_at"]) < 60.0);

    // Further flows belong to the same incident.
    send_mail(&gateway.lab.client, &mail).unwrap();
    gateway.wait_for_flows(12);
    gateway.agent.settle().unwrap();
    assert_eq!(gateway.alerts().len(), 1);

    let metrics = gateway.agent.metrics().unwrap();
    let source = gateway.lab.client_ip(Family::V4, 0);
    for line in [
        format!("mailflow_window_value{{rule=\"smtp-burst\",condition=\"count\",source=\"{source}\"}} 11"),
        "mailflow_flows_total{service=\"submission\"} 12".to_owned(),
        format!("mailflow_source_flows_total{{source=\"{source}\"}} 11"),
    ] {
        assert!(metrics.contains(&line), "no `{line}` in\n{metrics}");
    }
}

/// Returns the seconds between a timestamp of an event and now.
fn flow_age(timestamp: &Value) -> f64 {
    let text = timestamp.as_str().unwrap();
    // 2026-11-21T03:31:00.123456+0000
    let time: jiff::Timestamp = format!("{}Z", text.trim_end_matches("+0000")).parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    (now - time.as_nanosecond() as f64 / 1e9).abs()
}

#[test]
fn traffic_outside_of_the_match_does_not_fire() {
    let gateway = gateway(Hosts::ClientAndInside, 4);
    let lab = &gateway.lab;
    let inside = lab.inside.as_ref().unwrap();
    let server_ip = lab.server_ip(Family::V4);
    let inside_options = PostfixOptions { name: "inside", ..PostfixOptions::default() };
    let _inside = Postfix::start(inside, &Package::unpack().unwrap(), lab.folder(), &inside_options).unwrap();
    let client = |number| Some(lab.client_ip(Family::V4, number));

    // Internal to internal.
    let mail = Mail::to(SocketAddr::new(lab.inside_ip(Family::V4), 587), Mode::StartTls);
    // External client.
    for _ in 0..12 {
        send_mail(&lab.client, &Mail { source: client(0), ..mail }).unwrap();
        send_mail(&lab.server, &mail).unwrap();
    }
    // Port 8025, and HTTP on port 25.
    for (number, port) in [(1, 8025), (2, 25)] {
        let address = SocketAddr::new(server_ip, port);
        let _server = HttpServer::start(&lab.server, address, 3_000).unwrap();
        for _ in 0..12 {
            let source = lab.client_ip(Family::V4, number);
            let page =
                lab.client.run(&format!("curl -sS --fail --interface {source} http://{address}/a-page"));
            assert_eq!(page.unwrap().len(), 3_000);
        }
    }
    let flows = gateway.wait_for_flows(24);
    gateway.agent.settle().unwrap();
    assert_eq!(gateway.alerts(), Vec::<Value>::new());

    // There were enough flows: those on watched ports were counted, and match by size.
    let of = |number: u8| -> Vec<&Value> {
        let ip = lab.client_ip(Family::V4, number).to_string();
        flows.iter().filter(|flow| flow["src_ip"] == ip).collect()
    };
    assert_eq!((of(0).len(), of(1).len(), of(2).len(), flows.len()), (12, 0, 12, 24), "{flows:#?}");
    assert!(of(2).iter().all(|flow| flow["app_proto"] == "other"), "{:#?}", of(2));
    let packet = |flow: &Value, side: &str| {
        let field = |name: &str| flow["flow"][format!("{name}_{side}")].as_u64().unwrap();
        field("bytes") / field("pkts")
    };
    assert!(of(0).iter().all(|flow| packet(flow, "toserver") >= 80 && packet(flow, "toclient") >= 80));
}
