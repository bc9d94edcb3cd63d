//! Stop of the agent: open flows get their records, and its programs are detached.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
};

use mailflow_test_support::lab::{Agent, Family, Lab, LabOptions, agent_binary, wait_for};
use serde_json::Value;

#[test]
fn stop_writes_open_flows_and_detaches() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let flow_log = lab.folder().join("flows.jsonl");
    let often = crate::OFTEN;
    let options = format!("{often} --interface lan0 --role lan --flow-log {}", flow_log.display());
    let mut agent =
        Agent::start(&lab.gateway, &agent_binary().unwrap(), lab.folder(), "agent", &options).unwrap();

    let address = SocketAddr::new(lab.server_ip(Family::V4), 25);
    let listener = lab.server.enter(|| TcpListener::bind(address)).unwrap().unwrap();
    let mut client = lab.client.enter(|| TcpStream::connect(address)).unwrap().unwrap();
    client.write_all(b"EHLO client.example\r\n").unwrap();
    let (_open, _) = listener.accept().unwrap();
    wait_for("the flow is in the metrics", std::time::Duration::from_secs(120), || {
        let metrics = agent.metrics()?;
        Ok(metrics.contains("mailflow_packets_total{service=\"smtp\",direction=\"up\"} 3").then_some(()))
    })
    .unwrap();
    assert_eq!(std::fs::read_to_string(&flow_log).unwrap(), "", "an open flow has no record yet");

    assert_eq!(agent.stop().unwrap().code(), Some(0));
    let line = std::fs::read_to_string(&flow_log).unwrap();
    let flow: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(flow["flow"]["reason"], "shutdown");
    assert_eq!(flow["flow"]["state"], "established");
    assert_eq!(flow["src_port"], client.local_addr().unwrap().port());
    assert_eq!((&flow["flow"]["pkts_toserver"], &flow["flow"]["pkts_toclient"]), (&3.into(), &2.into()));
    // XDP and the port are free: another agent starts on them.
    let options = "--interface lan0 --role lan --hook xdp";
    let mut next =
        Agent::start(&lab.gateway, &agent_binary().unwrap(), lab.folder(), "next", options).unwrap();
    assert!(next.log().contains("hook=\"xdp"), "{}", next.log());
    assert!(next.stop().unwrap().success());
    let link = lab.gateway.ip("-details link show lan0").unwrap();
    assert!(!link.contains("xdp"), "{link}");
}
