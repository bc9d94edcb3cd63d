//! Alert line in a readable form.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde::Deserialize;

/// Contributing flows that are printed; the line has all of them.
const FLOWS: usize = 3;

#[derive(Deserialize)]
struct Line {
    timestamp: String,
    src_ip: String,
    alert: Alert,
    mailflow: Extra,
    flows: Vec<Flow>,
}

#[derive(Deserialize)]
struct Alert {
    rule: String,
    state: String,
    window: u64,
    value: u64,
    threshold: u64,
    attack: Vec<String>,
}

#[derive(Deserialize)]
struct Extra {
    severity: String,
    matched_network: Option<String>,
    ports: Vec<u16>,
    applications: Vec<String>,
    up: Sum,
    down: Sum,
    messages_estimated: u64,
    complete: bool,
}

#[derive(Deserialize)]
struct Sum {
    packets: u64,
    bytes: u64,
}

#[derive(Deserialize)]
struct Flow {
    src_port: u16,
    dest_ip: String,
    dest_port: u16,
    app_proto: String,
    flow: Counters,
}

#[derive(Deserialize)]
struct Counters {
    pkts_toserver: u64,
    bytes_toserver: u64,
    pkts_toclient: u64,
    bytes_toclient: u64,
}

/// Returns the printed lines of an alert.
pub(super) fn summary(json: &str) -> Result<String> {
    let line: Line = serde_json::from_str(json).with_context(|| format!("not an alert line: {json}"))?;
    let Line { timestamp, src_ip, alert, mailflow, flows } = &line;
    let mut text = format!(
        "{} {} ({} severity) at {timestamp}\n\
         source       {src_ip}, internal by {}\n\
         because      {} matched mail flows to the Internet within {}, threshold {}\n\
         sent         {}\n\
         received     {}\n\
         services     {} on port {}, {} messages estimated\n\
         ATT&CK       {}\n\
         counting     {}\n",
        alert.rule,
        alert.state.to_uppercase(),
        mailflow.severity,
        mailflow.matched_network.as_deref().unwrap_or("no listed network").replace("  ", ", "),
        alert.value,
        hours(alert.window),
        alert.threshold,
        sum(&mailflow.up),
        sum(&mailflow.down),
        mailflow.applications.join(", "),
        mailflow.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", "),
        mailflow.messages_estimated,
        alert.attack.join(", "),
        if mailflow.complete { "complete" } else { "incomplete" },
    );
    for flow in flows.iter().take(FLOWS) {
        let Counters { pkts_toserver, bytes_toserver, pkts_toclient, bytes_toclient } = flow.flow;
        writeln!(
            text,
            "flow         port {} -> {}:{} {}, up {:.0} B a packet, down {:.0} B",
            flow.src_port,
            flow.dest_ip,
            flow.dest_port,
            flow.app_proto,
            average(bytes_toserver, pkts_toserver),
            average(bytes_toclient, pkts_toclient),
        )?;
    }
    if flows.len() > FLOWS {
        writeln!(text, "             and {} more", flows.len() - FLOWS)?;
    }
    Ok(text)
}

fn sum(sum: &Sum) -> String {
    format!("{} bytes in {} packets", sum.bytes, sum.packets)
}

fn hours(seconds: u64) -> String {
    if seconds.is_multiple_of(3600) { format!("{} h", seconds / 3600) } else { format!("{seconds} s") }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn average(bytes: u64, packets: u64) -> f64 {
    bytes as f64 / packets.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_without_alert_is_refused() {
        assert!(summary(r#"{"event_type":"flow"}"#).unwrap_err().to_string().contains("not an alert line"));
    }
}
