//! Messages to the service manager, dropped capabilities, and the findings of `doctor`.

use std::{os::unix::net::UnixDatagram, time::Duration};

use mailflow_test_support::lab::agent_binary;
use serde_json::Value;

use crate::gateway::{Gateway, add};

#[test]
fn service_manager_is_notified_and_capabilities_are_dropped() {
    let gateway = Gateway::new(100);
    let path = gateway.lab.folder().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let receive = |what: &str| {
        let mut bytes = [0; 4096];
        loop {
            let length = manager.recv(&mut bytes).unwrap_or_else(|error| panic!("no {what}: {error}"));
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if text.lines().any(|line| line == what) {
                return text;
            }
        }
    };
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "3000000")];
    let mut agent = gateway.start("", &environment);
    assert!(receive("READY=1").contains("STATUS=counting"));
    receive("WATCHDOG=1");
    agent.process().signal(libc::SIGHUP).unwrap();
    assert!(receive("RELOADING=1").contains("MONOTONIC_USEC="));
    receive("READY=1");

    // No thread has a capability; the suite `attach` tests the helper process.
    let pid = agent.process().pid();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap();
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            let value = status.lines().find_map(|line| line.strip_prefix(set)).unwrap().trim();
            assert_eq!(u64::from_str_radix(value, 16).unwrap(), 0, "{set} of\n{status}");
        }
    }
    let mut sent = gateway.send();
    gateway.expect(&agent, sent);
    // The interface is attached again, and packets are counted.
    gateway.lab.gateway.ip("link set lan0 down").unwrap();
    gateway.lab.gateway.ip("link set lan0 name lan9").unwrap();
    gateway.lab.gateway.ip("link set lan9 name lan0").unwrap();
    gateway.lab.gateway.ip("link set lan0 up").unwrap();
    add(&mut sent, gateway.send());
    gateway.expect(&agent, sent);
    agent.stop().unwrap();
    receive("STOPPING=1");
}

#[test]
fn doctor_gives_advice() {
    let gateway = Gateway::new(100);
    let binary = agent_binary().unwrap();
    let config = gateway.lab.folder().join("gateway.yaml");
    let doctor = |more: &str| {
        let line = format!("{} doctor --config {} --json {more}", binary.display(), config.display());
        serde_json::from_str::<Vec<Value>>(&gateway.lab.gateway.run(&line).unwrap()).unwrap()
    };
    let found = doctor("");
    let verdict = |found: &[Value], what: &str| {
        let finding = found.iter().find(|finding| finding["what"] == what);
        finding.unwrap_or_else(|| panic!("no {what} in {found:#?}"))["verdict"].as_str().unwrap().to_owned()
    };
    for what in ["kernel", "capabilities", "after start", "lan0 role", "lan0 others"] {
        assert_eq!(verdict(&found, what), "ok", "{what}: {found:#?}");
    }
    // An interface on the outside must not have the role `lan`.
    gateway.lab.gateway.ip("route add default via 93.184.215.25 dev wan0").unwrap();
    let found = doctor("--interface wan0 --role lan");
    assert_eq!(verdict(&found, "wan0 role"), "warn", "{found:#?}");
    let missing = format!("{} doctor --interface nosuch", binary.display());
    assert!(gateway.lab.gateway.run(&missing).is_err(), "an interface that is not there is bad");
}
