//! Counting across a restart, an upgrade, a stop and a removal, under systemd.

use std::{
    sync::atomic::{AtomicBool, Ordering},
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
    wait_for("a record of each flow", Duration::from_secs(60), all)
        .unwrap_or_else(|error| panic!("{error:#}: {} of {flows}\n{}", recorded(gateway), gateway.told()));
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
    assert_eq!(played.failed, [0], "{}", played.said);
    let [gateway] = &gateways;

    let (busy, begun) =
        (AtomicBool::new(true), gateway.host.run("systemctl show --property=MainPID mailflow-agent"));
    let flows = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut flows = 0;
            while busy.load(Ordering::Relaxed) {
                gateway.connect();
                flows += 1;
            }
            flows
        });
        thread::sleep(Duration::from_secs(1));
        // For dpkg, the same package is an upgrade too.
        gateway.host.run("dpkg --install /var/cache/apt/archives/mailflow-agent-ansible.deb").unwrap();
        gateway.host.run("systemctl restart mailflow-agent").unwrap();
        thread::sleep(Duration::from_secs(1));
        busy.store(false, Ordering::Relaxed);
        sender.join().unwrap()
    });
    assert_ne!(gateway.host.run("systemctl show --property=MainPID mailflow-agent").unwrap(), begun.unwrap());
    assert!(flows > 5, "{flows} flows");
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
