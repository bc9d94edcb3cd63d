//! Postfix's package with its libraries.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::super::command::{command, output};
use super::super::debian::{Unpacked, With, unpack};
use super::super::ns::Ns;

/// The distribution's Postfix, unpacked under `target/lab/postfix`.
#[derive(Debug, Clone)]
pub struct Package(Unpacked);

impl Package {
    /// Unpacks the package, unless this is done already. Needs no root.
    ///
    /// # Errors
    /// The download fails, or a library is missing after unpacking.
    pub fn unpack() -> Result<Self> {
        let package = Self(unpack("postfix", With::Libraries)?);
        package.check_libraries()?;
        Ok(package)
    }

    /// Returns the version, as the distribution writes it.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// Returns the folder that contains its `usr`.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Creates a command that runs one of its tools (`usr/sbin`) inside a namespace.
    ///
    /// # Errors
    /// The path of the repository is not UTF-8.
    pub fn tool(&self, ns: &Ns, name: &str) -> Result<Command> {
        let at = self.root().to_str().context("the path of the repository is not UTF-8")?;
        let mut command = ns.command(&format!("{at}/usr/sbin/{name}"));
        command.env("LD_LIBRARY_PATH", self.libraries(at)?);
        Ok(command)
    }

    /// Returns the library path of its programs if the package is mounted at `at`.
    pub(super) fn libraries(&self, at: &str) -> Result<String> {
        let mut folders = vec![format!("{at}/usr/lib/postfix")];
        for lib in ["usr/lib", "lib"] {
            for entry in std::fs::read_dir(self.root().join(lib)).into_iter().flatten() {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if name.contains("-linux-") {
                    folders.push(format!("{at}/{lib}/{name}"));
                }
            }
        }
        Ok(folders.join(":"))
    }

    fn check_libraries(&self) -> Result<()> {
        let at = self.root().to_str().context("the path of the repository is not UTF-8")?;
        let smtpd = self.root().join("usr/lib/postfix/sbin/smtpd");
        let listed = output(command("ldd").arg(smtpd).env("LD_LIBRARY_PATH", self.libraries(at)?))?;
        let missing: Vec<_> = listed.lines().filter(|line| line.contains("not found")).collect();
        ensure!(missing.is_empty(), "Postfix lacks libraries: {missing:?}; remove {at} to fetch it again");
        Ok(())
    }
}
