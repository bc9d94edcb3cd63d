//! The distribution's Prometheus, run from an unpacked package.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::command::{Running, wait_for};
use super::debian::{With, unpack};
use super::http::get;
use super::ns::Ns;

/// Listen address in its namespace.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// Prometheus in a namespace, which scrapes and evaluates every second. Dropping the value stops it.
#[derive(Debug)]
pub struct Prometheus {
    running: Running,
    ns: Ns,
    log: PathBuf,
}

impl Prometheus {
    /// Starts Prometheus with the job `mailflow` for these targets and with these rule files. `folder` gets
    /// its data.
    ///
    /// # Errors
    /// The package cannot be unpacked, or Prometheus is not ready within 30 seconds: the error has its log.
    pub fn start(ns: &Ns, folder: &Path, targets: &[SocketAddr], rules: &[PathBuf]) -> Result<Self> {
        let targets: Vec<_> = targets.iter().map(|target| (target.to_string(), *target)).collect();
        Self::start_named(ns, folder, &targets, rules)
    }

    /// Starts Prometheus as [`Prometheus::start`] does, with a name for each target in the label `instance`.
    ///
    /// # Errors
    /// As [`Prometheus::start`].
    pub fn start_named(
        ns: &Ns,
        folder: &Path,
        targets: &[(String, SocketAddr)],
        rules: &[PathBuf],
    ) -> Result<Self> {
        let program = unpack("prometheus", With::Nothing)?.root.join("usr/bin/prometheus");
        let home = folder.join("prometheus");
        fs::create_dir_all(&home).with_context(|| home.display().to_string())?;
        let target = |(name, address): &(String, SocketAddr)| {
            format!("{{ targets: [\"{address}\"], labels: {{ instance: \"{name}\" }} }}")
        };
        let targets: Vec<_> = targets.iter().map(target).collect();
        let rules: Vec<_> = rules.iter().map(|file| format!("\"{}\"", file.display())).collect();
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{}]\nscrape_configs:\n  \
             - job_name: mailflow\n    static_configs: [{}]\n",
            rules.join(", "),
            targets.join(", ")
        );
        fs::write(home.join("prometheus.yml"), config)?;
        let mut command = ns.command(program.to_str().context("the path of Prometheus is not UTF-8")?);
        command.arg(format!("--config.file={}", home.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", home.join("data").display()));
        command.arg(format!("--web.listen-address={ADDRESS}"));
        let log = folder.join("prometheus.log");
        let running = Running::start(command, &log)?;
        let mut prometheus = Self { running, ns: ns.clone(), log };
        let ready = wait_for("Prometheus is ready", Duration::from_secs(120), || prometheus.ready());
        ready.with_context(|| prometheus.log())?;
        Ok(prometheus)
    }

    fn ready(&mut self) -> Result<Option<()>> {
        ensure!(self.running.ended()?.is_none(), "Prometheus has ended");
        Ok(matches!(get(&self.ns, ADDRESS, "/-/ready"), Ok((200, _))).then_some(()))
    }

    /// Returns the JSON answer to an instant query.
    ///
    /// # Errors
    /// Prometheus does not answer, or refuses the expression: the error has its message.
    pub fn query(&self, expression: &str) -> Result<String> {
        self.api(&format!("query?query={}", encoded(expression)))
    }

    /// Returns the JSON answer of a page of its API, such as `alerts`.
    ///
    /// # Errors
    /// As [`Prometheus::query`].
    pub fn api(&self, page: &str) -> Result<String> {
        let (status, text) = get(&self.ns, ADDRESS, &format!("/api/v1/{page}"))?;
        ensure!(status == 200, "{page}: {status}: {text}");
        Ok(text)
    }

    /// Returns the address of its pages, in its namespace.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        ADDRESS
    }

    /// Returns the log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Percent-encodes a part of a query string.
fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}
