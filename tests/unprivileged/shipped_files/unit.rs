//! Unit file, checked with systemd-analyze.

use mailflow_test_support::lab::{command, output};

use crate::files::{path, text};

const UNIT: &str = "config/systemd/mailflow-agent.service";

/// Returns the values of a setting, in order.
fn values(unit: &str, setting: &str) -> Vec<String> {
    let values = unit.lines().filter_map(|line| line.split_once('='));
    values.filter(|(name, _)| *name == setting).map(|(_, value)| value.to_owned()).collect()
}

#[test]
fn unit_exposure_is_at_most_two() {
    let mut analyze = command("systemd-analyze");
    analyze.args(["security", "--offline=yes", "--no-pager", "--threshold=20"]).arg(path(UNIT));
    let report = output(&mut analyze).unwrap();
    let line = report.lines().find(|line| line.contains("Overall exposure level")).unwrap();
    let level: f64 = line.split(": ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(level > 0.0 && level <= 2.0, "{line}");
    println!("exposure {level}");
}

#[test]
fn unit_has_only_capabilities_of_loading_and_attaching() {
    let unit = text(UNIT);
    for setting in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        assert_eq!(values(&unit, setting), ["CAP_BPF CAP_NET_ADMIN CAP_PERFMON"], "{setting}");
    }
}

#[test]
fn unit_notifies_restarts_and_has_watchdog() {
    let unit = text(UNIT);
    assert_eq!(
        (values(&unit, "Type"), values(&unit, "Restart")),
        (vec!["notify".to_owned()], vec!["always".to_owned()])
    );
    assert_eq!(values(&unit, "WatchdogSec"), ["30s"]);
    // A limit of restarts would leave the gateway uncounted after repeated kills.
    assert_eq!(values(&unit, "StartLimitIntervalSec"), ["0"]);
    assert_eq!(values(&unit, "StartLimitBurst"), [""; 0]);
}

#[test]
fn unit_reload_checks_configuration_in_use() {
    let unit = text(UNIT);
    let file = "/etc/mailflow/mailflow.yaml";
    assert_eq!(values(&unit, "ExecStart"), [format!("/usr/bin/mailflow-agent run --config {file} --keep")]);
    let reload = [
        format!("/usr/bin/mailflow-agent check-config {file}"),
        format!("/usr/bin/mailflow-agent reload --config {file}"),
    ];
    assert_eq!(values(&unit, "ExecReload"), reload);
    // The agent may write only to the unit's directories.
    assert_eq!(values(&unit, "ProtectSystem"), ["strict"]);
    let directories = ["RuntimeDirectory", "StateDirectory", "LogsDirectory", "ConfigurationDirectory"];
    assert!(directories.iter().all(|setting| values(&unit, setting) == ["mailflow"]));
}
