//! Packages of the distribution, downloaded and unpacked without an installation: no service starts and no
//! file of the host changes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::command::{command, output};

/// File of an unpacked package with its version; written last.
const NOTE: &str = "version";

/// Dependencies to unpack with a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum With {
    /// No dependencies.
    Nothing,
    /// Libraries that the package needs and the host lacks.
    Libraries,
    /// These libraries, and packages whose files the program expects next to its own.
    LibrariesAnd(&'static [&'static str]),
}

/// Unpacked package, under `target/lab`.
#[derive(Debug, Clone)]
pub struct Unpacked {
    /// Folder that contains its `usr`.
    pub root: PathBuf,
    /// Version, as the distribution writes it.
    pub version: String,
}

impl Unpacked {
    /// Returns the folders with its libraries.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub fn libraries(&self) -> Result<Vec<String>> {
        let mut folders = Vec::new();
        for lib in ["usr/lib", "lib"] {
            for entry in std::fs::read_dir(self.root.join(lib)).into_iter().flatten() {
                let entry = entry?;
                if entry.file_name().to_string_lossy().contains("-linux-") {
                    folders.push(entry.path().display().to_string());
                }
            }
        }
        Ok(folders)
    }
}

/// Unpacks a package into `target/lab/<name>`, unless this is done already. Needs the package lists of
/// `apt-get update`, and no root.
///
/// # Errors
/// This is neither Debian nor Ubuntu, or the package cannot be downloaded.
pub fn unpack(name: &str, with: With) -> Result<Unpacked> {
    let lab = super::workspace::workspace().join("target/lab");
    let root = lab.join(name);
    if !is_unpacked(name) {
        std::fs::create_dir_all(&lab).with_context(|| format!("cannot create {}", lab.display()))?;
        // Test processes run in parallel: one unpacks, the others wait.
        let lock = lab.join(format!("{name}.lock"));
        let locked = File::create(&lock).and_then(|file| file.lock().map(|()| file));
        let _locked = locked.with_context(|| lock.display().to_string())?;
        if !is_unpacked(name) {
            unpack_into(name, with, &root)?;
        }
    }
    let version = std::fs::read_to_string(root.join(NOTE))?;
    Ok(Unpacked { root, version })
}

/// Unpacks into a temporary folder and renames it to `root`, so that `root` is complete or missing.
fn unpack_into(name: &str, with: With, root: &Path) -> Result<()> {
    let fresh = root.with_extension("new");
    for folder in [&fresh, root] {
        if folder.exists() {
            std::fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
    }
    std::fs::create_dir(&fresh)?;
    let version = fetch(name, with, &fresh).with_context(|| {
        format!("cannot unpack the package {name}; if apt-get knows none, run `apt-get update` as root")
    })?;
    std::fs::write(fresh.join(NOTE), version)?;
    Ok(std::fs::rename(&fresh, root)?)
}

/// Returns true if the package is already unpacked.
#[must_use]
pub fn is_unpacked(name: &str) -> bool {
    super::workspace::workspace().join("target/lab").join(name).join(NOTE).exists()
}

/// Downloads and unpacks into `root`; returns the package's version.
fn fetch(name: &str, with: With, root: &Path) -> Result<String> {
    let mut download = apt(&["download", name]);
    if with != With::Nothing {
        let plan = output(&mut apt(&["--simulate", "install", name]))?;
        download.args(missing_libraries(&plan));
    }
    if let With::LibrariesAnd(others) = with {
        download.args(others);
    }
    output(download.current_dir(root))?;
    let mut version = None;
    for entry in std::fs::read_dir(root)? {
        let package = entry?.path();
        if package.extension().is_none_or(|extension| extension != "deb") {
            continue;
        }
        output(command("dpkg-deb").arg("--extract").arg(&package).arg(root))?;
        let field = |field: &str| output(command("dpkg-deb").arg("--field").arg(&package).arg(field));
        if field("Package")?.trim() == name {
            version = Some(field("Version")?.trim().to_owned());
        }
        std::fs::remove_file(&package)?;
    }
    match version {
        Some(version) => Ok(version),
        None => bail!("apt-get has downloaded nothing into {}", root.display()),
    }
}

/// Returns the libraries among the packages that an installation would add. Other dependencies serve the
/// installation, which does not happen here.
fn missing_libraries(plan: &str) -> Vec<&str> {
    let names = plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
    names.filter(|name| name.starts_with("lib")).collect()
}

/// Creates a non-interactive apt-get command. As root it must not give the download to a user without write
/// access here.
fn apt(words: &[&str]) -> Command {
    let mut apt = command("apt-get");
    apt.args(["--quiet", "--yes", "--no-install-recommends", "-o", "APT::Sandbox::User=root"]).args(words);
    apt.env("LC_ALL", "C");
    apt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_libraries_are_found_in_apt_plan() {
        let plan = "Reading package lists...\n\
            Inst cpio (2.13+dfsg-7.1 Debian:12.15/oldstable [amd64])\n\
            Inst libicu72 (72.1-3+deb12u1 Debian:12.15/oldstable [amd64])\n\
            Inst postfix (3.7.11-0+deb12u1 Debian:12.15/oldstable [amd64]) []\n\
            Inst libnsl2 (1.3.0-2 Debian:12.15/oldstable [amd64])\n\
            Conf libicu72 (72.1-3+deb12u1 Debian:12.15/oldstable [amd64])\n";
        assert_eq!(missing_libraries(plan), ["libicu72", "libnsl2"]);
    }
}
