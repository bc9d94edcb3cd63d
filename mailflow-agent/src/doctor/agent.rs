//! The agent, if one runs.

use std::path::Path;

use super::Finding;
use crate::control::{Client, Durability, Lookout, Reply, Request, Status, Unlisted};

/// Returns the status of the running agent, if it answers, and the findings about it.
pub(super) fn ask(socket: Option<&Path>) -> (Option<Status>, Vec<Finding>) {
    let Some(socket) = socket else { return (None, Vec::new()) };
    match Client::connect(socket).and_then(|mut client| client.call(&Request::Status)) {
        Ok(Reply::Status(status)) => {
            let findings = judge(&status);
            (Some(*status), findings)
        }
        Ok(_) => (None, vec![Finding::warn("agent", "one of another version runs", "restart it")]),
        Err(error) => (None, vec![Finding::warn("agent", error.to_string(), "start it: mailflow-agent run")]),
    }
}

fn judge(status: &Status) -> Vec<Finding> {
    let mut findings =
        vec![Finding::ok("agent", format!("runs, version {}, process {}", status.version, status.pid))];
    let conservation = &status.conservation;
    let missing =
        [conservation.packets, conservation.bytes].iter().any(|ways| ways.up != 0 || ways.down != 0);
    findings.push(if missing {
        Finding::bad(
            "conservation",
            "packets that were counted are held nowhere",
            "report it with `mailflow-agent status`",
        )
    } else if conservation.unattributed_packets.up + conservation.unattributed_packets.down > 0 {
        Finding::warn(
            "conservation",
            "some packets found no room and belong to no source",
            "raise flow_table.flows and flow_table.overflow_sources",
        )
    } else {
        Finding::ok("conservation", "every packet that was counted is held")
    });
    findings.push(if status.delivered_twice {
        Finding::bad(
            "delivery",
            "packets come twice, and are counted twice",
            "let a mirror send what enters its ports or what leaves them, not both; elsewhere watch a bridge or its ports, an interface or what is stacked on it, not both",
        )
    } else {
        Finding::ok("delivery", "packets come once")
    });
    let Unlisted { prefixes, flows, clients } = &status.unlisted;
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
    for place in
        status.interfaces.iter().filter(|place| !place.attached || place.position.is_some_and(|at| at > 1))
    {
        let where_ = format!("{} {}", place.interface, place.direction);
        findings.push(if place.attached {
            Finding::warn(
                where_,
                "another program comes first",
                "what it accepts is not seen; see docs/operate/interfaces.md",
            )
        } else {
            Finding::bad(where_, "the program is not attached", "see the agent's log")
        });
    }
    match status.lookout {
        Some(Lookout { process: Some(process) }) => {
            findings.push(Finding::ok("lookout", format!("process {process} looks at the hooks")));
        }
        Some(Lookout { process: None }) => findings.push(Finding::warn(
            "lookout",
            "the process that looks at the hooks is gone: whether another program comes first at TCX is not known",
            "counting goes on; restart the agent, and see its log",
        )),
        None => {}
    }
    if let Some(Durability { durable: false, cause, .. }) = &status.durability {
        findings.push(Finding::bad(
            "state",
            format!("not written: {}", cause.as_deref().unwrap_or("no cause is known")),
            "make room on its disk, or raise state.max_size; until then a crash loses what the rules learn",
        ));
    }
    for sink in &status.sinks {
        let refused = sink.numbers.get("refused_alerts").copied().unwrap_or(0);
        if refused > 0 {
            findings.push(Finding::bad(
                format!("{} refusals", sink.name),
                format!("the receiver refuses {refused} alerts, which are posted again"),
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
    findings.extend(status.notes.iter().map(|note| Finding::ok("life", note)));
    findings
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};
    use crate::control::{Place, Ways};

    #[test]
    fn what_is_wrong_is_bad() {
        let worst = |status: &Status| judge(status).iter().map(|finding| finding.verdict).max();
        let mut status = Status { config_good: true, ..Status::default() };
        assert_eq!(worst(&status), Some(Verdict::Ok));
        status.interfaces = vec![Place { attached: true, position: Some(2), ..Place::default() }];
        assert_eq!(worst(&status), Some(Verdict::Warn));
        status.interfaces.clear();
        status.lookout = Some(Lookout { process: Some(7) });
        assert_eq!(worst(&status), Some(Verdict::Ok));
        status.unlisted.flows = 3;
        assert_eq!(worst(&status), Some(Verdict::Warn));
        status.unlisted.flows = 0;
        status.warnings = vec!["pins".to_owned()];
        assert_eq!(worst(&status), Some(Verdict::Warn));
        status.warnings.clear();
        status.lookout = Some(Lookout { process: None });
        assert_eq!(worst(&status), Some(Verdict::Warn));
        status.durability = Some(Durability { durable: true, ..Durability::default() });
        assert_eq!(worst(&status), Some(Verdict::Warn));
        status.durability = Some(Durability::default());
        assert_eq!(worst(&status), Some(Verdict::Bad));
        status.durability = None;
        status.conservation.bytes = Ways { up: 0, down: -1 };
        assert_eq!(worst(&status), Some(Verdict::Bad));
    }
}
