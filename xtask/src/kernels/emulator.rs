//! QEMU: the host's own, or the distribution's package, unpacked. An installation could conflict with a newer
//! qemu-utils from backports, which apt would remove.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use mailflow_test_support::lab::{With, command, is_present, unpack};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
/// Packages with files that QEMU expects next to its own: modules, boot code, a PC's firmware.
const BESIDE: &[&str] = &["qemu-system-common", "qemu-system-data", "seabios"];

/// Program that runs the guests.
#[derive(Debug)]
pub(super) struct Emulator {
    program: PathBuf,
    /// Folders of the unpacked package's libraries.
    libraries: Vec<String>,
}

impl Emulator {
    /// Finds QEMU, or unpacks it, unless this is done already.
    pub(super) fn get() -> Result<Self> {
        if is_present(PROGRAM) {
            return Ok(Self { program: PROGRAM.into(), libraries: Vec::new() });
        }
        let package = unpack(PACKAGE, With::LibrariesAnd(BESIDE))?;
        let program = package.root.join("usr/bin").join(PROGRAM);
        Ok(Self { program, libraries: package.libraries()? })
    }

    /// Returns a command that starts QEMU.
    pub(super) fn command(&self) -> Command {
        let mut qemu = command(&self.program);
        if !self.libraries.is_empty() {
            qemu.env("LD_LIBRARY_PATH", self.libraries.join(":"));
        }
        // TCG is a QEMU module, which QEMU does not find relative to itself.
        let mut modules = self.libraries.iter().map(|folder| Path::new(folder).join("qemu"));
        if let Some(folder) = modules.find(|folder| folder.is_dir()) {
            qemu.env("QEMU_MODULE_DIR", folder);
        }
        qemu
    }
}
