//! Agent without capabilities, and its helper process that queries the hooks.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use mailflow_test_support::lab::{Agent, Bystander, Lab, Slot, Verdict, agent_binary, wait_for};

use super::{
    coexistence::changed,
    lifecycle::{lab, make_lan0},
    watched::{
        SECONDS, again, all_is_counted, attached, metric, position, start, start_binary, wait_for_metric,
    },
};

/// Capability bits (linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;
const HELPER_UP: &str = "mailflow_hook_monitor_up";

/// Returns a field of /proc/.../status.
fn field(status: &str, name: &str) -> String {
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
}

fn status(path: &str) -> String {
    fs::read_to_string(format!("/proc/{path}/status")).unwrap_or_default()
}

/// Returns the union of a process's inheritable, permitted, effective and ambient sets, over all of its
/// threads.
fn capabilities(process: u32) -> u64 {
    let threads: Vec<_> = fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten().collect();
    let mut capabilities = 0;
    for thread in &threads {
        let status = fs::read_to_string(thread.path().join("status")).unwrap();
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            capabilities |= u64::from_str_radix(&field(&status, set), 16).unwrap();
        }
    }
    assert!(!threads.is_empty());
    capabilities
}

/// Returns the child processes of an agent.
fn children(agent: &mut Agent) -> Vec<u32> {
    let pid = agent.process().pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

/// Returns the helper process that queries the hooks.
fn helper_process(agent: &mut Agent) -> u32 {
    let children = children(agent);
    assert_eq!(children.len(), 1, "{children:?}");
    assert_eq!(field(&status(&children[0].to_string()), "Name:"), "mailflow-hooks");
    children[0]
}

fn configure(lab: &Lab, interface: &str, hook: &str) -> PathBuf {
    let path = lab.folder().join("watch.yaml");
    let text = format!("interfaces: [{{ name: {interface}, role: lan, hook: {hook} }}]\n");
    fs::write(&path, text).unwrap();
    path
}

/// Makes an agent do all of its duties at run time.
fn check_all_duties(lab: &Lab, agent: &mut Agent, hook: &str, name: &str) {
    let at_hook = attached(name, "ingress");
    wait_for_metric(agent, &at_hook, 1);
    assert_eq!(capabilities(agent.process().pid()), 0, "{}", agent.log());

    // Egress is always TCX.
    wait_for_metric(agent, &position("tcx", "egress"), 1);
    let other = Bystander::load("pushy", Verdict::TcNext).unwrap();
    let _link = other.attach(&lab.gateway, "lan0", Slot::TcxEgressFirst).unwrap();
    changed(lab);
    wait_for_metric(agent, &again("egress"), 1);
    wait_for_metric(agent, &position("tcx", "egress"), 1);
    all_is_counted(lab, &[agent]);

    lab.gateway.ip("link del lan0").unwrap();
    wait_for_metric(agent, &at_hook, 0);
    make_lan0(lab);
    wait_for_metric(agent, &at_hook, 1);
    all_is_counted(lab, &[agent]);

    // Another interface, and back.
    let other = at_hook.replace("lan0", "lan1");
    for (interface, watched, not) in [("lan1", &other, &at_hook), ("lan0", &at_hook, &other)] {
        configure(lab, interface, hook);
        agent.process().signal(libc::SIGHUP).unwrap();
        wait_for_metric(agent, watched, 1);
        assert_eq!(metric(agent, not), None, "{}", agent.log());
    }
    all_is_counted(lab, &[agent]);
    let log = agent.log();
    assert!(!log.contains("refused") && !log.contains("poll failed"), "{log}");
    // Threads that were started meanwhile are included.
    assert_eq!(capabilities(agent.process().pid()), 0, "{log}");
    assert!(agent.stop().unwrap().success());
}

#[test]
fn agent_as_root_works_without_capabilities() {
    for (hook, name) in [("tc", "tcx"), ("xdp", "xdp.frags")] {
        let lab = lab();
        let config = configure(&lab, "lan0", hook);
        let mut agent = start(&lab, &format!("--config {}", config.display()));
        assert_eq!(capabilities(helper_process(&mut agent)), NET_ADMIN | SYS_ADMIN);
        check_all_duties(&lab, &mut agent, hook, name);
    }
}

/// Checks an agent as under the shipped unit, or in a container: its own user, three capabilities, and no
/// capability that could change the bounding set.
#[test]
fn agent_as_service_works_without_capabilities() {
    for (hook, name) in [("tc", "tcx"), ("xdp", "xdp.frags")] {
        let lab = lab();
        fs::set_permissions(lab.folder(), fs::Permissions::from_mode(0o777)).unwrap();
        let three = "-all,+net_admin,+bpf,+perfmon";
        let script = format!(
            "#!/bin/sh\nexec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs \
             --bounding-set {three} --inh-caps {three} --ambient-caps {three} {} \"$@\"\n",
            agent_binary().unwrap().display()
        );
        let service = lab.folder().join("service");
        fs::write(&service, script).unwrap();
        fs::set_permissions(&service, fs::Permissions::from_mode(0o755)).unwrap();
        let config = configure(&lab, "lan0", hook);
        let options = format!("--config {}", config.display());
        let mut agent = start_binary(&lab, &service, &options);
        assert_eq!(capabilities(helper_process(&mut agent)), NET_ADMIN);
        check_all_duties(&lab, &mut agent, hook, name);
    }
}

#[test]
fn dead_helper_process_is_reported_and_counting_continues() {
    let lab = lab();
    let mut agent = start(&lab, "--interface lan0 --role lan --hook tc");
    wait_for_metric(&agent, HELPER_UP, 1);
    wait_for_metric(&agent, &position("tcx", "ingress"), 1);
    let process = helper_process(&mut agent);
    let kill = |signal| lab.gateway.run(&format!("kill -{signal} {process}")).unwrap();
    for signal in ["TERM", "INT", "HUP", "QUIT"] {
        kill(signal);
    }
    changed(&lab);
    all_is_counted(&lab, &[&agent]);
    assert_eq!(metric(&agent, HELPER_UP), Some(1), "none of them ends it: {}", agent.log());

    kill("KILL");
    wait_for_metric(&agent, HELPER_UP, 0);
    changed(&lab);
    wait_for("its position is unknown", SECONDS, || {
        Ok(metric(&agent, &position("tcx", "ingress")).is_none().then_some(()))
    })
    .unwrap();
    assert_eq!(metric(&agent, &attached("tcx", "ingress")), Some(1));
    all_is_counted(&lab, &[&agent]);
    wait_for("its zombie is reaped", SECONDS, || Ok(children(&mut agent).is_empty().then_some(()))).unwrap();
    let log = agent.log();
    assert_eq!(log.matches("the process that looks at the hooks is gone").count(), 1, "{log}");
    let config = lab.folder().join("doctor.yaml");
    fs::write(&config, format!("control: {{ socket: {} }}\n", agent.socket().display())).unwrap();
    let binary = agent_binary().unwrap();
    let doctor = format!("{} doctor --config {} --interface lan0 --json", binary.display(), config.display());
    let found: Vec<serde_json::Value> = serde_json::from_str(&lab.gateway.run(&doctor).unwrap()).unwrap();
    let finding = found.iter().find(|finding| finding["what"] == "hook_monitor").unwrap();
    assert_eq!(finding["verdict"], "warn", "{found:#?}");
    assert!(agent.stop().unwrap().success());
}

#[test]
fn helper_process_ends_with_agent() {
    for signal in [libc::SIGKILL, libc::SIGTERM] {
        let lab = lab();
        let mut agent = start(&lab, "--interface lan0 --role lan --hook tc");
        let process = helper_process(&mut agent).to_string();
        agent.process().signal(signal).unwrap();
        wait_for("the helper process ends", SECONDS, || {
            let status = status(&process);
            Ok((status.is_empty() || field(&status, "State:").starts_with('Z')).then_some(()))
        })
        .unwrap();
    }
}
