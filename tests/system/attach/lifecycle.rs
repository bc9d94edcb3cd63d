//! Interfaces that are removed, created again and renamed while the agent runs.

use mailflow_test_support::lab::{Hosts, Lab, LabOptions, wait_for};

use super::watched::{SECONDS, again, all_is_counted, attached, metric, position, start, wait_for_metric};

pub(crate) fn lab() -> Lab {
    Lab::new(&LabOptions { hosts: Hosts::ClientAndInside, ..LabOptions::default() }).unwrap()
}

/// Creates `lan0` and the client's `eth0` again, as before.
pub(crate) fn make_lan0(lab: &Lab) {
    let client = lab.client.name();
    lab.gateway.ip(&format!("link add lan0 type veth peer name eth0 netns {client}")).unwrap();
    lab.gateway.ip("link set lan0 up").unwrap();
    lab.client.ip("link set eth0 up").unwrap();
    lab.gateway.ip("address add 10.20.0.1/24 dev lan0").unwrap();
    lab.client.ip("address add 10.20.0.2/24 dev eth0").unwrap();
    lab.client.ip("route add default via 10.20.0.1").unwrap();
}

#[test]
fn recreated_interface_is_reattached() {
    for (hook, name) in [("xdp", "xdp.frags"), ("tc", "tcx")] {
        let lab = lab();
        let options = format!("--interface lan0 --interface lan1 --role lan --hook {hook}");
        let mut agent = start(&lab, &options);
        all_is_counted(&lab, &[&agent]);
        lab.gateway.ip("link del lan0").unwrap();
        wait_for_metric(&agent, &attached(name, "ingress"), 0);
        wait_for_metric(&agent, &attached("tcx", "egress"), 0);
        assert_eq!(metric(&agent, &position("tcx", "egress")), None);
        let other = attached(name, "ingress").replace("lan0", "lan1");
        assert_eq!(metric(&agent, &other), Some(1), "the other interface is watched on");
        make_lan0(&lab);
        wait_for_metric(&agent, &attached(name, "ingress"), 1);
        wait_for_metric(&agent, &attached("tcx", "egress"), 1);
        all_is_counted(&lab, &[&agent]);
        for direction in ["ingress", "egress"] {
            assert_eq!(metric(&agent, &again(direction)), Some(1), "{}", agent.log());
        }
        let log = agent.log();
        assert_eq!(log.matches("the interface is gone").count(), 1, "{log}");
        assert!(!log.contains("poll failed"), "{log}");
        assert!(agent.stop().unwrap().success());
    }
}

#[test]
fn interface_change_is_followed_before_next_poll() {
    let lab = lab();
    let mut agent = start(&lab, "--interface lan1 --role lan --poll-interval 60s");
    let series = attached("tcx", "ingress").replace("lan0", "lan1");
    wait_for_metric(&agent, &series, 1);
    lab.gateway.ip("link del lan1").unwrap();
    wait_for_metric(&agent, &series, 0);
    lab.gateway.ip("link add lan1 type veth peer name other").unwrap();
    wait_for_metric(&agent, &series, 1);
    assert!(agent.stop().unwrap().success());
}

#[test]
fn renamed_interface_is_followed_until_name_is_reused() {
    let lab = lab();
    let mut agent = start(&lab, "--interface lan0 --role lan");
    all_is_counted(&lab, &[&agent]);
    // Down first: before 6.2 the kernel refuses to rename an interface that is up.
    for words in ["lan0 down", "lan0 name office", "office up"] {
        lab.gateway.ip(&format!("link set {words}")).unwrap();
    }
    all_is_counted(&lab, &[&agent]);
    let renames = || agent.log().matches("the interface was renamed").count();
    wait_for("the log reports it", SECONDS, || Ok((renames() > 0).then_some(()))).unwrap();
    assert_eq!(renames(), 1, "{}", agent.log());
    assert_eq!(metric(&agent, &attached("tcx", "ingress")), Some(1));
    assert_eq!(metric(&agent, &again("ingress")), Some(0), "its program stayed attached");

    // Another interface takes the name: the agent watches the interface that a restart would select.
    for words in ["lan1 down", "lan1 name lan0", "lan0 up"] {
        lab.gateway.ip(&format!("link set {words}")).unwrap();
    }
    wait_for_metric(&agent, &again("ingress"), 1);
    assert!(agent.log().contains("another interface bears the name now"), "{}", agent.log());
    assert!(agent.stop().unwrap().success());
}

#[test]
fn swapped_interface_names_are_followed_as_after_restart() {
    let lab = lab();
    let mut agent = start(&lab, "--interface lan0 --interface lan1 --role lan --hook tc");
    all_is_counted(&lab, &[&agent]);
    for words in
        ["lan0 down", "lan1 down", "lan0 name swap", "lan1 name lan0", "swap name lan1", "lan0 up", "lan1 up"]
    {
        lab.gateway.ip(&format!("link set {words}")).unwrap();
    }
    // The metrics show the old attachments until the agent follows, but never a reattachment too early.
    for direction in ["ingress", "egress"] {
        wait_for_metric(&agent, &again(direction), 1);
        wait_for_metric(&agent, &again(direction).replace("lan0", "lan1"), 1);
    }
    all_is_counted(&lab, &[&agent]);
    assert!(agent.stop().unwrap().success());
}
