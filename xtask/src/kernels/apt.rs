//! Debian suites that this machine does not use, read with a separate apt configuration: a folder replaces
//! apt's, and the machine's configuration stays unchanged.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use mailflow_test_support::lab::{command, output};

/// Maximum age of package lists.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// Debian's archive keys, from the package debian-archive-keyring.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Debian suite.
pub(super) struct Suite {
    name: String,
    folder: PathBuf,
}

impl Suite {
    /// Opens a suite and fetches its lists into `folder`.
    pub(super) fn open(folder: &Path, name: &str) -> Result<Self> {
        let suite = Self { name: name.to_owned(), folder: folder.join(name) };
        let fetched = suite.folder.join("fetched");
        let age = fetched
            .metadata()
            .and_then(|data| data.modified())
            .map(|time| SystemTime::now().duration_since(time));
        if !matches!(age, Ok(Ok(age)) if age < FRESH) {
            suite.fetch().with_context(|| format!("the lists of {name}"))?;
            fs::write(fetched, "")?;
        }
        Ok(suite)
    }

    fn fetch(&self) -> Result<()> {
        for folder in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.folder.join(folder))?;
        }
        let mirror = mirror(self.name.ends_with("-security"))?;
        let keys = Some(KEYS).filter(|keys| Path::new(keys).exists());
        // Only packages: neither translations nor icons.
        let options = keys.map_or(String::new(), |keys| format!(" signed-by={keys}"));
        let line = format!("deb [target=Packages{options}] {mirror} {} main\n", self.name);
        fs::write(self.folder.join("sources.list"), line)?;
        // Without this option a failed download is only a warning.
        output(self.apt("apt-get").args(["--quiet", "--error-on=any", "update"]))?;
        Ok(())
    }

    /// Returns the package's version; `None` if the suite has no such package.
    pub(super) fn version(&self, package: &str) -> Result<Option<String>> {
        let shown = output(self.apt("apt-cache").args(["policy", package]))?;
        let candidate = shown.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        Ok(candidate.filter(|version| *version != "(none)").map(str::to_owned))
    }

    /// Returns the package's dependencies, first choices only.
    pub(super) fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let shown = output(self.apt("apt-cache").args(["depends", package]))?;
        let names = shown.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// Downloads packages and unpacks them into `into`.
    pub(super) fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        let downloads = into.join("downloads");
        fs::create_dir_all(&downloads)?;
        output(self.apt("apt-get").args(["--quiet", "download"]).args(packages).current_dir(&downloads))?;
        for package in fs::read_dir(&downloads)? {
            output(command("dpkg-deb").arg("--extract").arg(package?.path()).arg(into))?;
        }
        Ok(fs::remove_dir_all(downloads)?)
    }

    fn apt(&self, program: &str) -> Command {
        let mut apt = command(program);
        let at = |option: &str, place: &str| format!("{option}={}", self.folder.join(place).display());
        for option in [
            at("Dir::Etc::SourceList", "sources.list"),
            at("Dir::State::Lists", "lists"),
            at("Dir::Cache", "cache"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "Dir::Etc::Preferences=/dev/null".to_owned(),
            "Dir::Etc::PreferencesParts=/dev/null".to_owned(),
            // As root it must not give the download to a user without write access here.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            apt.args(["-o", &option]);
        }
        apt.env("LC_ALL", "C");
        apt
    }
}

/// Returns the address of this machine's Debian mirror, or of its security updates.
fn mirror(security: bool) -> Result<String> {
    let words =
        ["indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages", "Origin: Debian"];
    match mirror_among(&output(command("apt-get").args(words))?, security) {
        Some(mirror) => Ok(mirror.to_owned()),
        None if security => bail!("this machine's apt has no Debian security archive"),
        None => bail!("this machine's apt has no Debian archive"),
    }
}

fn mirror_among(targets: &str, security: bool) -> Option<&str> {
    let mut targets = targets.lines().filter_map(|line| line.split_once(' '));
    targets.find(|(suite, _)| suite.ends_with("-security") == security).map(|(_, address)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_of_the_machine_are_used() {
        let targets = "bookworm http://one.example/debian/\n\
            bookworm-updates http://one.example/debian/\n\
            bookworm-security http://two.example/security/\n";
        assert_eq!(mirror_among(targets, false), Some("http://one.example/debian/"));
        assert_eq!(mirror_among(targets, true), Some("http://two.example/security/"));
        assert_eq!(mirror_among("", true), None);
    }
}
