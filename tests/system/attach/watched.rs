//! Agent on a lab's `lan0`, and its counters.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use mailflow_test_support::lab::{Agent, Family, Lab, TcpFacts, agent_binary, transfer, wait_for};

/// Timeout of the agent's reaction to a change.
pub(crate) const SECONDS: Duration = Duration::from_secs(60);

/// Starts the agent on the gateway. It polls often, unless the options have an interval.
pub(crate) fn start(lab: &Lab, options: &str) -> Agent {
    start_binary(lab, &agent_binary().unwrap(), options)
}

/// Starts a program as [`start`] does.
pub(crate) fn start_binary(lab: &Lab, binary: &Path, options: &str) -> Agent {
    let interval = if options.contains("--poll-interval") { "" } else { " --poll-interval 100ms" };
    Agent::start(&lab.gateway, binary, lab.folder(), "agent", &format!("{options}{interval}")).unwrap()
}

/// Returns the value of a series, if the metrics have it.
pub(crate) fn metric(agent: &Agent, series: &str) -> Option<u64> {
    let metrics = agent.metrics().unwrap();
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

/// Waits until a series has this value.
pub(crate) fn wait_for_metric(agent: &Agent, series: &str, value: u64) {
    let waited = wait_for(&format!("{series} {value}"), SECONDS, || {
        Ok((metric(agent, series) == Some(value)).then_some(()))
    });
    waited.unwrap_or_else(|error| panic!("{error:#}\n{}\n{}", agent.metrics().unwrap(), agent.log()));
}

/// Returns the series `mailflow_attached` of a hook of lan0.
pub(crate) fn attached(hook: &str, direction: &str) -> String {
    format!("mailflow_attached{{interface=\"lan0\",hook=\"{hook}\",direction=\"{direction}\"}}")
}

/// Returns the series `mailflow_program_position` of a hook of lan0.
pub(crate) fn position(hook: &str, direction: &str) -> String {
    attached(hook, direction).replace("mailflow_attached", "mailflow_program_position")
}

/// Returns the series `mailflow_reattachments_total` of a direction of lan0.
pub(crate) fn again(direction: &str) -> String {
    format!("mailflow_reattachments_total{{interface=\"lan0\",direction=\"{direction}\"}}")
}

/// Transfers some bytes between client and server.
pub(crate) fn send(lab: &Lab) -> TcpFacts {
    let server = SocketAddr::new(lab.server_ip(Family::V4), 25);
    transfer(&lab.client, &lab.server, server, 40_000, 40_000).unwrap().client_facts
}

/// Transfers some bytes and waits until each agent has counted exactly the packets of both kernels' TCP_INFO,
/// up and down.
pub(crate) fn all_is_counted(lab: &Lab, agents: &[&Agent]) {
    let before: Vec<_> = agents.iter().map(|agent| counted(agent)).collect();
    let truth = send(lab);
    let expected = [u64::from(truth.segments_out), u64::from(truth.segments_in)];
    for (agent, before) in agents.iter().zip(before) {
        let waited = wait_for("every packet is counted", SECONDS, || {
            let now = counted(agent);
            Ok(([now[0] - before[0], now[1] - before[1]] == expected).then_some(()))
        });
        waited.unwrap_or_else(|error| {
            panic!("{error:#}: {before:?} and {expected:?} is not {:?}\n{}", counted(agent), agent.log())
        });
    }
}

/// Returns the packets up and down so far.
fn counted(agent: &Agent) -> [u64; 2] {
    ["up", "down"].map(|direction| {
        metric(agent, &format!("mailflow_packets_total{{service=\"smtp\",direction=\"{direction}\"}}"))
            .unwrap()
    })
}
