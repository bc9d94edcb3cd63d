//! Examples in README.md, compared with the program.

use std::fs;

use mailflow_agent::{cli, config};
use mailflow_test_support::lab::workspace;
use serde_json::Value;

/// Returns the text of a page.
fn page(name: &str) -> String {
    fs::read_to_string(workspace().join(name)).unwrap()
}

/// Returns the contents of a page's fenced blocks with this info string.
fn blocks(name: &str, info: &str) -> Vec<String> {
    let text = page(name);
    let fence = format!("```{info}\n");
    let starts = text.match_indices(&fence).map(|(at, fence)| at + fence.len());
    starts.map(|start| text[start..start + text[start..].find("```").unwrap()].to_owned()).collect()
}

#[test]
fn readme_example_configuration_is_valid() {
    let examples = blocks("README.md", "yaml");
    assert_eq!(examples.len(), 1);
    let config = config::parse("example.yaml", &examples[0]).unwrap();
    assert_eq!(config.interfaces.len(), 2);
    let internal = |ip: &str| config.engine.internal.find(ip.parse().unwrap()).is_some();
    assert!(internal("10.1.2.3") && !internal("10.99.0.1") && internal("2001:db8:42::1"));
}

#[test]
fn readme_invalid_example_gives_shown_errors() {
    let page = "docs/operate/configuration.md";
    let faulty = &blocks(page, "yaml bad.yaml")[0];
    let faults = config::parse("bad.yaml", faulty).unwrap_err();
    assert_eq!(faults.to_string().trim(), blocks(page, "text bad.yaml")[0].trim());
}

#[test]
fn readme_alerts_have_documented_fields() {
    let documented = page("docs/integrate/events.md");
    for shown in ["README.md", "docs/operate/alerts.md"] {
        let alert: Value = serde_json::from_str(&blocks(shown, "json")[0]).unwrap();
        for name in ["timestamp", "event_type", "src_ip", "alert", "mailflow", "flows"] {
            assert!(alert.get(name).is_some(), "{shown}: {name}");
        }
        for section in ["alert", "mailflow"] {
            for name in alert[section].as_object().unwrap().keys() {
                let listed = documented.contains(&format!("`{section}.{name}"));
                assert!(listed, "{shown}: {section}.{name} is not documented");
            }
        }
        assert_eq!(alert["alert"]["rule"], "smtp-burst");
        assert_eq!(
            (&alert["alert"]["severity"], &alert["mailflow"]["severity"]),
            (&1.into(), &"high".into())
        );
        let id = mailflow_engine::settings::signature_id("smtp-burst");
        assert_eq!(alert["alert"]["signature_id"], id);
        assert!(alert["alert"]["value"].as_u64() >= alert["alert"]["threshold"].as_u64());
    }
}

#[test]
fn readme_commands_exist() {
    for typed in [
        "run --interface eth1",
        "run --interface eth1 --interface eth2 --role lan --hook tc --flow-log - --alerts a.json",
        "replay a.pcap b.pcapng --flow-log - --alerts off --ports 25,587 --role mirror --drain",
        "backtest a.json b.log.gz --alerts - --l2-overhead 18 --drain --config c.yaml",
        "rules test a.yaml b.yaml",
        "check-config a.yaml b.yaml",
        "status --json",
        "top --once --sort flows --filter 10.",
        "reload --socket /run/a.sock",
        "doctor --interface eth1 --role lan --json",
        "print-config",
        "completions bash",
        "man target/man",
    ] {
        let arguments = ["mailflow-agent"].into_iter().chain(typed.split_whitespace());
        assert!(cli::parse_from(arguments).is_ok(), "{typed}");
    }
}
