//! Captures, sent on a real interface with tcpreplay.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::command::output;
use super::debian::{Unpacked, With, unpack};
use super::ns::Ns;

/// The distribution's tcpreplay, unpacked under `target/lab/tcpreplay`.
#[derive(Debug, Clone)]
pub struct Tcpreplay(Unpacked);

impl Tcpreplay {
    /// Unpacks the package, unless this is done already. Needs no root.
    ///
    /// # Errors
    /// The download fails.
    pub fn unpack() -> Result<Self> {
        Ok(Self(unpack("tcpreplay", With::Libraries)?))
    }

    /// Sends captures on an interface of a namespace, one after the other: faster than they were recorded,
    /// and slowly enough for a queue of 1,000. Returns the number of frames sent.
    ///
    /// # Errors
    /// tcpreplay fails, or a frame was refused or truncated.
    pub fn send(&self, ns: &Ns, interface: &str, captures: &[PathBuf]) -> Result<u64> {
        let program = self.0.root.join("usr/bin/tcpreplay");
        // One CPU: frames sent from several CPUs may be reordered.
        let mut command = ns.command("taskset");
        command.arg("--cpu-list").arg("0").arg(program);
        command.env("LD_LIBRARY_PATH", self.0.libraries()?.join(":"));
        command.args(["--preload-pcap", "--pps=5000", "--intf1", interface]).args(captures);
        let statistics = output(&mut command)?;
        let sent = number(&statistics, "Successful packets:")?;
        for complaint in ["Failed packets:", "Truncated packets:"] {
            ensure!(number(&statistics, complaint)? == 0, "tcpreplay on {interface}:\n{statistics}");
        }
        Ok(sent)
    }
}

/// Returns the number after a label of tcpreplay's final statistics.
fn number(statistics: &str, label: &str) -> Result<u64> {
    for line in statistics.lines() {
        if let Some(value) = line.trim().strip_prefix(label) {
            return value.trim().parse().with_context(|| line.to_owned());
        }
    }
    bail!("tcpreplay does not say `{label}`:\n{statistics}")
}
