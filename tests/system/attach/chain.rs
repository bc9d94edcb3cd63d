//! Hooks that refuse the program: the fallbacks and their log lines.

use mailflow_test_support::lab::{Bystander, Lab, LabOptions, Slot, Verdict};

use super::watched::{all_is_counted, attached, start, wait_for_metric};

#[test]
fn occupied_native_xdp_falls_back_to_tc() {
    for slot in [Slot::NativeXdp, Slot::GenericXdp] {
        let lab = Lab::new(&LabOptions::default()).unwrap();
        let other = Bystander::load("firewall", Verdict::XdpPass).unwrap();
        let _link = other.attach(&lab.gateway, "lan0", slot).unwrap();
        let mut agent = start(&lab, "--interface lan0 --role lan --hook xdp");
        wait_for_metric(&agent, &attached("tcx", "ingress"), 1);
        let log = agent.log();
        for hook in ["xdp.frags", "xdp"] {
            let line = format!("hook=\"{hook}\" reason=another XDP program or mode is in place");
            assert!(log.contains(&line), "no `{line}` in\n{log}");
        }
        let before = other.seen().unwrap();
        // Generic XDP may not see merged buffers; the other program keeps the hook, and TC counts.
        all_is_counted(&lab, &[&agent]);
        assert!(other.seen().unwrap() > before, "the other program sees no packet");
        assert!(agent.stop().unwrap().success());
        let link = lab.gateway.ip("-details link show lan0").unwrap();
        assert!(link.contains("xdp"), "the other program was detached: {link}");
    }
}

#[test]
fn large_mtu_falls_back_from_native_xdp() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    for (ns, port) in [(&lab.gateway, "lan0"), (&lab.client, "eth0")] {
        ns.ip(&format!("link set {port} mtu 9000")).unwrap();
    }
    // veth takes an MTU of 9000 with multi-buffer frames: it refuses only programs without multi-buffer
    // support.
    let mut agent = start(&lab, "--interface lan0 --role lan --hook xdp");
    wait_for_metric(&agent, &attached("xdp.frags", "ingress"), 1);
    all_is_counted(&lab, &[&agent]);
    assert!(agent.stop().unwrap().success());
    // The loopback has no native XDP.
    let mut agent = start(&lab, "--interface lo --role host --hook xdp");
    let log = agent.log();
    assert!(log.contains("interface=\"lo\" hook=\"xdp\" reason=the driver has no native XDP"), "{log}");
    assert!(log.contains("interface=\"lo\" direction=\"ingress\" hook=\"tcx\""), "{log}");
    assert!(agent.stop().unwrap().success());
}

#[test]
fn default_hook_avoids_xdp_on_virtual_interfaces() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let mut agent = start(&lab, "--interface lan0 --role lan");
    wait_for_metric(&agent, &attached("tcx", "ingress"), 1);
    assert!(agent.log().contains("TC rather than XDP"), "{}", agent.log());
    assert!(agent.log().contains("it is a virtual interface"), "{}", agent.log());
    assert!(agent.stop().unwrap().success());
}
