//! Reports of the agent and of `doctor` about a gateway that does not count as expected.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::CommandExt,
    process::{Command, Output},
};

use mailflow_test_support::lab::{Agent, Family, Lab, agent_binary, output, transfer, wait_for};
use serde_json::Value;

use super::{
    lifecycle::lab,
    watched::{SECONDS, metric, start, wait_for_metric},
};

const FLOWS: &str = "mailflow_unlisted_client_flows_total";
const PREFIX: &str = "mailflow_unlisted_prefix_info{interface=\"lan0\",prefix=\"2a00:1450:4001:77::/64\"}";

/// Adds a global IPv6 prefix to the network of lan0, as a provider would delegate one.
fn global_prefix(lab: &Lab) -> SocketAddr {
    lab.gateway.ip("address add 2a00:1450:4001:77::1/64 dev lan0 nodad").unwrap();
    lab.client.ip("address add 2a00:1450:4001:77::2/64 dev eth0 nodad").unwrap();
    lab.client
        .ip("route add 2a00:1450:4001:825::/64 via 2a00:1450:4001:77::1 src 2a00:1450:4001:77::2")
        .unwrap();
    SocketAddr::new(lab.server_ip(Family::V6), 25)
}

/// Returns the findings of `doctor` in the gateway's namespace.
fn doctor(lab: &Lab, options: &str) -> Vec<Value> {
    let mut command = lab.gateway.command(agent_binary().unwrap().to_str().unwrap());
    let output = command.arg("doctor").arg("--json").args(options.split_whitespace()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// Returns the verdict and the text of a finding.
fn finding<'a>(findings: &'a [Value], what: &str) -> (&'a str, &'a str) {
    let found = findings.iter().find(|finding| finding["what"] == what);
    let found = found.unwrap_or_else(|| panic!("{what}: {findings:#?}"));
    (found["verdict"].as_str().unwrap(), found["found"].as_str().unwrap())
}

fn status(agent: &Agent) -> String {
    let output =
        Command::new(agent_binary().unwrap()).arg("status").arg("--socket").arg(agent.socket()).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[test]
fn clients_outside_internal_networks_are_warned_until_listed() {
    let lab = lab();
    let server = global_prefix(&lab);
    let config = lab.folder().join("networks.yaml");
    fs::write(&config, "interfaces: [{ name: lan0, role: lan }]\n").unwrap();
    let mut agent = start(&lab, &format!("--config {}", config.display()));
    wait_for_metric(&agent, PREFIX, 1);
    wait_for_metric(&agent, FLOWS, 0);
    for _ in 0..3 {
        transfer(&lab.client, &lab.server, server, 4_000, 4_000).unwrap();
    }
    wait_for_metric(&agent, FLOWS, 3);
    let log = agent.log();
    assert_eq!(
        log.matches("the network behind this interface is in no internal network").count(),
        1,
        "{log}"
    );
    assert_eq!(log.matches("a client is in no internal network").count(), 1, "{log}");
    let text = status(&agent);
    assert!(text.contains("lan0 2a00:1450:4001:77::/64 is behind an inside interface"), "{text}");
    assert!(
        text.contains("3 flows of clients in no internal network, such as 2a00:1450:4001:77::/64"),
        "{text}"
    );
    let findings = doctor(&lab, &format!("--socket {}", agent.socket().display()));
    assert_eq!(finding(&findings, "networks").0, "warn");
    assert_eq!(
        finding(&findings, "lan0 networks"),
        ("warn", "in no internal network: 2a00:1450:4001:77::/64")
    );

    // The IPv4 addresses of the network are internal: they add no warning.
    transfer(&lab.client, &lab.server, SocketAddr::new(lab.server_ip(Family::V4), 25), 4_000, 4_000).unwrap();
    let networks = "internal_networks: { networks: [10.0.0.0/8, 'fd00::/8', '2a00:1450:4001:77::/64'] }\n";
    fs::write(&config, format!("interfaces: [{{ name: lan0, role: lan }}]\n{networks}")).unwrap();
    agent.process().signal(libc::SIGHUP).unwrap();
    wait_for("the prefix is listed", SECONDS, || Ok(metric(&agent, PREFIX).is_none().then_some(()))).unwrap();
    transfer(&lab.client, &lab.server, server, 4_000, 4_000).unwrap();
    wait_for_metric(&agent, "mailflow_flows_total{service=\"smtp\"}", 5);
    assert_eq!(metric(&agent, FLOWS), Some(3));
    assert!(agent.stop().unwrap().success());
}

#[test]
fn new_public_interface_address_is_warned() {
    let lab = lab();
    let mut agent = start(&lab, "--interface lan0 --interface lan1 --role lan --poll-interval 60s");
    let prefixes = || agent.metrics().unwrap().matches("mailflow_unlisted_prefix_info{").count();
    wait_for_metric(&agent, FLOWS, 0);
    assert_eq!(prefixes(), 0, "the lab's own networks are RFC 1918 and RFC 4193");
    lab.gateway.ip("address add 198.51.100.9/32 dev lan1").unwrap();
    lab.gateway.ip("address add 93.184.216.1/24 dev lan1").unwrap();
    wait_for("status reports it", SECONDS, || {
        Ok(status(&agent).contains("lan1 93.184.216.0/24 is behind").then_some(()))
    })
    .unwrap();
    assert!(!status(&agent).contains("198.51.100.9"), "{}", status(&agent));
    assert!(agent.stop().unwrap().success());

    // The gateway's own mail leaves from its public address, which is no client's.
    let mut agent = start(&lab, "--interface wan0 --role host");
    let server = SocketAddr::new(lab.server_ip(Family::V4), 25);
    transfer(&lab.gateway, &lab.server, server, 4_000, 4_000).unwrap();
    wait_for_metric(&agent, "mailflow_flows_total{service=\"smtp\"}", 1);
    assert_eq!(metric(&agent, FLOWS), Some(0));
    assert!(!status(&agent).contains("WARNING"), "{}", status(&agent));
    assert!(agent.stop().unwrap().success());
}

#[test]
fn doctor_checks_interfaces_of_running_agent() {
    let lab = lab();
    let mut agent = start(&lab, "--interface lan1 --interface ppp* --interface tun9 --role lan");
    let socket = format!("--socket {}", agent.socket().display());
    wait_for("the agent has polled", SECONDS, || Ok(status(&agent).contains("lan1").then_some(()))).unwrap();
    let findings = doctor(&lab, &socket);
    assert_eq!(finding(&findings, "interfaces"), ("ok", "the running agent watches lan1, tun9, ppp*"));
    assert_eq!(finding(&findings, "lan1 role").0, "ok");
    assert_eq!(finding(&findings, "ppp*").0, "warn");
    assert_eq!(finding(&findings, "tun9").0, "bad");
    assert_eq!(finding(&findings, "bpf"), ("ok", "creating a map and loading a program succeeded"));
    // Interfaces on the command line replace those of the agent.
    let findings = doctor(&lab, &format!("{socket} --interface lan0 --role lan"));
    assert_eq!(finding(&findings, "lan0 role").0, "ok");
    assert!(findings.iter().all(|finding| finding["what"] != "lan1 role"), "{findings:#?}");
    assert!(agent.stop().unwrap().success());
}

#[test]
fn outside_interface_with_lan_role_is_warned() {
    let lab = lab();
    let wan = |name: &str| {
        let findings = doctor(&lab, &format!("--socket /nonexistent --interface {name} --role lan"));
        let (verdict, found) = finding(&findings, &format!("{name} role"));
        (verdict.to_owned(), found.to_owned())
    };
    // The lab has no default route, but masquerades packets that leave by this interface.
    let (verdict, found) = wan("wan0");
    assert!(verdict == "warn" && found.contains("source NAT") && found.contains("masquerade"), "{found}");
    lab.gateway.ip("route add default dev wan0").unwrap();
    lab.gateway.ip("link property add dev wan0 altname uplink").unwrap();
    for name in ["wan0", "uplink"] {
        let (verdict, found) = wan(name);
        assert!(verdict == "warn" && found.contains("default route"), "{name}: {found}");
    }
    assert_eq!(wan("lan0").0, "ok");
    lab.gateway.ip("address add 93.184.217.1/24 dev lan1").unwrap();
    let (verdict, found) = wan("lan1");
    assert!(verdict == "warn" && found.contains("93.184.217.1"), "{found}");
    // The running agent reports the same.
    let mut agent = start(&lab, "--interface wan0 --role lan");
    wait_for("status", SECONDS, || Ok(status(&agent).contains("a default route leaves by it").then_some(())))
        .unwrap();
    assert!(agent.stop().unwrap().success());
}

/// Runs the agent's binary as an unprivileged user.
fn as_unprivileged_user(words: &str) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(agent_binary().unwrap());
    command.args(words.split_whitespace()).output().unwrap()
}

#[test]
fn missing_capabilities_are_reported_first_to_unprivileged_user() {
    // Only root can write to the default locations of the socket, the state and the pins.
    let options = "run --interface lo --control /run/mailflow-unprivileged/s --state /var/lib/mailflow-unprivileged --pins off";
    let output = as_unprivileged_user(options);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("missing capabilities: CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF"), "{error}");
    assert!(!error.contains("mailflow-unprivileged"), "{error}");
    let output = as_unprivileged_user("doctor --interface lo --json --socket /nonexistent");
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(finding(&findings, "capabilities").0, "bad");
    assert_eq!(finding(&findings, "bpf").0, "bad");
    assert_eq!(output.status.code(), Some(1));
}

