//! Complete machine in a namespace: systemd and the packages of an operator's host, booted in a container.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::command::{Running, command, output, wait_for};
use super::debian::{With, unpack};
use super::ns::Ns;

/// Packages beyond Debian's minimum: what Ansible needs to log in and to work.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,python3,python3-apt,openssh-server,iproute2";
/// Boot timeout on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Booted host; dropping the value shuts it down and deletes what it wrote.
#[derive(Debug)]
pub struct Host {
    // First field: the container must end before its mount.
    nspawn: Running,
    _pins: Pins,
    leader: String,
    log: PathBuf,
}

impl Host {
    /// Boots a host in the namespace, which is its network. `folder` gets its log.
    ///
    /// # Errors
    /// The image cannot be made, or the host is not up within 90 seconds: the error has its log.
    pub fn boot(ns: &Ns, folder: &Path) -> Result<Self> {
        let image = image()?;
        let container = unpack("systemd-container", With::Nothing)?;
        let log = folder.join("host.log");
        let pins = Pins::mount(folder.join("bpf"))?;
        let mut nspawn = command(container.root.join("usr/bin/systemd-nspawn"));
        nspawn.arg("--directory").arg(&image).args(["--volatile=overlay", "--boot", "--quiet"]);
        nspawn.arg(format!("--machine={}", ns.name())).arg(format!("--network-namespace-path={}", ns.file()));
        // No registration with systemd-machined: the machine may not run it.
        nspawn.args(["--register=no", "--keep-unit", "--console=pipe"]);
        // The host loads BPF programs.
        nspawn.args(["--capability=all", "--system-call-filter=bpf perf_event_open"]);
        // The container gets a bind mount of this bpffs.
        nspawn.arg(format!("--bind={}:/sys/fs/bpf", pins.0.display()));
        nspawn.env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "1");
        let nspawn = Running::start(nspawn, &log)?;
        let mut host = Self { nspawn, _pins: pins, leader: String::new(), log };
        let up = wait_for("the host is up", PATIENCE, || host.up());
        up.with_context(|| host.log())?;
        Ok(host)
    }

    fn up(&mut self) -> Result<Option<()>> {
        if let Some(status) = self.nspawn.ended()? {
            anyhow::bail!("the host has ended: {status}");
        }
        let pid = self.nspawn.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let Some(leader) = children.split_whitespace().next() else { return Ok(None) };
        self.leader = leader.to_owned();
        // During the boot, systemctl may fail.
        let state = self.command("systemctl").arg("is-system-running").output();
        let state = state.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        let up = matches!(state.as_deref(), Ok("running" | "degraded"));
        if !up {
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(up.then_some(()))
    }

    /// Creates a command that runs inside the host as root.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut inside = command("nsenter");
        inside.args(self.entry()).arg(program);
        inside
    }

    /// Runs a line of words separated by blanks (no quoting) inside the host and returns its standard output.
    ///
    /// # Errors
    /// The command cannot start or fails.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("no command")?;
        output(self.command(program).args(words))
    }

    /// Writes a file inside the host, readable only by root.
    ///
    /// # Errors
    /// The folder does not exist, or the host refuses.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let mut shell = self.command("sh");
        shell.args(["-c", "umask 077; cat > \"$0\"", path]).stdin(Stdio::piped());
        let mut child = shell.spawn().with_context(|| format!("cannot write {path}"))?;
        child.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
        ensure!(child.wait()?.success(), "cannot write {path}");
        Ok(())
    }

    /// Returns nsenter's arguments for this host, as words of a command line.
    #[must_use]
    pub fn entry(&self) -> Vec<String> {
        let words = ["--target", &self.leader, "--mount", "--pid", "--net", "--uts", "--ipc", "--"];
        words.map(str::to_owned).to_vec()
    }

    /// Returns the console output so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Mounted bpffs.
#[derive(Debug)]
struct Pins(PathBuf);

impl Pins {
    fn mount(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        output(command("mount").args(["-t", "bpf", "bpf"]).arg(&folder))?;
        Ok(Self(folder))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = output(command("umount").arg("--lazy").arg(&self.0)) {
            eprintln!("lab: {error:#}");
        }
    }
}

/// Returns the hosts' root file system, `target/lab/host`, and creates it once.
fn image() -> Result<PathBuf> {
    let lab = super::workspace::workspace().join("target/lab");
    let image = lab.join("host");
    fs::create_dir_all(&lab)?;
    let lock = lab.join("host.lock");
    let locked = fs::File::create(&lock).and_then(|file| file.lock().map(|()| file));
    let _locked = locked.with_context(|| lock.display().to_string())?;
    if image.exists() {
        return Ok(image);
    }
    let fresh = lab.join("host.new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).with_context(|| format!("cannot remove {}", fresh.display()))?;
    }
    let mut bootstrap = command("mmdebstrap");
    bootstrap.args(["--mode=root", "--variant=minbase", "--quiet", &format!("--include={PACKAGES}")]);
    output(bootstrap.arg("bookworm").arg(&fresh)).context("the files of the hosts")?;
    fs::rename(&fresh, &image)?;
    Ok(image)
}
