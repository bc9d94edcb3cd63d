//! System limits of a daemon: standard error cannot be written, or no thread can be started.

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt, symlink},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use mailflow_test_support::lab::{agent_binary, wait_for};

use crate::gateway::Gateway;

/// Exit status of a process after a panic.
const PANICKED: i32 = 101;

#[test]
fn blocked_standard_error_does_not_stop_counting() {
    let gateway = Gateway::new(100);
    symlink("/dev/full", gateway.lab.folder().join("agent.log")).unwrap();
    let mut agent = gateway.start("", &[("RUST_LOG", "trace")]);
    let sent = gateway.send();
    gateway.expect(&agent, sent);
    // The agent cannot log this error.
    gateway.configure(100, "poll_intervall: 3s\n");
    agent.process().signal(libc::SIGHUP).unwrap();
    let refused = "mailflow_config_last_reload_successful 0";
    wait_for("the configuration is refused", Duration::from_secs(60), || {
        Ok(agent.metrics()?.lines().any(|line| line == refused).then_some(()))
    })
    .unwrap();
    assert_eq!(agent.stop().unwrap().code(), Some(0));
}

#[test]
fn commands_do_not_panic_on_write_errors() {
    let binary = agent_binary().unwrap();
    let folder = std::env::temp_dir().join(format!("mailflow-mute-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (bad, lines) = (folder.join("bad.yaml"), folder.join("flows.json"));
    fs::write(&bad, "poll_interval: 5\n").unwrap();
    fs::write(&lines, "no line of any log\n").unwrap();
    let (bad, lines) = (bad.to_str().unwrap(), lines.to_str().unwrap());
    let nowhere = "/nonexistent/agent.sock";
    let commands: &[&[&str]] = &[
        &["--version"],
        &["--help"],
        &["no-such-command"],
        &["check-config"],
        &["check-config", bad],
        &["print-config"],
        &["print-config", bad],
        &["status", "--socket", nowhere],
        &["top", "--once", "--socket", nowhere],
        &["explain", "10.0.0.1", "--socket", nowhere],
        &["explain", "10.0.0.1", "--log", lines],
        &["suggest", "--socket", nowhere],
        &["suggest", "--log", lines],
        &["reload", "--config", bad],
        &["rules", "test", bad],
        &["doctor", "--config", bad],
        &["doctor", "--interface", "lo"],
        &["backtest", lines],
        &["backtest", lines, "--alerts", "/dev/full"],
        &["replay", lines],
        &["completions", "bash"],
        &["man", "/dev/full"],
        &["run", "--config", bad],
        &[
            "run",
            "--interface",
            "lo",
            "--alerts",
            "/nosuch/alerts.json",
            "--state",
            "off",
            "--pins",
            "off",
            "--control",
            "off",
            "--metrics",
            "off",
        ],
    ];
    for words in commands {
        // A full device, and a pipe without a reader.
        for kind in ["full", "gone"] {
            let to = || match kind {
                "full" => Stdio::from(File::options().write(true).open("/dev/full").unwrap()),
                _ => Stdio::from(std::io::pipe().unwrap().1),
            };
            let mut command = Command::new(&binary);
            command.args(*words).env("RUST_LOG", "debug").stdout(to()).stderr(to());
            let status = command.status().unwrap();
            let code = status.code();
            assert!(matches!(code, Some(0..=2)) && code != Some(PANICKED), "{words:?}, {kind}: {status}");
        }
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn thread_limit_is_reported_or_sufficient() {
    // A user without other processes, and a folder in which this user may run the binary.
    const USER: &str = "54329";
    let folder = std::env::temp_dir().join(format!("mailflow-threads-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let binary = folder.join("mailflow-agent");
    fs::copy(agent_binary().unwrap(), &binary).unwrap();
    let log = folder.join("log");
    let (mut refused, mut worked) = (0, 0);
    for threads in [1, 2, 3, 6, 11, 12, 13, 14, 40] {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nproc={threads}:{threads}")).arg("setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--clear-groups"]);
        for set in ["--inh-caps", "--ambient-caps"] {
            command.args([set, "+bpf,+net_admin,+perfmon"]);
        }
        command.arg(&binary).args(["run", "--interface", "lo", "--role", "host", "--alerts", "off"]);
        command.args(["--state", "off", "--pins", "off", "--control", "off", "--metrics", "off"]);
        let mut child = command.env("NO_COLOR", "1").stderr(File::create(&log).unwrap()).spawn().unwrap();
        let begun = Instant::now();
        let agent_log = || fs::read_to_string(&log).unwrap();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if agent_log().contains("hold") && agent_log().contains("attached") {
                break None;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(180),
                "hangs with {threads} threads:\n{}",
                agent_log()
            );
            std::thread::sleep(Duration::from_millis(50));
        };
        match status {
            Some(status) => {
                refused += 1;
                assert_eq!(status.code(), Some(1), "{threads}:\n{}", agent_log());
                assert!(
                    agent_log().contains("thread") && agent_log().contains("RLIMIT_NPROC"),
                    "{threads}:\n{}",
                    agent_log()
                );
            }
            None => {
                worked += 1;
                let pid = libc::pid_t::try_from(child.id()).unwrap();
                // SAFETY: sends a signal to a child that has not been waited for.
                unsafe { libc::kill(pid, libc::SIGTERM) };
                assert_eq!(child.wait().unwrap().code(), Some(0), "{threads}:\n{}", agent_log());
            }
        }
    }
    fs::remove_dir_all(folder).unwrap();
    assert!(refused >= 5 && worked >= 1, "{refused} refused, {worked} worked");
}
