//! Checks of the running agent.

use std::path::Path;

use super::Finding;
use crate::control::{Client, Durability, HelperStatus, Reply, Request, Status, UnlistedClientsStatus};

/// Returns the status of the running agent, if it answers, and the findings about it.
pub(super) fn query(socket: Option<&Path>) -> (Option<Status>, Vec<Finding>) {
    let Some(socket) = socket else { return (None, Vec::new()) };
    match Client::connect(socket).and_then(|mut client| client.call(&Request::Status)) {
        Ok(Reply::Status(status)) => {
            let findings = findings_of(&status);
            (Some(*status), findings)
        }
        Ok(_) => (None, vec![Finding::warn("agent", "an agent of another version runs", "restart it")]),
        Err(error) => (None, vec![Finding::warn("agent", error.to_string(), "start it: mailflow-agent run")]),
    }
}

fn findings_of(status: &Status) -> Vec<Finding> {
    let mut findings =
        vec![Finding::ok("agent", format!("runs, version {}, process {}", status.version, status.pid))];
    let conservation = &status.conservation;
    let missing =
        [conservation.packets, conservation.bytes].iter().any(|counts| counts.up != 0 || counts.down != 0);
    findings.push(if missing {
        Finding::bad(
            "conservation",
            "counted packets are missing in all tables",
            "report it with `mailflow-agent status`",
        )
    } else if conservation.unattributed_packets.up + conservation.unattributed_packets.down > 0 {
        Finding::warn(
            "conservation",
            "some packets are counted to no source, as all tables were full",
            "raise flow_table.flows and flow_table.overflow_sources",
        )
    } else {
        Finding::ok("conservation", "every counted packet is accounted for")
    });
    findings.push(if status.duplicate_delivery {
        Finding::bad(
            "delivery",
            "packets are delivered twice, and counted twice",
            "let a mirror send what enters its ports or what leaves them, not both; elsewhere watch a bridge or its ports, an interface or what is stacked on it, not both",
        )
    } else {
        Finding::ok("delivery", "no packet is delivered twice")
    });
    let UnlistedClientsStatus { prefixes, flows, clients } = &status.unlisted;
    if *flows > 0 {
        findings.push(Finding::warn(
            "networks",
            format!("{flows} flows came from clients in no internal network, such as {}", clients.join(", ")),
            "add their networks to internal_networks: no rule with `source: internal` counts them",
        ));
    } else if prefixes.is_empty() {
        findings.push(Finding::ok("networks", "the clients of all flows inside are in internal networks"));
    }
    for warning in &status.warnings {
        findings.push(Finding::warn("agent", warning, "see the agent's log and docs/operate/interfaces.md"));
    }
    for program in status
        .interfaces
        .iter()
        .filter(|program| !program.attached || program.position.is_some_and(|at| at > 1))
    {
        let what = format!("{} {}", program.interface, program.direction);
        findings.push(if program.attached {
            Finding::warn(
                what,
                "another program runs first",
                "packets that it accepts are not seen; see docs/operate/interfaces.md",
            )
        } else {
            Finding::bad(what, "the program is not attached", "see the agent's log")
        });
    }
    match status.hook_monitor {
        Some(HelperStatus { process: Some(process) }) => {
            findings.push(Finding::ok("hook_monitor", format!("the helper process runs, process {process}")));
        }
        Some(HelperStatus { process: None }) => findings.push(Finding::warn(
            "hook_monitor",
            "the helper process has ended: the order of programs at TCX is unknown",
            "counting goes on; restart the agent, and see its log",
        )),
        None => {}
    }
    if let Some(Durability { durable: false, cause, .. }) = &status.durability {
        findings.push(Finding::bad(
            "state",
            format!("not written: {}", cause.as_deref().unwrap_or("unknown cause")),
            "free disk space, or raise state.max_size; until then a crash loses the state of the rules",
        ));
    }
    for sink in &status.outputs {
        if sink.rejected_alerts > 0 {
            findings.push(Finding::bad(
                format!("{} rejections", sink.name),
                format!("the receiver rejects {} alerts, which are sent again", sink.rejected_alerts),
                "see the agent's log for its reason",
            ));
        }
    }
    if !status.config_good {
        findings.push(Finding::bad(
            "configuration",
            "the last attempt to load it was refused",
            "mailflow-agent check-config",
        ));
    }
    findings.extend(status.notes.iter().map(|note| Finding::ok("note", note)));
    findings
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};
    use crate::control::{DirectionCounts, ProgramStatus};

    #[test]
    fn problems_have_the_worst_verdict() {
        let worst = |status: &Status| findings_of(status).iter().map(|finding| finding.verdict).max();
        let mut status = Status { config_good: true, ..Status::default() };
        assert_eq!(worst(&status), Some(Verdict::Ok));
        status.interfaces =
            vec![ProgramStatus { attached: true, position: Some(2), ..ProgramStatus::default() }];
        assert_eq!(worst(&status), Some(Verdict::Warn));
        status.interfaces.clear();
        status.hook_monitor = Some(HelperStatus { process: Some(7) });
        assert_eq!(worst(&status), Some(Verdict::Ok));
        status.unlisted.flows = 3;
        assert_eq!(worst(&status), Some(Verdict::Warn));
        status.unlisted.flows = 0;
        status.warnings = vec!["pins".to_owned()];
        assert_eq!(worst(&status), Some(Verdict::Warn));
        status.warnings.clear();
        status.hook_monitor = Some(HelperStatus { process: None });
        assert_eq!(worst(&status), Some(Verdict::Warn));
        status.durability = Some(Durability { durable: true, ..Durability::default() });
        assert_eq!(worst(&status), Some(Verdict::Warn));
        status.durability = Some(Durability::default());
        assert_eq!(worst(&status), Some(Verdict::Bad));
        status.durability = None;
        status.conservation.bytes = DirectionCounts { up: 0, down: -1 };
        assert_eq!(worst(&status), Some(Verdict::Bad));
    }
}
