//! Build record of the object: its sources and tools.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::toolchain::{BPF_LINKER, Toolchain};

/// Folders and files that the object is built from.
const SOURCES: [&str; 4] =
    ["mailflow-common/Cargo.toml", "mailflow-common/src", "mailflow-ebpf/Cargo.toml", "mailflow-ebpf/src"];

/// Build record of an object.
#[derive(Debug)]
pub(super) struct Record {
    /// First line of `rustc --version`.
    pub(super) rustc: String,
    /// LLVM of that rustc.
    llvm: String,
    /// Version of bpf-linker.
    linker: String,
    /// SHA-256 over the sources.
    pub(super) sources: String,
    /// SHA-256 of the object.
    pub(super) object: String,
}

impl Record {
    /// Returns the record of an object that was just built.
    pub(super) fn of(root: &Path, toolchain: &Toolchain, object: &[u8]) -> Result<Self> {
        Ok(Self {
            rustc: toolchain.version().to_owned(),
            llvm: toolchain.llvm().to_owned(),
            linker: BPF_LINKER.to_owned(),
            sources: sources(root)?,
            object: sha256(object),
        })
    }

    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let field = |name: &str| -> Result<String> {
            text.lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
                .with_context(|| format!("{}: no `{name}: ...` line", path.display()))
        };
        Ok(Self {
            rustc: field("rustc")?,
            llvm: field("llvm")?,
            linker: field("bpf-linker")?,
            sources: field("sources-sha256")?,
            object: field("object-sha256")?,
        })
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = format!(
            "Written by `cargo xtask bpf`, compared by `cargo xtask bpf --check`.\n\n\
             rustc: {}\nllvm: {}\nbpf-linker: {}\nsources-sha256: {}\nobject-sha256: {}\n",
            self.rustc, self.llvm, self.linker, self.sources, self.object
        );
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Returns true if `other` has the same tools, so that the bytes must be equal.
    pub(super) fn same_toolchain(&self, other: &Record) -> bool {
        (&self.rustc, &self.llvm, &self.linker) == (&other.rustc, &other.llvm, &other.linker)
    }
}

/// Returns the SHA-256 of names and contents of the sources, and of the locked versions of their crates.
pub(super) fn sources(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(root, source.to_owned(), &mut files)?;
    }
    files.sort();
    ensure!(!files.is_empty(), "no BPF sources below {}", root.display());
    let mut hash = Sha256::new();
    for file in &files {
        let content = fs::read(root.join(file)).with_context(|| format!("reading {file}"))?;
        hash.update(format!("{file}\0{}\0", content.len()));
        hash.update(content);
    }
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("reading Cargo.lock")?;
    for package in lock.split("\n\n").filter(|package| package.contains("name = \"aya-ebpf")) {
        hash.update(package.trim());
    }
    Ok(hex(&hash.finalize()))
}

fn collect(root: &Path, name: String, files: &mut Vec<String>) -> Result<()> {
    let path = root.join(&name);
    if !path.is_dir() {
        files.push(name);
        return Ok(());
    }
    for entry in fs::read_dir(&path).with_context(|| format!("reading {name}"))? {
        let entry = entry?.file_name();
        let entry = entry.to_str().with_context(|| format!("{name}: a file name that is not UTF-8"))?;
        collect(root, format!("{name}/{entry}"), files)?;
    }
    Ok(())
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
