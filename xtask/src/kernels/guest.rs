//! The guest's only process and its tools: the guest's file system, without kernel modules.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use mailflow_test_support::lab::{command, output, search_path};

use crate::{terminal, workspace};

/// Commands that the guest runs.
const TOOLS: [&str; 3] = ["ip", "tc", "ethtool"];

/// Files of the guest's file system, equal for every kernel.
#[derive(Debug)]
pub(super) struct Guest {
    /// Contents by path in the guest.
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

impl Guest {
    /// Builds the guest's program and collects the files that it needs.
    pub(super) fn build() -> Result<Self> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "rustc",
            "--quiet",
            "--locked",
            "--package",
            "mailflow-system-tests",
            "--example",
            "guest",
        ]);
        // The guest unpacks the file into memory: 80 MB of debug information would be most of it.
        cargo.args(["--", "-C", "strip=debuginfo"]);
        terminal::run(cargo.current_dir(workspace::root()))?;
        // cargo puts the program next to xtask.
        let own = std::env::current_exe().context("the path of xtask")?;
        let folder = own.parent().context("xtask is in no target folder")?;
        let program = folder.join("examples/guest");

        let mut guest = Self { files: BTreeMap::new() };
        guest.add("/init".to_owned(), program)?;
        for tool in TOOLS {
            let mut folders = std::env::split_paths(&search_path()).collect::<Vec<_>>().into_iter();
            let found = folders.find_map(|folder| Some(folder.join(tool)).filter(|path| path.is_file()));
            guest.add(format!("/bin/{tool}"), found.with_context(|| format!("no {tool} in PATH"))?)?;
        }
        Ok(guest)
    }

    /// Adds a program at `path`, and its shared libraries at the host's paths.
    fn add(&mut self, path: String, file: PathBuf) -> Result<()> {
        for library in libraries(&output(command("ldd").arg(&file))?) {
            let bytes = fs::read(library).with_context(|| library.to_owned())?;
            self.files.insert(library.to_owned(), bytes);
        }
        let bytes = fs::read(&file).with_context(|| file.display().to_string())?;
        self.files.insert(path, bytes);
        Ok(())
    }
}

/// Returns the paths in ldd's output: `name => path (address)`, the loader's without an arrow. The vDSO has
/// none.
fn libraries(said: &str) -> Vec<&str> {
    let words = said.lines().flat_map(str::split_whitespace);
    words.filter(|word| word.starts_with('/')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_ldd_output() {
        let said = "\tlinux-vdso.so.1 (0x00007f1d74ce1000)\n\
            \tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f1d74b5e000)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f1d74ce3000)\n";
        assert_eq!(libraries(said), ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"]);
        assert_eq!(libraries("\tstatically linked\n"), [""; 0]);
    }
}
