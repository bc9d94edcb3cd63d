//! Ansible role on two newly booted hosts.

use std::{
    fmt::Write,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use mailflow_test_support::lab::{
    Family, Host, HttpServer, Lab, LabOptions, command, get, output, wait_for, workspace,
};

use crate::package::package;

const PAGES: &str = "127.0.0.1:10825";

/// Gateway: a booted host between a client and a server.
pub(crate) struct Gateway {
    // First field: the host shuts down before its network is removed.
    pub(crate) host: Host,
    pub(crate) lab: Lab,
}

impl Gateway {
    pub(crate) fn boot() -> Self {
        let lab = Lab::new(&LabOptions::default()).unwrap();
        Self { host: Host::boot(&lab.gateway, lab.folder()).unwrap(), lab }
    }

    /// Returns the value of a metric of the gateway's agent.
    fn metric(&self, series: &str) -> Option<u64> {
        let (status, page) = get(&self.lab.gateway, PAGES.parse().unwrap(), "/metrics").ok()?;
        assert_eq!(status, 200, "{page}");
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    /// Makes a connection from the client to the server's port 25.
    pub(crate) fn connect(&self) {
        let address = SocketAddr::new(self.lab.server_ip(Family::V4), 25);
        let _server = HttpServer::start(&self.lab.server, address, 3_000).unwrap();
        self.lab.client.run(&format!("curl -sS --fail http://{address}/a-page")).unwrap();
    }

    fn expect_flows(&self, flows: u64) {
        let what = format!("{flows} flows are counted");
        wait_for(&what, Duration::from_secs(60), || {
            Ok((self.metric("mailflow_flows_total{service=\"smtp\"}") == Some(flows)).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.diagnostics()));
    }

    /// Returns the log and some metrics of the gateway's agent.
    pub(crate) fn diagnostics(&self) -> String {
        let log = self.host.run("journalctl --no-pager --unit mailflow-agent").unwrap_or_default();
        let (_, page) = get(&self.lab.gateway, PAGES.parse().unwrap(), "/metrics").unwrap_or_default();
        let diagnostics =
            ["_flows_total", "_flow_records", "_accounted_", "_output_", "_kernel_packets", "difference"];
        let lines = page
            .lines()
            .filter(|line| !line.starts_with('#') && diagnostics.iter().any(|name| line.contains(name)));
        format!("{log}\n{}", lines.collect::<Vec<_>>().join("\n"))
    }

    fn pid(&self) -> String {
        self.host.run("systemctl show --property=MainPID --value mailflow-agent").unwrap().trim().to_owned()
    }

    fn configuration(&self) -> String {
        self.host.run("cat /etc/mailflow/mailflow.yaml").unwrap()
    }
}

/// Ansible inventory of the gateways, and its SSH key.
pub(crate) struct Controller {
    folder: PathBuf,
    /// Folder of control sockets: short, as socket paths are limited.
    connections: PathBuf,
    gateways: usize,
}

impl Drop for Controller {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.connections).ok();
    }
}

/// Summary of a playbook run, by host.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recap {
    pub(crate) changed: Vec<u64>,
    pub(crate) failed: Vec<u64>,
    pub(crate) output: String,
}

