//! Commands and long-running programs of a lab.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(20);

/// Creates a command that also finds the tools of the sbin directories, which are not in every user's PATH.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", search_path()).stdin(Stdio::null());
    command
}

/// Returns PATH with the sbin directories at its end.
#[must_use]
pub fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
}

/// Returns true if [`command`] would find the program.
#[must_use]
pub fn is_present(program: &str) -> bool {
    std::env::split_paths(&search_path()).any(|folder| folder.join(program).is_file())
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// The command cannot start, or it fails: the error has the command and all that it printed.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.output().with_context(|| format!("cannot run `{shown}`"))?;
    if !output.status.success() {
        let printed =
            [output.stderr, output.stdout].map(|text| String::from_utf8_lossy(&text).trim().to_owned());
        bail!("`{shown}` failed ({}): {}", output.status, printed.join("\n").trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Formats the command as a command line.
fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Running program with its children, in a process group of its own. Dropping the value ends them.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
}

impl Running {
    /// Starts `command` with standard output and error appended to `log`. The new process group keeps the
    /// terminal's Ctrl-C from the program: the owner stops it.
    ///
    /// # Errors
    /// The log cannot be opened or the program cannot start.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let name = show(&command);
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot open {}", log.display()))?;
        command.stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start `{name}`"))?;
        Ok(Self { name, child })
    }

    /// Returns the process id, which is also the id of the process group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the exit status if the program has ended.
    ///
    /// # Errors
    /// Waiting for the process fails.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for `{}`", self.name))
    }

    /// Waits until the program ends by itself.
    ///
    /// # Errors
    /// It still runs after `timeout`, or waiting fails.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("`{}` still runs after {timeout:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal (`libc::SIGHUP`, ...) to the program, not to its children.
    ///
    /// # Errors
    /// The program has ended.
    pub fn signal(&mut self, signal: i32) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("`{}` has ended ({status})", self.name);
        }
        send(i64::from(self.pid()), signal);
        Ok(())
    }

    /// Ends the program and its children: SIGTERM, then SIGKILL after [`GRACE`].
    ///
    /// # Errors
    /// Waiting for the process fails.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        let group = -i64::from(self.pid());
        send(group, libc::SIGTERM);
        if let Ok(status) = self.wait(GRACE) {
            return Ok(status);
        }
        send(group, libc::SIGKILL);
        self.wait(GRACE)
    }

    /// Lets the program run after this value is dropped.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("lab: {error:#}");
        }
    }
}

/// Sends `signal` to a process, or to the process group `-target`. A missing process is no error.
pub(super) fn send(target: i64, signal: i32) {
    let Ok(target) = libc::pid_t::try_from(target) else { return };
    // SAFETY: kill(2) takes two integers and touches no memory of this process.
    unsafe { libc::kill(target, signal) };
}

/// Calls `ready` every 20 ms until it returns a value.
///
/// # Errors
/// The first error of `ready`, or no value within `timeout`: the error contains `what`.
pub fn wait_for<T>(what: &str, timeout: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {timeout:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
