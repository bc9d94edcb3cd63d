//! Several watched interfaces: each flow has the interface at which its first packet was counted.

use std::collections::BTreeMap;

use mailflow_test_support::{
    frame::{FrameBuilder, flag::*},
    lab::{Agent, Lab, LabOptions, Port, agent_binary},
};
use serde_json::Value;

/// Interfaces, hooks, and client ports of the flows.
const PASSED: [(&str, &str, u16); 3] =
    [("wire1", "xdp", 30_001), ("wire2", "tc", 30_002), ("wire3", "tc", 30_003)];

#[test]
fn flow_has_interface_of_first_packet_at_each_hook() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let gateway = &lab.gateway;
    let mut entries = String::from("interfaces:\n  - { name: lan0, role: lan }\n");
    for (name, hook, _) in PASSED {
        let far = name.replace("wire", "far");
        gateway.ip(&format!("link add {name} type veth peer name {far}")).unwrap();
        for end in [name, &far] {
            gateway.sysctl(&format!("ipv6/conf/{end}/disable_ipv6"), "1").unwrap();
            gateway.ip(&format!("link set {end} up")).unwrap();
        }
        entries += &format!("  - {{ name: {name}, role: lan, hook: {hook} }}\n");
    }
    let (config, log) = (lab.folder().join("several.yaml"), lab.folder().join("flows.jsonl"));
    std::fs::write(&config, entries).unwrap();
    let options = format!("--config {} --flow-log {}", config.display(), log.display());
    let mut agent = Agent::start(gateway, &agent_binary().unwrap(), lab.folder(), "agent", &options).unwrap();

    let (client, server) = ("10.20.0.7", "93.184.215.77:25");
    for (name, _, port) in PASSED {
        let client = format!("{client}:{port}");
        let to_server = FrameBuilder::tcp(&client, server, SYN).build();
        let to_client = FrameBuilder::tcp(server, &client, SYN | ACK).build();
        // The third flow is counted from the SYN-ACK on, which leaves by the interface.
        let (inside, outside) = (name, name.replace("wire", "far"));
        let ports = [inside, &outside].map(|end| Port::open(gateway, end).unwrap());
        let [inside, outside] = &ports;
        if name != "wire3" {
            outside.send(&to_server).unwrap();
            inside.receive(&to_server).unwrap();
        }
        inside.send(&to_client).unwrap();
        outside.receive(&to_client).unwrap();
    }
    assert!(agent.stop().unwrap().success());
    let mut named = BTreeMap::new();
    for line in std::fs::read_to_string(&log).unwrap().lines() {
        let flow: Value = serde_json::from_str(line).unwrap();
        let interface = flow["in_iface"].as_str().map(str::to_owned);
        named.insert(flow["src_port"].as_u64().unwrap() as u16, interface);
    }
    let expected = PASSED.map(|(name, _, port)| (port, Some(name.to_owned())));
    assert_eq!(named, BTreeMap::from(expected), "{}", agent.log());
}
