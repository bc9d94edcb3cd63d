//! Alerts of the running agent and of `backtest`.

use std::{collections::BTreeSet, net::IpAddr, path::Path, process::Command};

use jiff::Timestamp;
use mailflow_test_support::lab::{Agent, agent_binary};
use serde_json::Value;

/// Rule, source, severity, and true if an allow-list suppresses the alert.
pub(super) type Identity = (String, IpAddr, String, bool);

/// Alert lines.
#[derive(Debug)]
pub(super) struct Alerts(Vec<Value>);

impl Alerts {
    pub(super) fn of(lines: &[String]) -> Self {
        Self(lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    /// Returns the alerts that fired at any time.
    pub(super) fn firing(&self) -> BTreeSet<Identity> {
        self.in_state("firing").map(identity).collect()
    }

    /// Returns the alerts that were resolved.
    pub(super) fn resolved(&self) -> BTreeSet<Identity> {
        self.in_state("resolved").map(identity).collect()
    }

    /// Returns the alerts that fired, with their fingerprints.
    pub(super) fn fingerprints(&self) -> BTreeSet<(Identity, String)> {
        let with_fingerprint =
            |line: &Value| (identity(line), line["alert"]["fingerprint"].as_str().unwrap().to_owned());
        self.in_state("firing").map(with_fingerprint).collect()
    }

    /// Returns the sources whose alerts mention relay behaviour.
    pub(super) fn relays(&self) -> BTreeSet<IpAddr> {
        let like = |line: &&Value| line["mailflow"]["like_a_relay"].is_string();
        self.0.iter().filter(like).map(|line| identity(line).1).collect()
    }

    fn in_state(&self, state: &str) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |line| line["alert"]["state"] == state)
    }
}

fn identity(line: &Value) -> Identity {
    let alert = &line["alert"];
    let word = |name: &str| alert[name].as_str().unwrap().to_owned();
    let source = line["src_ip"].as_str().unwrap().parse().unwrap();
    (
        word("rule"),
        source,
        line["mailflow"]["severity"].as_str().unwrap().to_owned(),
        alert["suppressed"].as_bool().unwrap(),
    )
}

/// Runs the agent's `backtest` on a flow log, up to the end of every window.
pub(super) fn backtest(config: &Path, log: &Path) -> Alerts {
    let mut backtest = Command::new(agent_binary().unwrap());
    backtest.args(["backtest", "--drain", "--alerts", "-", "--config"]).arg(config).arg(log);
    let output = backtest.env_remove("RUST_LOG").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    Alerts::of(&lines)
}

/// Returns the running agent's answer to a query.
pub(super) fn query(agent: &Agent, question: &str) -> String {
    let mut command = Command::new(agent_binary().unwrap());
    let output = command.args(question.split(' ')).arg("--socket").arg(agent.socket()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns a flow log with times multiplied by `factor`.
pub(super) fn stretched(log: &str, factor: u32) -> String {
    let mut lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let begin = lines.iter().map(|line| moment(&line["flow"]["start"])).min().unwrap();
    let stretch = |at: &mut Value| {
        let micros = begin + (moment(at) - begin) * i64::from(factor);
        let time = Timestamp::from_microsecond(micros).unwrap();
        *at = format!("{time:.6}").replace('Z', "+0000").into();
    };
    for line in &mut lines {
        stretch(&mut line["timestamp"]);
        stretch(&mut line["flow"]["start"]);
        stretch(&mut line["flow"]["end"]);
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Parses a timestamp to microseconds since 1970.
fn moment(text: &Value) -> i64 {
    // 2026-11-21T03:31:00.123456+0000
    let text = text.as_str().unwrap().replace("+0000", "Z");
    text.parse::<Timestamp>().unwrap().as_microsecond()
}
