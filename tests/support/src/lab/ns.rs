//! One network namespace.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::command::{Running, command, output, send};

/// Folder of iproute2's named namespaces.
const NAMED: &str = "/run/netns";

/// Named network namespace. A [`super::Lab`] removes its namespaces.
#[derive(Debug, Clone)]
pub struct Ns {
    name: String,
}

impl Ns {
    /// Creates the namespace and sets its loopback up.
    ///
    /// # Errors
    /// A namespace of this name exists, or the kernel refuses.
    pub fn create(name: String) -> Result<Self> {
        output(command("ip").args(["netns", "add", &name]))?;
        let ns = Self { name };
        ns.ip("link set lo up")?;
        Ok(ns)
    }

    /// Returns the names of all namespaces on this machine.
    pub(super) fn names() -> Vec<String> {
        let entries = std::fs::read_dir(NAMED).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Returns an existing namespace.
    pub(super) fn existing(name: String) -> Self {
        Self { name }
    }

    /// Returns the name, as in `ip netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the file that keeps the namespace open.
    #[must_use]
    pub fn file(&self) -> String {
        format!("{NAMED}/{}", self.name)
    }

    /// Creates a command that runs inside the namespace, with the namespace's own `/sys/class/net`.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut inside = command("ip");
        inside.args(["netns", "exec", &self.name, program]);
        inside
    }

    /// Runs a line of words separated by blanks (no quoting) inside the namespace and returns its standard
    /// output.
    ///
    /// # Errors
    /// The command cannot start or fails.
    pub fn run(&self, line: &str) -> Result<String> {
        output(command("ip").args(["netns", "exec", &self.name]).args(line.split_whitespace()))
    }

    /// Starts a line of words separated by blanks (no quoting) inside the namespace; `log` gets its output.
    ///
    /// # Errors
    /// The command cannot start.
    pub fn spawn(&self, line: &str, log: &Path) -> Result<Running> {
        let mut inside = command("ip");
        inside.args(["netns", "exec", &self.name]).args(line.split_whitespace());
        Running::start(inside, log)
    }

    /// Runs `ip` with these words in the namespace.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn ip(&self, line: &str) -> Result<String> {
        output(command("ip").args(["-n", &self.name]).args(line.split_whitespace()))
    }

    /// Runs a closure on a thread inside the namespace. Sockets that it opens stay in the namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered. A panic of the closure is resumed in the caller.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        let handle = File::open(self.path()).with_context(|| format!("namespace {}", self.name))?;
        let on_thread = move || {
            // SAFETY: setns(2) takes an open descriptor and a flag, and affects only this thread.
            if unsafe { libc::setns(handle.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(inside())
        };
        match std::thread::scope(|scope| scope.spawn(on_thread).join()) {
            Ok(entered) => entered.with_context(|| format!("cannot enter namespace {}", self.name)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Sets a `net.*` kernel parameter of the namespace: `sysctl("ipv4/ip_forward", "1")`.
    ///
    /// # Errors
    /// The parameter does not exist or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(name);
        let written = self.enter(|| std::fs::write(&path, value))?;
        written.with_context(|| format!("cannot set {} to {value}", path.display()))
    }

    /// Returns the processes in the namespace.
    pub(super) fn pids(&self) -> Vec<i64> {
        let mut list = command("ip");
        list.args(["netns", "pids", &self.name]).process_group(0);
        let listed = output(&mut list).unwrap_or_default();
        listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Ends every process in the namespace, then removes the namespace with its interfaces. Returns the
    /// number of processes.
    pub(super) fn remove(&self) -> Result<usize> {
        let found = self.pids().len();
        for (signal, patience) in [(libc::SIGTERM, 2_000), (libc::SIGKILL, 2_000)] {
            let deadline = Instant::now() + Duration::from_millis(patience);
            self.pids().into_iter().for_each(|pid| send(pid, signal));
            while !self.pids().is_empty() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let mut delete = command("ip");
        // A separate process group: a second Ctrl-C in the terminal must not interrupt the cleanup.
        let deleted = output(delete.args(["netns", "delete", &self.name]).process_group(0));
        // Two runs may remove the same stale lab.
        if deleted.is_err() && !self.path().exists() { Ok(found) } else { deleted.map(|_| found) }
    }

    fn path(&self) -> PathBuf {
        Path::new(NAMED).join(&self.name)
    }
}
