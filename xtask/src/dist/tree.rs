//! Paths of the installed files.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{terminal, workspace};

/// Folder of documents and examples.
const DOC: &str = "usr/share/doc/mailflow-agent";

/// Files of the repository that are installed unchanged, and their paths.
const FILES: &[(&str, &str)] = &[
    ("config/debian/mailflow.yaml", "etc/mailflow/mailflow.yaml"),
    ("config/systemd/mailflow-agent.service", "usr/lib/systemd/system/mailflow-agent.service"),
    ("config/systemd/mailflow-agent.sysusers", "usr/lib/sysusers.d/mailflow-agent.conf"),
    ("config/systemd/mailflow-agent.tmpfiles", "usr/lib/tmpfiles.d/mailflow-agent.conf"),
    ("config/debian/logrotate", "etc/logrotate.d/mailflow-agent"),
    ("config/debian/lintian-overrides", "usr/share/lintian/overrides/mailflow-agent"),
];
/// Files that an upgrade does not overwrite once the administrator changed them.
pub(super) const CONFFILES: &[&str] = &["/etc/logrotate.d/mailflow-agent", "/etc/mailflow/mailflow.yaml"];

/// Folder with the layout of the machine.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Creates everything except `DEBIAN` in an empty folder.
    pub(super) fn build(root: PathBuf, binary: &Path) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
        }
        let tree = Self { root };
        tree.write("usr/bin/mailflow-agent", &fs::read(binary)?, 0o755)?;
        for (from, to) in FILES {
            tree.write(to, &read(from)?, 0o644)?;
        }
        for (name, content) in super::documents::collect()? {
            tree.write(&format!("{DOC}/{name}"), &content, 0o644)?;
        }
        tree.pages(binary)?;
        tree.completions(binary)?;
        tree.write(&format!("{DOC}/copyright"), copyright()?.as_bytes(), 0o644)?;
        let log = tree.write(&format!("{DOC}/changelog"), &read("config/debian/changelog")?, 0o644)?;
        compress(&log)?;
        let notices = super::notices::collect(&super::binary::host()?)?;
        let notices = tree.write(&format!("{DOC}/THIRD-PARTY-NOTICES"), notices.as_bytes(), 0o644)?;
        compress(&notices)?;
        Ok(tree)
    }

    /// Returns the root folder.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns every file with its path from the root, sorted.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(&self.root)?.to_owned());
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Writes a file and its parent folders, independent of the umask.
    pub(super) fn write(&self, name: &str, content: &[u8], mode: u32) -> Result<PathBuf> {
        let path = self.root.join(name);
        let folder = path.parent().context("a file has a folder")?;
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        for folder in folder.ancestors().take_while(|folder| folder.starts_with(&self.root)) {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        fs::write(&path, content).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(path)
    }

    fn pages(&self, binary: &Path) -> Result<()> {
        let manual = self.root.join("usr/share/man");
        terminal::run(Command::new(binary).arg("man").arg(&manual))?;
        fs::set_permissions(&manual, fs::Permissions::from_mode(0o755))?;
        for section in fs::read_dir(&manual)? {
            let folder = section?.path();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
            // The whole list first: each compressed page is a new file in the folder.
            let pages: Result<Vec<_>, _> = fs::read_dir(&folder)?.collect();
            for page in pages?.iter().map(fs::DirEntry::path) {
                fs::set_permissions(&page, fs::Permissions::from_mode(0o644))?;
                compress(&page)?;
            }
        }
        Ok(())
    }

    fn completions(&self, binary: &Path) -> Result<()> {
        for (shell, place) in [
            ("bash", "bash-completion/completions/mailflow-agent"),
            ("zsh", "zsh/vendor-completions/_mailflow-agent"),
            ("fish", "fish/vendor_completions.d/mailflow-agent.fish"),
        ] {
            let output = Command::new(binary).args(["completions", shell]).output()?;
            self.write(&format!("usr/share/{place}"), &output.stdout, 0o644)?;
        }
        Ok(())
    }
}

fn read(name: &str) -> Result<Vec<u8>> {
    let path = workspace::root().join(name);
    fs::read(&path).with_context(|| path.display().to_string())
}

/// Returns the copyright file, with the licence's text as a paragraph.
fn copyright() -> Result<String> {
    let notice = String::from_utf8(read("config/debian/copyright")?)?;
    let licence = String::from_utf8(read("LICENSE-MIT")?)?;
    let lines = licence.trim_end().lines();
    let lines = lines.map(|line| if line.is_empty() { " .".to_owned() } else { format!(" {line}") });
    Ok(notice.replace("@MIT@", &lines.collect::<Vec<_>>().join("\n")))
}

/// Compresses without a name and a time, as Debian requires for man pages and change logs.
fn compress(path: &Path) -> Result<()> {
    terminal::run(Command::new("gzip").args(["--best", "--no-name", "--force"]).arg(path))
}
