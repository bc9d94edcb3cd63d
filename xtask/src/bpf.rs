//! `cargo xtask bpf`: builds the committed BPF object, or checks that it belongs to its sources.

mod object;
mod record;
mod toolchain;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use self::{record::Record, toolchain::Toolchain};
use crate::workspace;

/// Path of the object in the workspace.
const OBJECT: &str = "mailflow-ebpf/object/mailflow.bpf.o";
/// Path of the object's build record.
const RECORD: &str = "mailflow-ebpf/object/record.txt";

/// Arguments of `cargo xtask bpf`.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct Args {
    /// Compare with the committed object instead of writing it
    #[arg(long)]
    pub(crate) check: bool,
}

/// Returns the Debian packages that building the object needs; none if a suitable compiler is present.
pub(crate) fn missing_packages() -> &'static [&'static str] {
    if Toolchain::find(None).is_ok() { &[] } else { &toolchain::DEBIAN_PACKAGES }
}

/// Builds or checks the object.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = workspace::root();
    let recorded = Record::read(&root.join(RECORD));
    let toolchain = Toolchain::find(recorded.as_ref().ok())?;
    println!("toolchain: {toolchain}");
    let built = build(&root, &toolchain)?;
    let record = Record::of(&root, &toolchain, &built)?;
    if args.check {
        return check(&root, &recorded?, &record, &built);
    }
    fs::create_dir_all(root.join(OBJECT).parent().unwrap_or(&root))?;
    fs::write(root.join(OBJECT), &built).with_context(|| format!("writing {OBJECT}"))?;
    record.write(&root.join(RECORD))?;
    println!("{OBJECT}: {} bytes, sha256 {}", built.len(), record.object);
    Ok(())
}

/// Compares the bytes if the toolchain is the recorded one. With another toolchain the bytes may differ, and
/// the tests must pass with the new object.
fn check(root: &Path, recorded: &Record, record: &Record, built: &[u8]) -> Result<()> {
    ensure!(
        recorded.sources == record.sources,
        "the BPF sources have moved on from {RECORD}: run `cargo xtask bpf` and commit what it writes"
    );
    let committed = fs::read(root.join(OBJECT)).with_context(|| format!("reading {OBJECT}"))?;
    ensure!(record::sha256(&committed) == recorded.object, "{OBJECT} is not the one {RECORD} describes");
    if recorded.same_toolchain(record) {
        ensure!(
            committed == built,
            "{OBJECT} differs from what the recorded toolchain makes of the sources (sha256 {})",
            record.object
        );
        println!("{OBJECT}: identical to a rebuild by the recorded toolchain");
        return Ok(());
    }
    println!(
        "this is not the recorded toolchain ({}): running the kernel tests on the rebuilt object",
        recorded.rustc
    );
    let rebuilt = root.join("target/bpf/rebuilt.bpf.o");
    fs::write(&rebuilt, built)?;
    let status = Command::new(env!("CARGO"))
        .args(["test", "--workspace", "--test", "program"])
        .env("MAILFLOW_BPF_OBJECT", &rebuilt)
        .current_dir(root)
        .status()?;
    ensure!(status.success(), "the kernel tests fail on the object this toolchain builds");
    Ok(())
}

/// Compiles, links and strips.
fn build(root: &Path, toolchain: &Toolchain) -> Result<Vec<u8>> {
    let linker = toolchain.linker(root)?;
    let target = root.join("target/bpf");
    let flags = flags(root, toolchain, &linker)?.join("\x1f");
    println!("building mailflow-ebpf");
    let status = toolchain
        .command(env!("CARGO"))
        .args(["build", "--package", "mailflow-ebpf", "--bin", "mailflow", "--profile", "bpf", "--locked"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env("RUSTC_BOOTSTRAP", "1")
        .current_dir(root)
        .status()
        .context("running cargo")?;
    ensure!(status.success(), "building the BPF object failed");
    let linked = target.join("bpfel-unknown-none/bpf/mailflow");
    object::stripped(&fs::read(&linked).with_context(|| format!("reading {}", linked.display()))?)
}

/// Returns flags under which the object does not depend on the build path.
fn flags(root: &Path, toolchain: &Toolchain, linker: &Path) -> Result<Vec<String>> {
    let mut flags = vec![
        format!("-Clinker={}", utf8(linker)?),
        "-Clink-arg=--btf".to_owned(),
        // 32-bit instructions (Linux 5.1): without them each such operation needs extra shifts.
        "-Ctarget-cpu=v3".to_owned(),
        format!("--remap-path-prefix={}=/mailflow", utf8(root)?),
    ];
    let registry = cargo_home()?.join("registry/src");
    for index in fs::read_dir(&registry).with_context(|| format!("reading {}", registry.display()))? {
        flags.push(format!("--remap-path-prefix={}=/registry", utf8(&index?.path())?));
    }
    for sources in toolchain.sources() {
        flags.push(format!("--remap-path-prefix={}=/rust", utf8(&sources)?));
    }
    Ok(flags)
}

fn cargo_home() -> Result<PathBuf> {
    let home = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    match home("CARGO_HOME").or_else(|| Some(home("HOME")?.join(".cargo"))) {
        Some(path) => Ok(path),
        None => bail!("neither CARGO_HOME nor HOME is set"),
    }
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8, which rustc's flags have to be", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_object_belongs_to_sources() {
        let root = workspace::root();
        let record = Record::read(&root.join(RECORD)).unwrap();
        let sources = record::sources(&root).unwrap();
        assert_eq!(record.sources, sources, "run `cargo xtask bpf` and commit what it writes");
        let object = fs::read(root.join(OBJECT)).unwrap();
        assert_eq!(record.object, record::sha256(&object), "{OBJECT} is not the one {RECORD} describes");
    }
}
