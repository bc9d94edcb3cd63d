//! QEMU: the host's own, or the distribution's package, unpacked. Installing it is no way: beside a newer
//! qemu-utils, as backports bring it, apt would have to take that one away.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use mailflow_test_support::lab::{With, command, is_present, unpack};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
/// Packages with what QEMU looks for beside its own files: its modules, boot code, a PC's firmware.
const BESIDE: &[&str] = &["qemu-system-common", "qemu-system-data", "seabios"];

/// What runs the guests.
#[derive(Debug)]
pub(super) struct Emulator {
    program: PathBuf,
    /// Folders of the unpacked package's libraries.
    libraries: Vec<String>,
}

impl Emulator {
    /// Finds it, or unpacks it if that has not been done yet.
    pub(super) fn get() -> Result<Self> {
        if is_present(PROGRAM) {
            return Ok(Self { program: PROGRAM.into(), libraries: Vec::new() });
        }
        let package = unpack(PACKAGE, With::LibrariesAnd(BESIDE))?;
        let program = package.root.join("usr/bin").join(PROGRAM);
        Ok(Self { program, libraries: package.libraries()? })
    }

    /// A command that starts it.
    pub(super) fn command(&self) -> Command {
        let mut qemu = command(&self.program);
        if !self.libraries.is_empty() {
            qemu.env("LD_LIBRARY_PATH", self.libraries.join(":"));
        }
        // Emulation is one of its modules, which it does not look for beside itself.
        let mut modules = self.libraries.iter().map(|folder| Path::new(folder).join("qemu"));
        if let Some(folder) = modules.find(|folder| folder.is_dir()) {
            qemu.env("QEMU_MODULE_DIR", folder);
        }
        qemu
    }
}
