//! Counting across a restart, an upgrade, a stop and a removal, under systemd.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use mailflow_test_support::lab::wait_for;

use crate::ansible::{CONFIG, Controller, Gateway};

/// Returns the number of final records in the flow log.
fn recorded(gateway: &Gateway) -> usize {
    let text = gateway.host.run("cat /var/log/mailflow/flows.json").unwrap_or_default();
    text.lines().filter(|line| !line.contains("\"reason\":\"active\"")).count()
}

fn expect(gateway: &Gateway, flows: usize) {
    let all = || Ok((recorded(gateway) == flows).then_some(()));
    wait_for("a record of each flow", Duration::from_secs(60), all).unwrap_or_else(|error| {
        panic!("{error:#}: {} of {flows}\n{}", recorded(gateway), gateway.diagnostics())
    });
}

/// Returns the pins.
fn pinned(gateway: &Gateway) -> String {
    gateway.host.run("find /sys/fs/bpf/mailflow -mindepth 1").unwrap_or_default()
}

#[test]
fn upgrade_loses_no_packet_and_stop_detaches() {
    let gateways = [Gateway::boot()];
    let controller = Controller::new(&gateways);
    let config = format!("{CONFIG}  flow_log: /var/log/mailflow/flows.json\ntimeouts: {{ closed: 500ms }}\n");
    let played = controller.play(&[], &config);
    assert_eq!(played.failed, [0], "{}", played.output);
    let [gateway] = &gateways;

    let (sending, connections) = (AtomicBool::new(true), AtomicUsize::new(0));
    let wait_for_connections = |more: usize| {
        let wanted = connections.load(Ordering::Relaxed) + more;
        wait_for("further connections", Duration::from_secs(60), || {
            Ok((connections.load(Ordering::Relaxed) >= wanted).then_some(()))
        })
    };
    let process = || gateway.host.run("systemctl show --property=MainPID mailflow-agent").unwrap();
    let before = process();
    thread::scope(|scope| {
        scope.spawn(|| {
            while sending.load(Ordering::Relaxed) {
                gateway.connect();
                connections.fetch_add(1, Ordering::Relaxed);
            }
        });
        let upgrade = || -> anyhow::Result<()> {
            wait_for_connections(3)?;
            // For dpkg, the same package is an upgrade too.
            gateway.host.run("dpkg --install /var/cache/apt/archives/mailflow-agent-ansible.deb")?;
            gateway.host.run("systemctl restart mailflow-agent")?;
            wait_for_connections(3)
        };
        let upgraded = upgrade();
        sending.store(false, Ordering::Relaxed);
        upgraded.unwrap();
    });
    let flows = connections.into_inner();
    assert_ne!(process(), before);
    expect(gateway, flows);
    println!("{flows} flows over an upgrade and a restart");

    gateway.host.run("systemctl stop mailflow-agent").unwrap();
    assert_eq!(pinned(gateway), "", "a stop is one");
    gateway.connect();
    gateway.host.run("systemctl start mailflow-agent").unwrap();
    gateway.connect();
    expect(gateway, flows + 1);
    assert!(pinned(gateway).contains("link-ingress-lan0"));
    gateway.host.run("dpkg --remove mailflow-agent").unwrap();
    assert!(gateway.host.run("test -e /sys/fs/bpf/mailflow").is_err(), "what is removed is gone");
}
