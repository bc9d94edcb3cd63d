//! Licence notices of the crates that are linked into the binary.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::workspace;

/// Prefixes of the names of licence and notice files.
const FILES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"];

/// Output of `cargo metadata`, format 1.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    authors: Vec<String>,
    source: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `None` for a normal dependency; `dev` and `build` ones are not linked.
    kind: Option<String>,
}

/// Returns the notices as one text: a table of the crates, then each licence text once, with its crates.
pub(super) fn collect(target: &str) -> Result<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target]);
    let output = cargo.current_dir(workspace::root()).output().context("cannot run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("output of cargo metadata")?;
    let linked = linked(&metadata)?;
    let mut text = String::from("The binary mailflow-agent contains these libraries.\n\n");
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in &linked {
        let name = format!("{} {}", package.name, package.version);
        let license = package.license.as_deref().unwrap_or("see its licence file");
        writeln!(text, "{name}: {license}; {}", package.authors.join(", "))?;
        for file in notices(package)? {
            texts.entry(file).or_default().insert(name.clone());
        }
    }
    for (notice, packages) in texts {
        let packages: Vec<_> = packages.into_iter().collect();
        write!(text, "\n{}\n{}\n\n{}\n", "=".repeat(78), packages.join(", "), notice.trim_end())?;
    }
    Ok(text)
}

/// Returns the packages from a registry that the agent links, by name.
fn linked(metadata: &Metadata) -> Result<Vec<&Package>> {
    let packages: HashMap<&str, &Package> =
        metadata.packages.iter().map(|package| (&*package.id, package)).collect();
    let nodes: HashMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (&*node.id, node)).collect();
    let agent = metadata.packages.iter().find(|package| package.name == "mailflow-agent");
    let mut open = vec![&*agent.context("there is no package mailflow-agent")?.id];
    let mut found = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !found.insert(id) {
            continue;
        }
        let dependencies = nodes.get(id).map_or(&[][..], |node| &node.deps);
        let normal = |dependency: &&Dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none());
        open.extend(dependencies.iter().filter(normal).map(|dependency| &*dependency.pkg));
    }
    let mut linked: Vec<_> = found.into_iter().filter_map(|id| packages.get(id).copied()).collect();
    linked.retain(|package| package.source.is_some());
    linked.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
    Ok(linked)
}

/// Returns the texts of a package's licence files.
fn notices(package: &Package) -> Result<Vec<String>> {
    let folder = package.manifest_path.parent().unwrap_or(Path::new("."));
    let mut names: Vec<_> = fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
            path.is_file() && FILES.iter().any(|file| name.starts_with(file))
        })
        .collect();
    names.sort();
    let read = |path: PathBuf| fs::read(&path).with_context(|| path.display().to_string());
    names.into_iter().map(|path| Ok(String::from_utf8_lossy(&read(path)?).into_owned())).collect()
}