/// Installs a seccomp filter with this action for bpf(2), for this process and its children.
fn filter(action: u32) -> std::io::Result<()> {
    let code = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_bpf as u32),
        code(libc::BPF_RET | libc::BPF_K, 0, 0, action),
        code(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads the program, which lives through the call.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[test]
fn doctor_reports_seccomp_filter() {
    for action in [libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, libc::SECCOMP_RET_KILL_PROCESS] {
        let mut command = Command::new(agent_binary().unwrap());
        command.args(["doctor", "--json", "--interface", "lo", "--socket", "/nonexistent"]);
        // SAFETY: two system calls between fork and exec, without an allocation.
        let output = unsafe { command.pre_exec(move || filter(action)) }.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(finding(&findings, "capabilities").0, "ok", "this test needs root");
        let bpf = findings.iter().find(|finding| finding["what"] == "bpf").unwrap();
        assert_eq!(bpf["verdict"], "bad");
        assert!(bpf["advice"].as_str().unwrap().contains("a seccomp filter"), "{bpf}");
    }
    // `run` reports the filter too, in addition to the kernel's error.
    let mut command = Command::new(agent_binary().unwrap());
    let options = "run --interface lo --metrics off --state off --pins off --control off --alerts off";
    command.args(options.split_whitespace());
    let deny = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    // SAFETY: as above.
    let output = unsafe { command.pre_exec(move || filter(deny)) }.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("likely because a seccomp filter"), "{error}");
}

