//! Equal packets with different poll intervals give equal records and equal alerts.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use mailflow_test_support::lab::{
    Agent, Family, Lab, LabOptions, Mail, Mode, Package, Postfix, PostfixOptions, agent_binary, send_mail,
    send_mails, wait_for,
};
use serde_json::Value;

/// Returns a record without what depends on the process: the wall-clock times of a tick differ by less than a
/// tick between two agents.
fn comparable(line: &str) -> ((u64, u64), Value) {
    let mut flow: Value = serde_json::from_str(line).unwrap();
    // The kernel may choose the same client port for two server ports.
    let ports = ["src_port", "dest_port"].map(|name| flow[name].as_u64().unwrap());
    let object = flow.as_object_mut().unwrap();
    object.remove("timestamp");
    object.remove("flow_id");
    for name in ["start", "end", "age"] {
        object["flow"].as_object_mut().unwrap().remove(name);
    }
    (ports.into(), flow)
}

#[test]
fn poll_intervals_give_equal_records_and_alerts() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let _server =
        Postfix::start(&lab.server, &Package::unpack().unwrap(), lab.folder(), &PostfixOptions::default())
            .unwrap();
    let binary = agent_binary().unwrap();
    let config = lab.folder().join("closed.yaml");
    std::fs::write(&config, crate::CLOSED).unwrap();
    // Both agents run at the same hooks: they see the same packets.
    let agents: Vec<(Agent, std::path::PathBuf)> = [("fast", "100ms", 10_825), ("slow", "5s", 10_826)]
        .into_iter()
        .map(|(name, interval, port)| {
            let log = lab.folder().join(format!("{name}-flows.jsonl"));
            let options = format!(
                "--config {} --interface lan0 --role lan --poll-interval {interval} --metrics 127.0.0.1:{port} \
                 --flow-log {}",
                config.display(),
                log.display()
            );
            (Agent::start(&lab.gateway, &binary, lab.folder(), name, &options).unwrap(), log)
        })
        .collect();

    let to = |port| SocketAddr::new(lab.server_ip(Family::V4), port);
    let mut sent = 0;
    for round in 0..4 {
        send_mail(&lab.client, &Mail::to(to(587), Mode::StartTls)).unwrap();
        send_mail(&lab.client, &Mail::to(to(465), Mode::Tls)).unwrap();
        send_mail(&lab.client, &Mail { size: 30_000, ..Mail::to(to(25), Mode::Plain) }).unwrap();
        send_mails(&lab.client, &Mail::to(to(587), Mode::StartTls), 3 + round).unwrap();
        sent += 4;
    }
    let read = |log: &std::path::Path| -> BTreeMap<(u64, u64), Value> {
        std::fs::read_to_string(log).unwrap_or_default().lines().map(comparable).collect()
    };
    let records: Vec<_> = agents
        .iter()
        .map(|(_, log)| {
            wait_for("every record", Duration::from_secs(120), || {
                let records = read(log);
                Ok((records.len() >= sent).then_some(records))
            })
            .unwrap()
        })
        .collect();
    assert_eq!(records[0].len(), sent);
    assert_eq!(records[0], records[1]);

    let alerts: Vec<Vec<Value>> = agents
        .iter()
        .map(|(agent, _)| {
            wait_for("the alert", Duration::from_secs(60), || {
                let alerts = agent.alerts();
                Ok((!alerts.is_empty()).then_some(alerts))
            })
            .unwrap()
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
        })
        .collect();
    for (name, field) in [("rule", "rule"), ("fingerprint", "fingerprint"), ("state", "state")] {
        assert_eq!(alerts[0][0]["alert"][field], alerts[1][0]["alert"][field], "{name}");
    }
    assert_eq!((alerts[0].len(), alerts[1].len()), (1, 1));
    let deciding = |alert: &Value| alert["flows"].as_array().unwrap()[9]["src_port"].clone();
    assert_eq!(deciding(&alerts[0][0]), deciding(&alerts[1][0]), "the tenth flow decides");
}
