//! The gateway's own queue drops packets after they were counted, as the README says.

use std::{net::SocketAddr, time::Duration};

use mailflow_test_support::lab::{Agent, Connection, Family, Lab, LabOptions, agent_binary, wait_for};
use serde_json::Value;

/// Traffic shaper with a short queue, as an operator may have one on the inside interface.
const SHAPER: &str = "tc qdisc add dev lan0 root tbf rate 8mbit burst 3200 limit 6000";
/// Many more bytes than the queue holds.
const DOWN: usize = 150_000;

/// Returns the first number after a word in tc's statistics.
fn number(statistics: &str, word: &str) -> u64 {
    let after =
        statistics.split_whitespace().skip_while(|found| found.trim_start_matches('(') != word).nth(1);
    after
        .and_then(|number| number.trim_end_matches(',').parse().ok())
        .unwrap_or_else(|| panic!("{statistics}"))
}

#[test]
fn packets_dropped_by_shaper_are_counted() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let flow_log = lab.folder().join("flows.jsonl");
    let quick = crate::quick(lab.folder(), "");
    let options = format!("{quick} --interface lan0 --role lan --flow-log {}", flow_log.display());
    let mut agent =
        Agent::start(&lab.gateway, &agent_binary().unwrap(), lab.folder(), "agent", &options).unwrap();
    lab.gateway.run(SHAPER).unwrap();

    let server = SocketAddr::new(lab.server_ip(Family::V4), 25);
    let connection = Connection::open(&lab.client, 0, &lab.server, server).unwrap();
    connection.exchange(1_000, DOWN).unwrap();
    connection.close().unwrap();
    let queue = lab.gateway.run("tc -s qdisc show dev lan0").unwrap();
    assert!(number(&queue, "dropped") > 0, "{queue}");

    let flow = wait_for("the flow's record", Duration::from_secs(60), || {
        let text = std::fs::read_to_string(&flow_log)?;
        Ok(text.lines().next().map(serde_json::from_str::<Value>).transpose()?)
    })
    .unwrap();
    let (client, server) = connection.facts_now().unwrap();
    assert!(server.segments_out > client.segments_in, "{client:?} {server:?}");
    assert!(server.bytes_sent > DOWN as u64, "nothing was sent again: {server:?}");
    // Every segment of the server is counted, received or not.
    assert_eq!(flow["flow"]["pkts_toclient"], server.segments_out, "{flow}");
    assert_eq!(flow["mailflow"]["payload_down"], server.bytes_sent, "{flow}");
    assert_eq!(flow["mailflow"]["payload_up"], client.bytes_sent, "{flow}");
    assert!(agent.stop().unwrap().success());
}
