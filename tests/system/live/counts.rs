//! Packets and bytes of each flow, compared with TCP_INFO of both ends.

use std::{net::SocketAddr, time::Duration};

use mailflow_test_support::lab::{
    Agent, Family, Lab, LabOptions, Transfer, agent_binary, transfer, wait_for,
};
use serde_json::Value;

/// Bytes up and down of each transfer: small and large mails, and a download, so that merged buffers occur in
/// both directions.
const TRANSFERS: [(usize, usize); 5] =
    [(0, 0), (700, 300), (40_000, 1_000), (8_000_000, 2_000), (3_000, 8_000_000)];

/// Runs the transfers over both families past one agent: its start, which verifies every program, takes most of the
/// time.
fn check(hook: &str, expected_hooks: [&str; 2]) {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let flow_log = lab.folder().join("flows.jsonl");
    let quick = crate::quick(lab.folder(), "");
    let options =
        format!("{quick} --interface lan0 --role lan --hook {hook} --flow-log {}", flow_log.display());
    let mut agent =
        Agent::start(&lab.gateway, &agent_binary().unwrap(), lab.folder(), "agent", &options).unwrap();
    for (direction, hook) in ["ingress", "egress"].into_iter().zip(expected_hooks) {
        let line = format!("interface=\"lan0\" direction=\"{direction}\" hook=\"{hook}\"");
        assert!(agent.log().contains(&line), "no `{line}` in\n{}", agent.log());
    }

    for host in [&lab.client, &lab.server] {
        // Without SACK all segments have headers of equal length, also after a retransmission on a busy
        // machine. With small windows no queue of the lab overflows.
        host.sysctl("ipv4/tcp_sack", "0").unwrap();
        host.sysctl("ipv4/tcp_rmem", "4096 131072 200000").unwrap();
    }
    let transfers = [Family::V4, Family::V6].map(|family| TRANSFERS.map(|bytes| (family, bytes))).concat();
    let truth: Vec<(Family, Transfer)> = transfers
        .into_iter()
        .map(|(family, (up, down))| {
            let server = SocketAddr::new(lab.server_ip(family), 25);
            (family, transfer(&lab.client, &lab.server, server, up, down).unwrap())
        })
        .collect();
    let flows = wait_for("a record of every flow", Duration::from_secs(120), || {
        let text = std::fs::read_to_string(&flow_log)?;
        let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok((lines.len() >= truth.len()).then_some(lines))
    })
    .unwrap();

    for (family, one) in &truth {
        let client = lab.client_ip(*family, 0).to_string();
        let flow = flows
            .iter()
            .find(|flow| flow["src_port"] == one.client.port() && flow["src_ip"] == client)
            .unwrap_or_else(|| panic!("no flow from {client}, port {}: {flows:#?}", one.client.port()));
        assert_eq!(flow["dest_ip"], lab.server_ip(*family).to_string());
        let counted = |name: &str| flow["flow"][name].as_u64().unwrap();
        let [(up, up_bytes), (down, down_bytes)] = one.wire();
        assert_eq!(counted("pkts_toserver"), up, "{one:?}");
        assert_eq!(counted("pkts_toclient"), down, "{one:?}");
        assert_eq!(counted("bytes_toserver"), up_bytes, "{one:?}");
        assert_eq!(counted("bytes_toclient"), down_bytes, "{one:?}");
        assert_eq!(flow["mailflow"]["payload_up"], one.client_facts.bytes_sent);
        assert_eq!(flow["mailflow"]["payload_down"], one.server_facts.bytes_sent);
        assert_eq!(flow["mailflow"]["complete"], true);
        assert_eq!(flow["flow"]["reason"], "closed");
    }
    assert_eq!(flows.len(), truth.len(), "a flow counted twice: {flows:#?}");

    let metrics = agent.metrics().unwrap();
    for line in metrics.lines().filter(|line| line.starts_with("mailflow_conservation_difference")) {
        assert!(line.ends_with(" 0"), "{line}");
    }
    assert!(agent.stop().unwrap().success());
}

#[test]
fn xdp_and_tc_equal_tcp_info() {
    check("xdp", ["xdp.frags", "tcx"]);
}

#[test]
fn tc_equals_tcp_info() {
    check("tc", ["tcx", "tcx"]);
}
