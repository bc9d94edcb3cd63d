//! Two gateways with flows of one source, a Prometheus that scrapes both, and the dashboard.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use mailflow_test_support::lab::{
    Agent, Family, Lab, LabOptions, Mail, Mode, Package, Postfix, PostfixOptions, Prometheus, agent_binary,
    send_mail, wait_for,
};
use serde_json::Value;

use crate::files::{listed, panels, queries};

/// Time until an alert: the default idle timeout of closed flows, a poll, a scrape, an evaluation, and slack
/// for a busy machine.
const PATIENCE: Duration = Duration::from_secs(25);
const SUM: &str = "fleet:mailflow_window_value:sum{rule=\"smtp-burst\"}";

/// Gateway with an agent, between the client 10.20.0.2 and a mail server.
struct Gateway {
    agent: Agent,
    _server: Postfix,
    lab: Lab,
}

impl Gateway {
    /// Starts a gateway whose agent serves its metrics on `address`.
    fn start(lab: Lab, address: SocketAddr) -> Self {
        let package = Package::unpack().unwrap();
        let server = Postfix::start(&lab.server, &package, lab.folder(), &PostfixOptions::default()).unwrap();
        let options = format!("--interface lan0 --metrics {address}");
        let binary = agent_binary().unwrap();
        let agent = Agent::start(&lab.gateway, &binary, lab.folder(), "agent", &options).unwrap();
        Self { agent, _server: server, lab }
    }

    fn send(&self, mails: usize) {
        let server = SocketAddr::new(self.lab.server_ip(Family::V4), 587);
        for _ in 0..mails {
            send_mail(&self.lab.client, &Mail::to(server, Mode::StartTls)).unwrap();
        }
    }
}

/// Returns the samples of a query: labels and value.
fn samples(prometheus: &Prometheus, query: &str) -> Vec<(Value, f64)> {
    let answer: Value = serde_json::from_str(&prometheus.query(query).unwrap()).unwrap();
    let sample = |sample: &Value| {
        let value = sample["value"][1].as_str().unwrap();
        (sample["metric"].clone(), value.parse().unwrap_or_else(|_| panic!("{query}: {value}")))
    };
    answer["data"]["result"].as_array().unwrap().iter().map(sample).collect()
}

/// Returns the firing alerts of this name: source and value.
fn firing(prometheus: &Prometheus, name: &str) -> Vec<(String, String)> {
    let answer: Value = serde_json::from_str(&prometheus.api("alerts").unwrap()).unwrap();
    let alerts = answer["data"]["alerts"].as_array().unwrap().iter();
    let fires = alerts.filter(|alert| alert["labels"]["alertname"] == name && alert["state"] == "firing");
    fires
        .map(|alert| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (text(&alert["labels"]["source"]), text(&alert["value"]))
        })
        .collect()
}

fn expect_sum(prometheus: &Prometheus, value: f64) {
    let what = format!("the gateways' windows sum up to {value}");
    wait_for(&what, PATIENCE, || {
        let found = samples(prometheus, SUM);
        Ok((found.len() == 1 && found[0].1 == value).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:?}\n{}", samples(prometheus, SUM), prometheus.log()));
}

/// Waits until Prometheus has completed an evaluation of this alerting rule that began after the call.
fn wait_for_evaluation(prometheus: &Prometheus, name: &str) {
    let last = || -> String {
        let answer: Value = serde_json::from_str(&prometheus.api("rules?type=alert").unwrap()).unwrap();
        let groups = answer["data"]["groups"].as_array().unwrap().iter();
        let mut rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
        let rule = rules.find(|rule| rule["name"] == name).unwrap();
        rule["lastEvaluation"].as_str().unwrap().to_owned()
    };
    // The first evaluation that ends may have begun before the call.
    for _ in 0..2 {
        let before = last();
        wait_for("an evaluation", PATIENCE, || Ok((last() != before).then_some(()))).unwrap();
    }
}

/// Returns both labs, with their gateways connected by a management link.
fn labs() -> [(Lab, SocketAddr); 2] {
    let labs = [(); 2].map(|()| Lab::new(&LabOptions::default()).unwrap());
    let [first, second] = labs.each_ref().map(|lab| &lab.gateway);
    first.ip(&format!("link add mon0 type veth peer name mon0 netns {}", second.name())).unwrap();
    for (gateway, last) in [(first, 1), (second, 2)] {
        gateway.ip(&format!("address add 10.99.0.{last}/30 dev mon0")).unwrap();
        gateway.ip("link set mon0 up").unwrap();
    }
    let [first, second] = labs;
    [(first, "10.99.0.1:10825".parse().unwrap()), (second, "10.99.0.2:10825".parse().unwrap())]
}

#[test]
fn fleet_sum_fires_and_dashboard_has_data() {
    let labs = labs();
    let targets = labs.each_ref().map(|(_, address)| *address);
    let [mut here, mut there] = labs.map(|(lab, address)| Gateway::start(lab, address));
    let rules = listed("config/prometheus", ".rules.yml");
    let prometheus = Prometheus::start(&here.lab.gateway, here.lab.folder(), &targets, &rules).unwrap();
    let source = here.lab.client_ip(Family::V4, 0).to_string();
    assert_eq!(source, there.lab.client_ip(Family::V4, 0).to_string(), "one source behind both");

    // Five and four: no alert.
    here.send(5);
    there.send(4);
    expect_sum(&prometheus, 9.0);
    wait_for_evaluation(&prometheus, "MailflowFleetBurst");
    assert_eq!(firing(&prometheus, "MailflowFleetBurst"), []);

    // Five and five: the alert fires.
    there.send(1);
    expect_sum(&prometheus, 10.0);
    let fired = wait_for("the alert", Duration::from_secs(120), || {
        let fired = firing(&prometheus, "MailflowFleetBurst");
        Ok((!fired.is_empty()).then_some(fired))
    });
    assert_eq!(fired.unwrap(), [(source, "1e+01".to_owned())]);
    for gateway in [&here, &there] {
        assert_eq!(gateway.agent.alerts(), Vec::<String>::new(), "neither gateway has seen ten");
    }

    every_panel_shows_something(&prometheus);

    // The sum keeps the five flows of a gateway whose scrape fails.
    there.agent.stop().unwrap();
    let down = format!("up{{instance=\"{}\"}} == 0", targets[1]);
    wait_for("the scrape fails", PATIENCE, || Ok(samples(&prometheus, &down).first().map(drop))).unwrap();
    wait_for_evaluation(&prometheus, "MailflowFleetBurst");
    expect_sum(&prometheus, 10.0);
    here.agent.stop().unwrap();
}

fn every_panel_shows_something(prometheus: &Prometheus) {
    let deadline = Instant::now() + PATIENCE;
    for panel in panels() {
        for query in queries(&panel, 15) {
            let found = loop {
                let found = samples(prometheus, &query);
                // `rate` needs two scrapes of a new series.
                if !found.is_empty() || Instant::now() > deadline {
                    break found;
                }
                std::thread::sleep(Duration::from_millis(500));
            };
            assert!(!found.is_empty(), "{}: {query} shows nothing", panel["title"]);
            assert!(found.iter().all(|(_, value)| value.is_finite()), "{}: {found:?}", panel["title"]);
        }
    }
}
