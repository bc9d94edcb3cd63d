//! `status` and `top` with a running agent.

use std::{
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
    time::Duration,
};

use mailflow_test_support::lab::{Agent, Family, Lab, LabOptions, agent_binary, wait_for};
use serde_json::Value;

use crate::watched::{SECONDS, all_is_counted, send, start};

/// Runs the agent's binary with `words`, blank-separated, and `--socket`.
pub(crate) fn ask(agent: &Agent, words: &str) -> Output {
    let mut command = Command::new(agent_binary().unwrap());
    command.args(words.split_whitespace()).arg("--socket").arg(agent.socket());
    command.output().unwrap()
}

/// Returns the status as JSON.
pub(crate) fn status(agent: &Agent) -> Value {
    serde_json::from_slice(&ask(agent, "status --json").stdout).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn status_and_top_read_running_agent() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let mut agent = start(&lab, "--interface lan0 --role lan --hook tc --poll-interval 100ms");
    all_is_counted(&lab, &[&agent]);
    let source = lab.client_ip(Family::V4, 0).to_string();

    let found = status(&agent);
    assert_eq!(found["pid"], agent_pid(&agent, &found), "{found:#}");
    assert_eq!((&found["config_good"], &found["config"]), (&true.into(), &Value::Null));
    let places: Vec<_> = found["interfaces"].as_array().unwrap().iter().collect();
    assert_eq!(places.len(), 2, "{found:#}");
    for place in places {
        assert_eq!(
            (&place["interface"], &place["hook"], &place["position"]),
            (&"lan0".into(), &"tcx".into(), &1.into())
        );
    }
    assert_eq!(
        (&found["flows"]["entries"], &found["flows"]["capacity"], &found["sources"]),
        (&1.into(), &262_144.into(), &1.into())
    );
    assert_eq!(found["conservation"]["packets"], serde_json::json!({ "up": 0, "down": 0 }));
    assert_eq!(
        (&found["rules"][0]["name"], &found["rules"][0]["window_seconds"]),
        (&"smtp-burst".into(), &3_600.into())
    );
    assert_eq!(found["outputs"][0]["name"], "alerts");

    let shown = ask(&agent, "status");
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    let shown = text(&shown.stdout);
    for part in [
        "lan0 ingress by tcx: attached, position 1",
        "every counted packet is accounted for",
        "smtp-burst v1, high, 1h",
    ] {
        assert!(shown.contains(part), "no {part} in\n{shown}");
    }
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");

    let top = ask(&agent, "top --once --sort packets");
    let lines: Vec<String> = text(&top.stdout).lines().map(str::to_owned).collect();
    assert_eq!((top.status.code(), lines.len()), (Some(0), 2), "{lines:?}");
    let row: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!((row[0], row[1..].len()), (source.as_str(), 6), "{lines:?}");
    let other = ask(&agent, "top --filter 10.99.");
    assert_eq!(
        (other.status.code(), text(&other.stdout).lines().count()),
        (Some(0), 1),
        "a header, as it is no terminal"
    );

    let explained = ask(&agent, &format!("explain {source}"));
    let shown = text(&explained.stdout);
    assert_eq!(explained.status.code(), Some(0), "{}", text(&explained.stderr));
    assert!(
        shown.starts_with(&format!("{source} is internal by `")) && shown.contains("no flow yet"),
        "{shown}"
    );
    let suggested = ask(&agent, "suggest");
    assert_eq!(text(&suggested.stdout), "# Nothing behaves like a relay so far.\n");

    let socket = agent.socket().to_owned();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    agent.stop().unwrap();
    assert!(!socket.exists());
    let gone = ask(&agent, "status");
    assert_eq!(gone.status.code(), Some(1));
    assert!(text(&gone.stderr).contains("cannot connect to the agent at"), "{}", text(&gone.stderr));
}

/// Returns the agent's pid; checks that the answering process is the started one.
fn agent_pid(agent: &Agent, found: &Value) -> u64 {
    let pid = found["pid"].as_u64().unwrap();
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let socket = agent.socket().to_str().unwrap().to_owned();
    assert!(text(&command).contains(&socket), "{}", text(&command));
    pid
}

#[test]
fn continuous_requests_do_not_delay_counting() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let agent = start(&lab, "--interface lan0 --role lan --poll-interval 100ms");
    let polls = || -> u64 {
        let metrics = agent.metrics().unwrap();
        let line =
            metrics.lines().find_map(|line| line.strip_prefix("mailflow_poll_duration_seconds_count "));
        line.unwrap().parse().unwrap()
    };
    let before = polls();
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = mailflow_agent::control::Client::connect(agent.socket()).unwrap();
                    let mut answers = 0;
                    while polls() < before + 20 {
                        for request in
                            [mailflow_agent::control::Request::Status, mailflow_agent::control::Request::Top]
                        {
                            client.call(&request).unwrap();
                            answers += 1;
                        }
                    }
                    answers
                })
            })
            .collect();
        send(&lab);
        assert!(askers.into_iter().all(|asker| asker.join().unwrap() > 0));
    });
    wait_for("a status without loss", SECONDS.max(Duration::from_secs(1)), || {
        let found = status(&agent);
        let ways = &found["conservation"]["packets"];
        Ok((ways["up"] == 0 && ways["down"] == 0).then_some(()))
    })
    .unwrap();
}
