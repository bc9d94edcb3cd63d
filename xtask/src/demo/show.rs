//! Printed information about the lab and the agent.

use std::path::Path;

use anyhow::{Context, Result};
use mailflow_test_support::lab::{Agent, Family, Lab};

use super::{alert, short};
use crate::terminal::{bold, say};

/// Printed metrics, of some forty families.
const METRICS: &[&str] = &[
    "mailflow_attached{",
    "mailflow_packets_total{service=\"submission\"",
    "mailflow_bytes_total{service=\"submission\"",
    "mailflow_rule_matched_flows_total{rule=\"smtp-burst\",service=\"submission\"",
    "mailflow_source_flows_total{source=\"10.20.0.2\"",
    "mailflow_window_value{",
    "mailflow_alerts{",
];

/// Prints the lab's wiring.
pub(super) fn network(lab: &Lab) {
    let (client, public, server) =
        (lab.client_ip(Family::V4, 0), lab.public_ip(Family::V4), lab.server_ip(Family::V4));
    say(format!("client {client} -- lan0 [gateway] wan0 {public} -- {server} server"));
    say(format!("the Internet sees {public} alone: only lan0 shows who sends"));
}

/// Prints the attached programs, as the agent logs them.
pub(super) fn attached(agent: &Agent) {
    for line in agent.log().lines().filter(|line| line.contains("attached")) {
        say(line);
    }
}

/// Prints the alert, and the path of its JSON line.
pub(super) fn alert(line: &str, file: &Path) -> Result<()> {
    for (number, text) in alert::summary(line)?.lines().enumerate() {
        say(if number == 0 { bold(text) } else { text.to_owned() });
    }
    say(format!("the whole alert is a line of JSON ({} bytes) in {}", line.len(), short(file)));
    Ok(())
}

/// Prints a few metrics, and writes all of them to a file.
pub(super) fn metrics(agent: &Agent, lab: &Lab) -> Result<()> {
    let page = agent.metrics()?;
    let file = lab.folder().join("metrics.txt");
    std::fs::write(&file, &page).with_context(|| file.display().to_string())?;
    println!("{}", bold("\nMetrics, a second later: of all flows, also of those after the tenth"));
    say(format!("from http://127.0.0.1:10825/metrics in {}, all in {}", lab.gateway.name(), short(&file)));
    for line in page.lines().filter(|line| METRICS.iter().any(|prefix| line.starts_with(prefix))) {
        say(line);
    }
    Ok(())
}

/// Returns the agent's counters, for a failed demo.
pub(super) fn totals(agent: &Agent) -> String {
    match agent.metrics() {
        Ok(page) => page
            .lines()
            .filter(|line| line.starts_with("mailflow_") && !line.ends_with(" 0"))
            .collect::<Vec<_>>()
            .join("\n"),
        Err(error) => format!("{error:#}"),
    }
}

/// Prints the next commands to try.
pub(super) fn next(lab: &Lab, keep: bool) {
    println!("{}", bold("\nNext"));
    if keep {
        let (client, gateway) = (lab.client.name(), lab.gateway.name());
        let folder = short(lab.folder());
        let server = lab.server_ip(Family::V4);
        hint("all metrics", &format!("ip netns exec {gateway} curl -s http://127.0.0.1:10825/metrics"));
        hint(
            "the agent's log and alerts",
            &format!("tail -f {folder}/agent.log {folder}/agent-alerts.jsonl"),
        );
        hint(
            "one more mail",
            &format!(
                "ip netns exec {client} curl --insecure --ssl-reqd smtp://{server}:587 --mail-from \
                 alice@corp.example --mail-rcpt bob@example.org --upload-file Cargo.toml"
            ),
        );
        hint("a shell on the gateway", &format!("ip netns exec {gateway} sh"));
        hint("remove the lab", "cargo xtask demo --clean");
    } else {
        hint("the same, and the lab stays up", "cargo xtask demo --keep");
        hint("a real interface", "cargo xtask run -- --interface eth1 --role lan");
        hint("the configuration it ran with", "config/mailflow.yaml");
        hint("all tests (root, about an hour)", "cargo xtask test");
    }
}

fn hint(what: &str, command: &str) {
    say(format!("{what:<32} {command}"));
}
