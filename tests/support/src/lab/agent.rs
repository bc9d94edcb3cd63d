//! The agent, running in a namespace.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::command::{Running, wait_for};
use super::http::get;
use super::ns::Ns;

/// Address of the agent's web pages, unless the options have `--metrics ADDRESS`.
const PAGES: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10825);

/// Running `mailflow-agent`; dropping the value ends the process.
#[derive(Debug)]
pub struct Agent {
    running: Running,
    ns: Ns,
    log: PathBuf,
    alerts: PathBuf,
    pages: SocketAddr,
    socket: PathBuf,
}

impl Agent {
    /// Runs `binary run` in the namespace with `options` (words separated by blanks) and an alert file of
    /// this lab, and waits until it is ready. `name` distinguishes its files in `folder` from other agents'
    /// files.
    ///
    /// # Errors
    /// The agent cannot start, ends, or is not ready within four minutes: the error has its log.
    pub fn start(ns: &Ns, binary: &Path, folder: &Path, name: &str, options: &str) -> Result<Self> {
        Self::start_in(ns, binary, folder, name, options, &[])
    }

    /// Starts an agent as [`Agent::start`] does, with environment variables.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_in(
        ns: &Ns,
        binary: &Path,
        folder: &Path,
        name: &str,
        options: &str,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let alerts = folder.join(format!("{name}-alerts.jsonl"));
        let options = format!("{options} --alerts {}", alerts.display());
        Self::start_as_configured(ns, binary, folder, name, &options, environment)
    }

    /// Starts an agent as [`Agent::start_in`] does, with only the alert files of its configuration.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_as_configured(
        ns: &Ns,
        binary: &Path,
        folder: &Path,
        name: &str,
        options: &str,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let alerts = folder.join(format!("{name}-alerts.jsonl"));
        let binary = binary.to_str().context("the path of the agent is not UTF-8")?;
        let mut command = ns.command(binary);
        command.arg("run").args(options.split_whitespace());
        command.env("NO_COLOR", "1").env_remove("RUST_LOG").envs(environment.iter().copied());
        let value_of = |option: &str| options.split_whitespace().skip_while(|word| *word != option).nth(1);
        // Agents of other tests run at the same time: each has its own socket, and no metrics or control
        // address by default.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = || folder.join(format!("{name}-{}.sock", NEXT.fetch_add(1, Ordering::Relaxed)));
        let socket = value_of("--control").map_or_else(unique, PathBuf::from);
        if value_of("--control").is_none() {
            command.arg("--control").arg(&socket);
        }
        for option in ["--state", "--pins"] {
            if value_of(option).is_none() {
                command.args([option, "off"]);
            }
        }
        let pages =
            value_of("--metrics").map_or(Ok(PAGES), str::parse).context("--metrics is not ADDRESS:PORT")?;
        let running = Running::start(command, &log)?;
        let mut agent = Self { running, ns: ns.clone(), log, alerts, pages, socket };
        let ready = wait_for("the agent is ready", Duration::from_secs(240), || agent.ready());
        ready.with_context(|| format!("its log:\n{}", agent.log()))?;
        Ok(agent)
    }

    fn ready(&mut self) -> Result<Option<()>> {
        if let Some(status) = self.running.ended()? {
            bail!("the agent has ended: {status}");
        }
        Ok(matches!(get(&self.ns, self.pages, "/-/ready"), Ok((200, _))).then_some(()))
    }

    /// Returns the process, for signals and its id.
    pub fn process(&mut self) -> &mut Running {
        &mut self.running
    }

    /// Stops the agent with SIGTERM and returns its exit status.
    ///
    /// # Errors
    /// Waiting for the process fails.
    pub fn stop(&mut self) -> Result<std::process::ExitStatus> {
        self.running.stop()
    }

    /// Lets the agent run after this value is dropped.
    pub fn leave(self) {
        self.running.leave();
    }

    /// Returns the log so far.
    #[must_use]
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// Returns the path of the control socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns the path of the alert file, one JSON object per line.
    #[must_use]
    pub fn alert_file(&self) -> &Path {
        &self.alerts
    }

    /// Returns the complete lines of the alert file.
    #[must_use]
    pub fn alerts(&self) -> Vec<String> {
        let text = read(&self.alerts);
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(str::to_owned).collect()
    }

    /// Fetches one of the agent's pages: status and text.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        get(&self.ns, self.pages, path)
    }

    /// Fetches the metrics in the text format.
    ///
    /// # Errors
    /// The agent does not answer, or not with 200.
    pub fn metrics(&self) -> Result<String> {
        match get(&self.ns, self.pages, "/metrics")? {
            (200, text) => Ok(text),
            (status, text) => bail!("/metrics answers {status}: {text}"),
        }
    }

    /// Waits until a poll that began after this call has ended, and all outputs have written their lines. Every
    /// record and alert that was due at the call is in its file then, so a line that is missing will not come.
    ///
    /// # Errors
    /// The agent does not poll, or an output has waiting lines after two minutes: the error has the log.
    pub fn settle(&self) -> Result<()> {
        self.settle_without(&[])
    }

    /// Waits as [`Agent::settle`] does, without the outputs that fail: they keep their lines.
    ///
    /// # Errors
    /// As [`Agent::settle`].
    pub fn settle_without(&self, failing_outputs: &[&str]) -> Result<()> {
        let polls = |metrics: &str| -> Option<u64> {
            let mut lines = metrics.lines();
            lines.find_map(|line| line.strip_prefix("mailflow_poll_duration_seconds_count "))?.parse().ok()
        };
        let is_waiting = |line: &str| {
            let Some((output, lines)) = line
                .strip_prefix("mailflow_output_queue_lines{output=\"")
                .and_then(|rest| rest.split_once("\"} "))
            else {
                return false;
            };
            lines != "0" && !failing_outputs.contains(&output)
        };
        let within = Duration::from_secs(120);
        let before = polls(&self.metrics()?).context("/metrics has no number of polls")?;
        let settled = wait_for("two more polls", within, || {
            // The first poll that ends may have begun before the call.
            Ok(polls(&self.metrics()?).is_some_and(|polls| polls >= before + 2).then_some(()))
        });
        // A page is not atomic: only a later one has the lines of these polls.
        let settled = settled.and_then(|()| {
            wait_for("no waiting lines", within, || {
                Ok((!self.metrics()?.lines().any(is_waiting)).then_some(()))
            })
        });
        settled.with_context(|| format!("its log:\n{}", self.log()))
    }
}

/// Reads a file that the agent may not have created yet.
fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
