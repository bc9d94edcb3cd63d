//! Errors between the agent and the kernel.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError, sys::SyscallError};

/// Error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel lacks what the program needs.
    #[error("Linux {release} is too old: mailflow needs 5.10 or newer")]
    TooOld {
        /// `uname -r`.
        release: String,
    },
    /// The process lacks capabilities.
    #[error(
        "missing capabilities: {missing}. Run as root, or under a service manager that grants \
         CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    )]
    Capabilities {
        /// Their names.
        missing: String,
    },
    /// There is no such interface.
    #[error("no interface `{name}`; there are: {present}")]
    NoInterface {
        /// Name in the configuration.
        name: String,
        /// Interfaces that exist.
        present: String,
    },
    /// Reading something about the machine failed.
    #[error("{what}: {source}")]
    Machine {
        /// Subject of the read.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The object lacks a program or a map: it is not this agent's.
    #[error("the BPF object has no `{0}`")]
    Missing(&'static str),
    /// The object cannot be read.
    #[error("the BPF object: {0}")]
    Object(String),
    /// The object was refused.
    #[error("loading the BPF object: {}", error_chain(.0))]
    Load(#[source] Box<EbpfError>),
    /// A program was refused.
    #[error("loading the BPF program `{program}`: {}", error_chain(.source))]
    Program {
        /// Its name.
        program: String,
        /// Why.
        source: Box<ProgramError>,
    },
    /// No hook took the program.
    #[error("attaching to `{interface}` failed: {reasons}")]
    Attach {
        /// The interface.
        interface: String,
        /// Hooks that were tried, with the reason of each refusal.
        reasons: String,
    },
    /// A map could not be used.
    #[error("BPF map `{map}`: {}", error_chain(.source))]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        source: Box<MapError>,
    },
    /// Nothing can be pinned.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// Reading or deleting in batches failed.
    #[error("flow table: {0}")]
    FlowTable(#[source] io::Error),
}

/// Error of pinning.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Another agent runs.
    #[error("{} is in use by another agent{}", path.display(), holder_suffix(*.pid))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Process of that agent, if known.
        pid: Option<u32>,
    },
    /// There is no BPF file system, and it cannot be mounted.
    #[error("no BPF file system at {}: {source}", path.display())]
    NoFileSystem {
        /// Path.
        path: PathBuf,
        /// Why it cannot be mounted.
        source: io::Error,
    },
    /// The system refuses.
    #[error("{}: {source}", path.display())]
    Refused {
        /// Path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Returns a process as text for messages.
pub fn holder_suffix(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(", process {pid}"))
}

/// Returns an error with all causes. Of a verifier log only the end, where the reason is.
pub(crate) fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    const MAX_LENGTH: usize = 600;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    if text.len() > MAX_LENGTH {
        let cut = text.ceil_char_boundary(text.len() - MAX_LENGTH);
        text = format!("... {}", &text[cut..]);
    }
    text
}

/// Returns the errno of a refused attach, if there is one.
pub(crate) fn errno(error: &ProgramError) -> Option<i32> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(SyscallError { io_error, .. }) = error.downcast_ref::<SyscallError>() {
            return io_error.raw_os_error();
        }
        if let Some(io_error) = error.downcast_ref::<io::Error>() {
            return io_error.raw_os_error();
        }
        cause = error.source();
    }
    None
}
