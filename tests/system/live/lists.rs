//! Network list that changes while the agent runs.

use std::{fs, net::SocketAddr, time::Duration};

use mailflow_test_support::lab::{
    Agent, Family, Lab, LabOptions, Mail, Mode, Package, Postfix, PostfixOptions, agent_binary, send_mail,
    wait_for,
};

/// Time until a changed list is in force: a check each second, a second without changes, and slack for a busy
/// machine.
const READ: Duration = Duration::from_secs(60);

#[test]
fn source_added_to_list_is_counted() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let _server =
        Postfix::start(&lab.server, &Package::unpack().unwrap(), lab.folder(), &PostfixOptions::default())
            .unwrap();
    let (config, list) = (lab.folder().join("gateway.yaml"), lab.folder().join("list.csv"));
    let rule = "{ name: few, match: {}, window: { length: 1h }, condition: { count: { at_least: 3 } } }";
    let interface = "{ name: lan0, role: lan }";
    let lists = "{ files: [list.csv] }";
    let text = format!("internal_networks: {lists}\ninterfaces: [{interface}]\nrules:\n  - {rule}\n");
    fs::write(&config, text).unwrap();
    fs::write(&list, "cidr,group\n192.168.77.0/24,elsewhere\n").unwrap();
    let options = format!("--config {} --poll-interval 200ms", config.display());
    let agent =
        Agent::start(&lab.gateway, &agent_binary().unwrap(), lab.folder(), "agent", &options).unwrap();

    let source = lab.client_ip(Family::V4, 0);
    let mail = Mail::to(SocketAddr::new(lab.server_ip(Family::V4), 587), Mode::StartTls);
    // Sends three mails, each a flow, and waits for the matched flows of the rule.
    let sent = std::cell::Cell::new(0);
    let three_mails = || {
        for _ in 0..3 {
            send_mail(&lab.client, &mail).unwrap();
        }
        sent.set(sent.get() + 3);
        let recorded = format!("mailflow_flow_records_total{{reason=\"closed\"}} {}", sent.get());
        wait_for("the records", Duration::from_secs(120), || {
            Ok(agent.metrics()?.contains(&recorded).then_some(()))
        })
        .unwrap();
    };
    let metric = |line: &str| {
        wait_for(line, READ, || Ok(agent.metrics()?.lines().any(|found| found == line).then_some(())))
            .unwrap();
    };

    three_mails();
    assert_eq!(agent.alerts(), Vec::<String>::new(), "not internal");

    // An invalid list changes nothing.
    fs::write(&list, format!("cidr,group\n{source}/8,berlin\n")).unwrap();
    metric("mailflow_network_lists_last_reload_successful 0");
    metric("mailflow_network_list_entries 1");
    three_mails();
    assert_eq!(agent.alerts(), Vec::<String>::new(), "still not internal");

    fs::write(&list, format!("cidr,group,comment\n192.168.77.0/24,,\n{source},berlin,desk 3\n")).unwrap();
    metric("mailflow_network_lists_last_reload_successful 1");
    metric("mailflow_network_list_entries 2");
    three_mails();
    let alerts = wait_for("the alert", Duration::from_secs(60), || {
        let alerts = agent.alerts();
        Ok((!alerts.is_empty()).then_some(alerts))
    })
    .unwrap();
    let alert: serde_json::Value = serde_json::from_str(&alerts[0]).unwrap();
    assert_eq!(alert["src_ip"], source.to_string());
    assert_eq!(alert["alert"]["value"], 3, "those before stay uncounted");
    assert_eq!(alert["mailflow"]["group"], "berlin");
    assert_eq!(alert["mailflow"]["matched_network"], format!("{source}  desk 3"));
}
