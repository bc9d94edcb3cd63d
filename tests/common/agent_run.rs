//! Runs the agent's `backtest`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use mailflow_test_support::lab::agent_binary;
use serde_json::Value;

/// Files of one test, removed on drop.
pub(crate) struct Files(PathBuf);

impl Files {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("mailflow-backtest-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Result of a run.
#[derive(Debug)]
pub(crate) struct RunOutput {
    pub(crate) code: i32,
    pub(crate) alerts: Vec<Value>,
    pub(crate) log: String,
}

impl RunOutput {
    /// Returns rule and source of each firing alert, sorted.
    pub(crate) fn firing(&self) -> Vec<(String, String)> {
        let of = |alert: &Value| {
            let word = |value: &Value| value.as_str().unwrap().to_owned();
            (word(&alert["alert"]["rule"]), word(&alert["src_ip"]))
        };
        let mut firing: Vec<_> =
            self.alerts.iter().filter(|alert| alert["alert"]["state"] == "firing").map(of).collect();
        firing.sort();
        firing
    }

    /// Returns the identity and the value of each alert.
    pub(crate) fn identities(&self) -> Vec<String> {
        let identity = |line: &Value| {
            let alert = &line["alert"];
            let parts = ["rule", "state", "fingerprint", "starts_at", "ends_at", "value", "at_bound"];
            let parts: Vec<String> = parts.iter().map(|part| alert[part].to_string()).collect();
            format!("{} {}", line["timestamp"], parts.join(" "))
        };
        let mut identities: Vec<_> = self.alerts.iter().map(identity).collect();
        identities.sort();
        identities
    }
}

/// Runs one of the agent's commands that write alerts to standard output.
pub(crate) fn agent(command: &str, options: &[&str], config: &Path, files: &[PathBuf]) -> RunOutput {
    let output = Command::new(agent_binary().unwrap())
        .arg(command)
        .args(["--alerts", "-", "--config"])
        .arg(config)
        .args(options)
        .args(files)
        .env("RUST_LOG", "info")
        .output()
        .unwrap();
    let alerts = String::from_utf8(output.stdout).unwrap();
    RunOutput {
        code: output.status.code().unwrap(),
        alerts: alerts.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        log: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) fn backtest(options: &[&str], config: &Path, logs: &[PathBuf]) -> RunOutput {
    agent("backtest", options, config, logs)
}

/// Returns a configuration with one rule for each `(name, size test, threshold)`.
pub(crate) fn rules(rules: &[(&str, &str, u64)]) -> String {
    let mut text = "rules:\n".to_owned();
    for (name, size, at_least) in rules {
        text += &format!(
            "  - name: {name}\n    match: {{ size: {size} }}\n    window: {{ length: 1h }}\n    \
             condition: {{ count: {{ at_least: {at_least} }} }}\n"
        );
    }
    text
}
