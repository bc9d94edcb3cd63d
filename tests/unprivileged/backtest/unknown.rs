//! A field that a log lacks is unknown in every output, and zero in none.

use std::process::Command;

use mailflow_test_support::lab::agent_binary;
use serde_json::{Value, json};

use super::{
    run::{Files, backtest},
    writers::{BEGIN, Session, columns, lines},
};

fn sessions() -> Vec<Session> {
    (0..3).map(|number| Session::mail("10.0.0.1", 4_000 + number, BEGIN * 1_000_000)).collect()
}

/// Returns a rule that needs only flows.
fn rule(outputs: &str) -> String {
    format!(
        "rules:\n  - name: one\n    match: {{}}\n    window: {{ length: 1h }}\n    condition: {{ count: {{ at_least: 3 }} }}\n{outputs}"
    )
}

/// Returns a conn.log with `-` for its packets and bytes.
fn without_counts() -> String {
    columns(&sessions()).replace("\t10\t2000\t10\t2000\t", "\t-\t-\t-\t-\t")
}

#[test]
fn explain_prints_unknown_fields_as_not_recorded() {
    let files = Files::new();
    let explain = |log: &str, option: &[&str]| {
        let log = files.write("conn.log", log);
        let mut command = Command::new(agent_binary().unwrap());
        let output = command.args(["explain", "10.0.0.1", "--log"]).arg(log).args(option).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = explain(&without_counts(), &[]);
    assert_eq!(
        text.matches("up not recorded, down not recorded, messages not recorded").count(),
        3,
        "{text}"
    );
    let text = explain(&columns(&sessions()), &[]);
    assert_eq!(text.matches("up 2000 B / 10, down 2000 B / 10, messages not recorded").count(), 3, "{text}");
    // One direction is known, the other is unknown: neither is invented.
    let text = explain(&columns(&sessions()).replace("\t10\t2000\t10\t2000\t", "\t-\t2000\t10\t2000\t"), &[]);
    assert_eq!(text.matches("up 2000 B / ?, down 2000 B / ?,").count(), 3, "{text}");
    let json: Value = serde_json::from_str(&explain(&without_counts(), &["--json"])).unwrap();
    let flow = &json["flows"][0];
    assert_eq!((&flow["up"], &flow["messages"]), (&json!([null, null]), &Value::Null), "{flow}");
    // A known zero is a number.
    let own =
        lines(sessions().iter().map(|session| Session { messages: 0, ..session.clone() }.own("closed")));
    assert!(explain(&own, &[]).contains("up 2000 B / 10, down 2000 B / 10, messages 0"));
}

#[test]
fn unknown_evidence_is_null_or_absent_in_each_profile() {
    let files = Files::new();
    let log = files.write("conn.log", without_counts());
    let config = files.write("config.yaml", rule(""));
    let run_output = backtest(&[], &config, std::slice::from_ref(&log));
    let alert = &run_output.alerts[0];
    let unknown = json!({ "packets": null, "bytes": null });
    assert_eq!((&alert["mailflow"]["up"], &alert["mailflow"]["down"]), (&unknown, &unknown), "{alert}");
    assert_eq!(alert["mailflow"]["messages_estimated"], Value::Null);
    for flow in alert["flows"].as_array().unwrap() {
        for name in ["pkts_toserver", "bytes_toserver", "pkts_toclient", "bytes_toclient"] {
            assert_eq!(flow["flow"].get(name), Some(&Value::Null), "{flow}");
        }
        assert_eq!(flow["mailflow"]["payload_up"], json!(1_400), "what it tells: {flow}");
    }
    // The evidence is a flow log too, with the same unknown fields.
    let evidence = lines(alert["flows"].as_array().unwrap().iter().map(Value::to_string));
    let again = backtest(&[], &config, &[files.write("evidence", evidence)]);
    assert_eq!(again.code, 0, "{}", again.log);
    assert_eq!(again.alerts[0]["mailflow"]["up"], unknown);

    let known = backtest(&[], &config, &[files.write("known", columns(&sessions()))]);
    assert_eq!(known.alerts[0]["mailflow"]["up"], json!({ "packets": 30, "bytes": 6_000 }));

    for profile in ["ecs", "ocsf"] {
        let alerts = files.path(profile);
        let outputs = format!(
            "outputs: {{ alerts: [{{ type: file, path: {}, profile: {profile} }}] }}\n",
            alerts.display()
        );
        let config = files.write("config.yaml", rule(&outputs));
        let mut command = Command::new(agent_binary().unwrap());
        let output = command.args(["backtest", "--config"]).arg(&config).arg(&log);
        let output = output.args(["--alerts", alerts.to_str().unwrap()]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = std::fs::read_to_string(&alerts).unwrap();
        let alert: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let zero = |value: &Value| value == &json!(0);
        assert!(!zero(&alert["source"]["packets"]) && !zero(&alert["source"]["bytes"]), "{profile}: {alert}");
        assert!(
            !text.contains("_toserver\":0") && !text.contains("\"messages_estimated\":0"),
            "{profile}: {alert}"
        );
    }
}
