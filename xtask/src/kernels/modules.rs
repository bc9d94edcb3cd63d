//! Kernel modules that a guest needs, with their dependencies.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use mailflow_test_support::lab::command;

/// Modules that the guest uses, unless they are built in.
const WANTED: [&str; 8] =
    ["virtio_pci", "virtio_net", "veth", "tun", "8021q", "sch_ingress", "cls_bpf", "af_packet"];

/// Module in the form that the kernel loads.
pub(super) struct Module {
    /// Name of the module.
    pub(super) name: String,
    /// Uncompressed file.
    pub(super) bytes: Vec<u8>,
}

/// Returns the modules below `folder` that a guest loads, in loading order.
pub(super) fn wanted(folder: &Path) -> Result<Vec<Module>> {
    let mut files = Vec::new();
    list(folder, &mut files)?;
    let mut modules = Vec::new();
    for name in WANTED {
        add(name, &files, &mut modules)?;
    }
    Ok(modules)
}

/// Adds a module after its dependencies. A missing module is built in, or the guest's checks fail.
fn add(name: &str, files: &[PathBuf], modules: &mut Vec<Module>) -> Result<()> {
    if modules.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let Some(file) = files.iter().find(|file| name_of(file).as_deref() == Some(name)) else { return Ok(()) };
    let bytes = uncompressed(file).with_context(|| file.display().to_string())?;
    for needed in dependencies(&bytes) {
        add(&needed, files, modules)?;
    }
    modules.push(Module { name: name.to_owned(), bytes });
    Ok(())
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        // Symbolic links to the kernel's headers are skipped.
        match entry.file_type()? {
            kind if kind.is_dir() => list(&entry.path(), files)?,
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    Ok(())
}

/// Returns a module's name: file names may have hyphens in place of underscores.
fn name_of(file: &Path) -> Option<String> {
    let (name, rest) = file.file_name()?.to_str()?.split_once('.')?;
    matches!(rest, "ko" | "ko.xz" | "ko.zst").then(|| name.replace('-', "_"))
}

fn uncompressed(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return Ok(fs::read(file)?),
    };
    let run = command(program).args(["--decompress", "--stdout", "--quiet"]).arg(file).output()?;
    ensure!(run.status.success(), "{program}: {}", String::from_utf8_lossy(&run.stderr).trim());
    Ok(run.stdout)
}

/// Returns the names in the `depends=` entry of a module's `.modinfo` section, a string that ends with a zero
/// byte.
fn dependencies(module: &[u8]) -> Vec<String> {
    let entry = module.split(|byte| *byte == 0).find_map(|text| text.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(entry.unwrap_or_default()).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_names_and_dependencies_are_read() {
        assert_eq!(name_of(Path::new("a/virtio-net.ko.xz")).as_deref(), Some("virtio_net"));
        assert_eq!(name_of(Path::new("a/modules.dep")), None);
        let module = b"\x7fELF\0license=GPL\0depends=net-failover,virtio\0intree=Y\0";
        assert_eq!(dependencies(module), ["net_failover", "virtio"]);
        assert_eq!(dependencies(b"depends=\0"), [""; 0]);
    }
}