impl Controller {
    pub(crate) fn new(gateways: &[Gateway]) -> Self {
        let folder = gateways[0].lab.folder().join("ansible");
        fs::create_dir_all(&folder).unwrap();
        let key = folder.join("key");
        output(command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key)).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        let mut inventory = "---\ngateways:\n  hosts:\n".to_owned();
        for (number, Gateway { host, .. }) in gateways.iter().enumerate() {
            host.run("mkdir -p /root/.ssh /run/sshd").unwrap();
            host.write("/root/.ssh/authorized_keys", &public).unwrap();
            let entry = host.entry().join(" ");
            // The host has no network to this machine: its sshd uses a pipe.
            let options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";
            let proxy = format!("-o ProxyCommand='nsenter {entry} /usr/sbin/sshd -i'");
            writeln!(inventory, "    gw{number}:\n      ansible_ssh_common_args: \"{options} {proxy}\"")
                .unwrap();
        }
        writeln!(
            inventory,
            "  vars:\n    ansible_user: root\n    ansible_python_interpreter: /usr/bin/python3"
        )
        .unwrap();
        writeln!(inventory, "    ansible_ssh_private_key_file: {}", key.display()).unwrap();
        fs::write(folder.join("inventory.yml"), inventory).unwrap();
        // Hosts of another test have the same names.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let connections = std::env::temp_dir().join(format!("mf-{}-{number}", std::process::id()));
        Self { folder, connections, gateways: gateways.len() }
    }

    /// Runs the playbook with the package and this configuration.
    pub(crate) fn play(&self, options: &[&str], config: &str) -> Recap {
        self.play_with(options, config, None)
    }

    /// Runs the playbook with a network list too, `networks.txt`.
    fn play_with(&self, options: &[&str], config: &str, list: Option<&str>) -> Recap {
        let mut variables = format!(
            "---\nmailflow_agent_package: {}\nmailflow_agent_config:\n{}\n",
            package().display(),
            config.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
        );
        if let Some(list) = list {
            writeln!(variables, "mailflow_agent_lists:\n  - {{ name: networks.txt, content: {list:?} }}")
                .unwrap();
        }
        let file = self.folder.join("variables.yml");
        fs::write(&file, variables).unwrap();
        let mut playbook = command("ansible-playbook");
        playbook.arg("--inventory").arg(self.folder.join("inventory.yml"));
        playbook.arg("--extra-vars").arg(format!("@{}", file.display())).args(options).arg("site.yml");
        playbook.current_dir(workspace().join("config/ansible")).env("ANSIBLE_NOCOLOR", "1");
        playbook
            .env("ANSIBLE_LOCAL_TEMP", self.folder.join("tmp"))
            .env("ANSIBLE_HOME", self.folder.join("home"));
        // Not the user's folder: a persistent connection there may lead to a host of an earlier run.
        playbook.env("ANSIBLE_SSH_CONTROL_PATH_DIR", &self.connections).env("LC_ALL", "C.UTF-8");
        let ended = playbook.output().unwrap();
        let output = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
        let number = |key: &str| {
            let recap = output.split("PLAY RECAP").nth(1).unwrap_or_else(|| panic!("{output}"));
            let key = format!(" {key}=");
            let values =
                recap.lines().filter_map(|line| line.split(&key).nth(1)?.split(' ').next()?.parse().ok());
            values.collect::<Vec<u64>>()
        };
        let recap =
            Recap { changed: number("changed"), failed: number("failed"), output: output.to_string() };
        assert_eq!(recap.changed.len(), self.gateways, "{}", recap.output);
        recap
    }
}

fn installed(gateways: &[Gateway]) -> bool {
    gateways.iter().any(|Gateway { host, .. }| host.run("test -e /usr/bin/mailflow-agent").is_ok())
}

/// Configuration of an agent that counts and writes alerts.
pub(crate) const CONFIG: &str = "interfaces:\n  - { name: lan0, role: lan }\n\
    outputs:\n  alerts: /var/log/mailflow/alerts.json\n";