#[test]
fn pins_in_private_mount_namespace_are_warned() {
    let lab = lab();
    // `ip netns exec` creates a mount namespace for the agent, with a /sys without bpffs.
    let options = format!(
        "--interface lan0 --role lan --pins /sys/fs/bpf/mailflow-{} --state {}",
        std::process::id(),
        lab.folder().join("state").display()
    );
    let mut agent = start(&lab, &options);
    let warning = "do not outlive the agent";
    assert_eq!(agent.log().matches(warning).count(), 1, "{}", agent.log());
    assert!(status(&agent).contains(warning), "{}", status(&agent));
    let findings = doctor(&lab, &format!("--socket {}", agent.socket().display()));
    let warned = findings.iter().any(|finding| finding["found"].as_str().unwrap().contains(warning));
    assert!(warned, "{findings:#?}");
    // The warning is true: the pins are gone after a kill.
    agent.process().signal(libc::SIGKILL).unwrap();
    agent.stop().unwrap();
    let mut agent = start(&lab, &options);
    assert!(status(&agent).contains("new and empty"), "{}", status(&agent));
    assert!(agent.stop().unwrap().success());

    // Pins in a bpffs of the outer mount namespace survive.
    let mount = lab.folder().join("bpf");
    fs::create_dir_all(&mount).unwrap();
    output(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&mount)).unwrap();
    let options = format!(
        "--interface lan0 --role lan --pins {} --state {}",
        mount.join("mailflow").display(),
        lab.folder().join("state2").display()
    );
    let mut agent = start(&lab, &options);
    let is_warned = status(&agent).contains(warning);
    let stopped = agent.stop();
    output(Command::new("umount").arg("-l").arg(&mount)).unwrap();
    assert!(!is_warned && stopped.unwrap().success(), "{}", agent.log());
}
