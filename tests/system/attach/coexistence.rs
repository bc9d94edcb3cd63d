//! Other programs at the same hooks: the agent's programs see every packet, and so do the others.

use mailflow_test_support::lab::{Bystander, Lab, LabOptions, Slot, Verdict, detach_links};

use super::watched::{again, all_is_counted, attached, metric, position, send, start, wait_for_metric};

#[test]
fn agent_counts_behind_accepting_tcx_program() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let other = Bystander::load("earlier", Verdict::TcPass).unwrap();
    let _in = other.attach(&lab.gateway, "lan0", Slot::TcxIngressFirst).unwrap();
    let out = Bystander::load("earlier_out", Verdict::TcPass).unwrap();
    let _out = out.attach(&lab.gateway, "lan0", Slot::TcxEgressFirst).unwrap();
    let mut agent = start(&lab, "--interface lan0 --role lan --hook tc");
    for direction in ["ingress", "egress"] {
        wait_for_metric(&agent, &position("tcx", direction), 1);
    }
    let before = (other.seen().unwrap(), out.seen().unwrap());
    all_is_counted(&lab, &[&agent]);
    let shown = kernel_buffers(&agent);
    // The other program sees what the agent's program sees: mail and other traffic.
    assert!(
        other.seen().unwrap() - before.0 >= shown[0],
        "the earlier program sees too few packets: {other:?}"
    );
    assert!(out.seen().unwrap() - before.1 >= shown[1], "the earlier program sees too few packets: {out:?}");
    assert!(agent.stop().unwrap().success());
    let gone = other.seen().unwrap();
    send(&lab);
    assert!(other.seen().unwrap() > gone, "the other program was detached with ours");
}

#[test]
fn program_attached_in_front_is_reported_and_passed_once() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let mut agent = start(&lab, "--interface lan0 --role lan --hook tc");
    wait_for_metric(&agent, &position("tcx", "ingress"), 1);
    let other = Bystander::load("pushy", Verdict::TcPass).unwrap();
    let link = other.attach(&lab.gateway, "lan0", Slot::TcxIngressFirst).unwrap();
    changed(&lab);
    wait_for_metric(&agent, &again("ingress"), 1);
    wait_for_metric(&agent, &position("tcx", "ingress"), 1);
    assert_eq!(metric(&agent, &again("egress")), Some(0), "egress was not changed");
    let log = agent.log();
    assert!(log.contains("the program is not the first") && log.contains("pushy (id "), "{log}");
    let before = other.seen().unwrap();
    all_is_counted(&lab, &[&agent]);
    assert!(
        other.seen().unwrap() - before >= kernel_buffers(&agent)[0],
        "the other program sees too few packets"
    );

    // The agent does not compete with a program that attaches first repeatedly: it only reports the position.
    drop(link);
    let _link = other.attach(&lab.gateway, "lan0", Slot::TcxIngressFirst).unwrap();
    changed(&lab);
    wait_for_metric(&agent, &position("tcx", "ingress"), 2);
    changed(&lab);
    assert_eq!(metric(&agent, &again("ingress")), Some(1), "{}", agent.log());
    assert!(agent.stop().unwrap().success());
}

#[test]
fn second_agent_in_front_keeps_its_position() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let mut first = start(&lab, "--interface lan0 --role lan --hook tc");
    let mut second = start(&lab, "--interface lan0 --role lan --hook tc --metrics 127.0.0.1:10826");
    changed(&lab);
    wait_for_metric(&first, &position("tcx", "ingress"), 2);
    wait_for_metric(&second, &position("tcx", "ingress"), 1);
    all_is_counted(&lab, &[&first, &second]);
    for agent in [&first, &second] {
        assert_eq!(metric(agent, &again("ingress")), Some(0), "{}", agent.log());
    }
    assert!(first.stop().unwrap().success() && second.stop().unwrap().success());
}

#[test]
fn detached_programs_are_reattached() {
    for (hook, name) in [("xdp", "xdp.frags"), ("tc", "tcx")] {
        let lab = Lab::new(&LabOptions::default()).unwrap();
        let mut agent = start(&lab, &format!("--interface lan0 --role lan --hook {hook}"));
        wait_for_metric(&agent, &position(name, "ingress"), 1);
        assert_eq!(detach_links(&lab.gateway, "lan0").unwrap(), 2);
        changed(&lab);
        wait_for_metric(&agent, &again("ingress"), 1);
        wait_for_metric(&agent, &again("egress"), 1);
        wait_for_metric(&agent, &attached(name, "ingress"), 1);
        let log = agent.log();
        assert_eq!(log.matches("the program was taken away").count(), 2, "{log}");
        all_is_counted(&lab, &[&agent]);
        assert!(agent.stop().unwrap().success());
    }
}

/// Triggers a link event, so that the agent verifies its hooks before the minute is over.
pub(crate) fn changed(lab: &Lab) {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    lab.gateway.ip(&format!("link set lan0 alias change-{number}")).unwrap();
}

/// Returns the buffers counted up (ingress) and down (egress).
fn kernel_buffers(agent: &mailflow_test_support::lab::Agent) -> [u64; 2] {
    ["up", "down"].map(|direction| {
        metric(agent, &format!("mailflow_kernel_buffers_total{{direction=\"{direction}\"}}")).unwrap()
    })
}