#[test]
fn role_installs_idempotently_and_refuses_invalid_configuration() {
    let gateways = [Gateway::boot(), Gateway::boot()];
    let controller = Controller::new(&gateways);

    let foreseen = controller.play(&["--check"], CONFIG);
    assert_eq!(foreseen.failed, [0, 0], "{}", foreseen.output);
    assert!(foreseen.changed.iter().all(|changed| *changed > 0), "{}", foreseen.output);
    assert!(!installed(&gateways), "a check installs nothing");

    let first = controller.play(&[], CONFIG);
    assert_eq!(first.failed, [0, 0], "{}", first.output);
    for gateway in &gateways {
        gateway.expect_flows(0);
        gateway.connect();
        gateway.expect_flows(1);
    }

    let pids = gateways.each_ref().map(Gateway::pid);
    for options in [&["--check", "--diff"][..], &[]] {
        let second = controller.play(options, CONFIG);
        assert_eq!((second.changed, second.failed), (vec![0, 0], vec![0, 0]), "{}", second.output);
    }

    // An invalid configuration fails in check mode too, and changes nothing.
    let before = gateways[0].configuration();
    let bad = CONFIG.replace("role: lan", "role: lam");
    for options in [&["--check"][..], &[]] {
        let refused = controller.play(options, &bad);
        assert_eq!(refused.failed, [1, 1], "{}", refused.output);
        assert!(refused.output.contains("lam") && refused.output.contains("mirror"), "{}", refused.output);
    }
    for gateway in &gateways {
        assert_eq!(gateway.configuration(), before);
        gateway.connect();
        gateway.expect_flows(2);
    }

    // Check mode predicts a change, and the change needs a reload, not a restart.
    let changed = format!("{CONFIG}poll_interval: 2s\n");
    let foreseen = controller.play(&["--check"], &changed);
    assert_eq!(gateways[0].configuration(), before);
    let third = controller.play(&[], &changed);
    assert_eq!((&foreseen.changed, &foreseen.failed), (&third.changed, &third.failed), "{}", third.output);
    assert_eq!((&third.changed[..], &third.failed[..]), (&[2, 2][..], &[0, 0][..]), "{}", third.output);
    for (gateway, pid) in gateways.iter().zip(&pids) {
        assert!(gateway.configuration().contains("poll_interval: 2s"));
        assert_eq!(&gateway.pid(), pid, "restarted");
        gateway.connect();
        gateway.expect_flows(3);
    }

    // A list is installed with the configuration that names it; an invalid one replaces no valid one.
    let listed = format!("{CONFIG}internal_networks: {{ files: [/etc/mailflow/networks.txt] }}\n");
    let list = |gateway: &Gateway| gateway.host.run("cat /etc/mailflow/networks.txt").ok();
    let good = "10.0.0.0/8  offices\n";
    for (options, written) in [(&["--check"][..], None), (&[], Some(good.to_owned()))] {
        let played = controller.play_with(options, &listed, Some(good));
        assert_eq!(played.failed, [0, 0], "{}", played.output);
        assert!(played.changed.iter().all(|changed| *changed > 0), "{}", played.output);
        assert_eq!(list(&gateways[0]), written, "{options:?}");
    }
    let same = controller.play_with(&[], &listed, Some(good));
    assert_eq!((same.changed, same.failed), (vec![0, 0], vec![0, 0]), "{}", same.output);
    for options in [&["--check"][..], &[]] {
        let refused = controller.play_with(options, &listed, Some("10.0.0.0/8  offices\n10.0.0.0/33\n"));
        assert_eq!(refused.failed, [1, 1], "{}", refused.output);
        assert!(refused.output.contains("networks.txt:2"), "{}", refused.output);
    }
    for (gateway, pid) in gateways.iter().zip(&pids) {
        assert_eq!(list(gateway).as_deref(), Some(good), "the list before stays");
        assert_eq!(gateway.host.run("find /tmp -name mailflow-agent-*").unwrap(), "", "a draft is left");
        assert_eq!(&gateway.pid(), pid, "restarted");
    }
}

#[test]
fn role_passes_ansible_lint_production_profile() {
    let folder = workspace().join("config/ansible");
    let mut lint = command("ansible-lint");
    lint.args(["--offline", "--strict", "--profile", "production", "--nocolor"]).current_dir(&folder);
    let output = lint.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && passed(&text), "{text}");
    assert!(!Path::new(&folder.join(".cache")).exists(), "it leaves nothing behind");
}

fn passed(text: &str) -> bool {
    text.contains("0 failure(s), 0 warning(s)")
}
