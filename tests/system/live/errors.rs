//! Errors have a clear message, and the exit status that scripts rely on.

use std::{net::SocketAddr, path::Path, process::Output};

use mailflow_test_support::lab::{Lab, LabOptions, agent_binary};

/// Runs the agent to its end in the gateway's namespace. `run` may create its state before it fails: the
/// state is in the lab's folder.
fn run(lab: &Lab, wrapper: &str, options: &str) -> Output {
    let binary = agent_binary().unwrap();
    let own = if options.split(' ').next() == Some("run") {
        let folder = lab.folder().display();
        format!("--state {folder}/state --pins off --control {folder}/agent.sock")
    } else {
        String::new()
    };
    let line = format!("{wrapper} {} {options} {own}", binary.display());
    let mut words = line.split_whitespace();
    let mut command = lab.gateway.command(words.next().unwrap());
    command.args(words).env("NO_COLOR", "1").env_remove("RUST_LOG");
    command.output().unwrap()
}

fn expect(output: &Output, status: i32, needles: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{error}");
    for needle in needles {
        assert!(error.contains(needle), "no `{needle}` in\n{error}");
    }
}

fn config(folder: &Path, text: &str) -> String {
    let path = folder.join("bad.yaml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn errors_name_their_cause() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    // Invalid interface names. A missing interface is no error: see the suite `attach`.
    expect(&run(&lab, "", "run --interface lan0/7"), 2, &["lan0/7", "slash"]);
    expect(&run(&lab, "", "run --interface re:^lan("), 2, &["re:^lan(", "regular expression"]);
    // No interface.
    expect(&run(&lab, "", "run"), 2, &["--interface", "lan0"]);
    // An invalid network: location and suggestion.
    let file = config(lab.folder(), "internal_networks:\n  networks: [10.0.0.1/8]\n");
    expect(
        &run(&lab, "", &format!("run --interface lan0 --config {file}")),
        2,
        &["bad.yaml:2:14", "10.0.0.1/8", "10.0.0.0/8"],
    );
    expect(&run(&lab, "", &format!("check-config {file}")), 2, &["bad.yaml:2:14"]);
    // Missing capabilities.
    let drop = "setpriv --bounding-set -bpf,-sys_admin,-perfmon --inh-caps -all";
    expect(&run(&lab, drop, "run --interface lan0"), 1, &["CAP_BPF", "CAP_PERFMON"]);
    // A port in use.
    let taken: SocketAddr = "127.0.0.1:10825".parse().unwrap();
    let _listener = lab.gateway.enter(|| std::net::TcpListener::bind(taken)).unwrap().unwrap();
    expect(&run(&lab, "", "run --interface lan0"), 1, &["127.0.0.1:10825", "in use"]);
    // After a failure nothing stays attached.
    assert!(!lab.gateway.run("tc filter show dev lan0 ingress").unwrap().contains("tc_lan"));
    // Outputs that cannot be written.
    expect(
        &run(&lab, "", "run --interface lan0 --metrics off --flow-log /nonexistent/flows"),
        1,
        &["/nonexistent/flows"],
    );
    // Bad usage.
    expect(&run(&lab, "", "run --hook generic"), 2, &["generic", "tc"]);
    expect(&run(&lab, "", "fly"), 2, &["fly"]);
    let good = run(&lab, "", "check-config");
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8_lossy(&good.stderr));
}
