//! Unpacked Debian kernel: its image and its modules.

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use mailflow_test_support::lab::command;

use super::{apt::Suite, series::Series};
use crate::{terminal::say, workspace};

/// Metapackage of the newest kernel of a suite. The cloud flavour is the smallest download and has the needed
/// modules.
const METAPACKAGE: &str = "linux-image-cloud-amd64";
/// File with the version; written last.
const NOTE: &str = "version";

/// Unpacked kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Folder of the unpacked packages.
    pub(super) root: PathBuf,
    /// Version of the package.
    pub(super) version: String,
}

impl Kernel {
    /// Returns the newest kernel of the series; downloads it unless it is under `target/kernels`. If the
    /// archive cannot be reached, the present one is used.
    pub(super) fn get(series: &Series) -> Result<Self> {
        let root = workspace::root().join("target/kernels").join(series.name);
        let here = fs::read_to_string(root.join(NOTE)).ok();
        match (Offer::newest(series), here) {
            (Ok(offer), Some(version)) if offer.version == version => Ok(Self { root, version }),
            (Ok(offer), _) => {
                say(format!("{:<7} downloading {} {}", series.name, offer.package, offer.version));
                offer.unpack(&root)?;
                Ok(Self { root, version: offer.version })
            }
            (Err(error), Some(version)) => {
                say(format!("{:<7} {version} as downloaded before: {error:#}", series.name));
                Ok(Self { root, version })
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Returns the kernel's image: in /boot, or next to the modules in newer packages.
    pub(super) fn image(&self) -> Result<PathBuf> {
        let mut folders = vec![self.root.join("boot")];
        folders.extend(fs::read_dir(self.modules()?)?.flatten().map(|entry| entry.path()));
        let files = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
        let image = files.into_iter().find(|file| file.file_name().to_string_lossy().starts_with("vmlinuz"));
        image.map(|file| file.path()).with_context(|| format!("no image in {}", self.root.display()))
    }

    /// Returns the folder of the modules.
    pub(super) fn modules(&self) -> Result<PathBuf> {
        let folders = ["lib/modules", "usr/lib/modules"].map(|folder| self.root.join(folder));
        let found = folders.into_iter().find(|folder| folder.is_dir());
        found.with_context(|| format!("no modules in {}", self.root.display()))
    }
}

/// Kernel that a suite offers.
struct Offer {
    suite: Suite,
    package: String,
    version: String,
}

impl Offer {
    fn newest(series: &Series) -> Result<Self> {
        let folder = workspace::root().join("target/kernels/apt");
        let mut newest: Option<Self> = None;
        let mut errors = Vec::new();
        for name in series.suites {
            match Self::of(&folder, name, series.prefix) {
                Ok(offer) => match &newest {
                    Some(best) if compare(&offer.version, &best.version)? != Ordering::Greater => {}
                    _ => newest = Some(offer),
                },
                Err(error) => errors.push(format!("{name}: {error:#}")),
            }
        }
        newest.ok_or_else(|| anyhow!(errors.join("; ")))
    }

    fn of(folder: &Path, suite: &str, prefix: &str) -> Result<Self> {
        let suite = Suite::open(folder, suite)?;
        match suite.version(METAPACKAGE)? {
            Some(version) if version.starts_with(prefix) => {
                let dependencies = suite.dependencies(METAPACKAGE)?;
                let package = dependencies.into_iter().find(|name| name.starts_with("linux-image-"));
                Ok(Self { suite, package: package.context("its metapackage names no kernel")?, version })
            }
            Some(version) => bail!("its kernel is {version}"),
            None => bail!("it has no {METAPACKAGE}"),
        }
    }

    /// Unpacks into a temporary folder and renames it to `root`, so that `root` is complete or missing.
    fn unpack(&self, root: &Path) -> Result<()> {
        let fresh = root.with_extension("new");
        for folder in [&fresh, root].into_iter().filter(|folder| folder.exists()) {
            fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        // Newer kernels have separate packages for the image and the modules.
        let mut packages = vec![self.package.clone()];
        let parts = ["linux-binary-", "linux-modules-"];
        let dependencies = self.suite.dependencies(&self.package)?;
        packages
            .extend(dependencies.into_iter().filter(|name| parts.iter().any(|part| name.starts_with(part))));
        self.suite
            .unpack(&packages, &fresh)
            .with_context(|| format!("cannot unpack {}", packages.join(", ")))?;
        fs::write(fresh.join(NOTE), &self.version)?;
        Ok(fs::rename(&fresh, root)?)
    }
}

/// Compares two Debian versions.
fn compare(one: &str, other: &str) -> Result<Ordering> {
    let greater = command("dpkg").args(["--compare-versions", one, "gt", other]).status()?.success();
    Ok(if greater { Ordering::Greater } else { Ordering::Less })
}
