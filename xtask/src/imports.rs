//! `cargo xtask imports`: the import graph of the crates, and of the files of each crate.
//!
//! An edge goes from a file to the file that defines an imported name; a re-export counts as its definition.
//! Test code is excluded. Cycles of more than [`LARGEST_CYCLE`] files are errors, and so are forbidden
//! dependencies of crates.

mod graph;
mod source;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use self::source::Crate;
use crate::workspace;

/// Maximum number of files in a cycle: two files that need each other are one concept in two files.
const LARGEST_CYCLE: usize = 2;

/// Crates that build without these dependencies, so that their tests compile in seconds.
const WITHOUT: [(&str, &[&str]); 3] = [
    ("mailflow-common", &["aya", "tokio", "rustls", "mailflow-engine", "mailflow-kernel", "mailflow-agent"]),
    ("mailflow-engine", &["aya", "tokio", "rustls", "tracing", "libc", "mailflow-kernel", "mailflow-agent"]),
    ("mailflow-kernel", &["rustls", "serde_yaml", "mailflow-agent"]),
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also print each file's imports
    #[arg(long)]
    files: bool,
}

/// Checks the graph, and prints its cycles.
pub(crate) fn check() -> Result<()> {
    run(&Args { files: false })
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let packages = packages()?;
    let mut errors = Vec::new();
    println!("crates");
    for package in &packages {
        let inside: Vec<_> = package
            .dependencies
            .iter()
            .filter(|name| name.starts_with("mailflow-"))
            .map(String::as_str)
            .collect();
        println!(
            "  {} -> {}",
            package.name,
            if inside.is_empty() { "-".to_owned() } else { inside.join(", ") }
        );
        let without = WITHOUT.iter().find(|(name, _)| *name == package.name).map_or(&[][..], |found| found.1);
        for name in without.iter().filter(|name| package.dependencies.iter().any(|found| found == *name)) {
            errors.push(format!("{} depends on {name}", package.name));
        }
    }
    for (name, root) in packages.iter().flat_map(|package| &package.roots) {
        let graph = Crate::read(root).with_context(|| name.clone())?.graph();
        let edges: usize = graph.values().map(std::collections::BTreeSet::len).sum();
        println!("{name}: {} files, {edges} imports", graph.len());
        if args.files {
            for (file, imports) in &graph {
                println!("  {file} -> {}", imports.iter().cloned().collect::<Vec<_>>().join(", "));
            }
        }
        for cycle in graph::cycles(&graph) {
            println!("  cycle of {} files:", cycle.len());
            for file in &cycle {
                let within: Vec<_> =
                    graph[file].iter().filter(|other| cycle.contains(*other)).cloned().collect();
                println!("    {file} -> {}", within.join(", "));
            }
            if cycle.len() > LARGEST_CYCLE {
                errors.push(format!("{name}: a cycle of {} files: {}", cycle.len(), cycle.join(", ")));
            }
        }
    }
    ensure!(errors.is_empty(), "the import graph is not what it should be:\n  {}", errors.join("\n  "));
    Ok(())
}

/// Package of the workspace.
struct Package {
    name: String,
    /// Libraries and programs: their names and root files.
    roots: Vec<(String, String)>,
    /// Names of the dependencies, except those of tests.
    dependencies: Vec<String>,
}

fn packages() -> Result<Vec<Package>> {
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let mut packages = BTreeMap::new();
    for package in workspace::packages()? {
        let name = text(&package["name"]);
        let targets = list(&package["targets"]);
        let built = targets.iter().filter(|target| target["kind"][0] == "lib" || target["kind"][0] == "bin");
        let label = |target: &serde_json::Value| format!("{name}, {}", text(&target["kind"][0]));
        let roots = built.map(|target| (label(target), text(&target["src_path"]))).collect();
        let dependencies = list(&package["dependencies"]);
        let dependencies = dependencies.iter().filter(|dependency| dependency["kind"].is_null());
        let dependencies = dependencies.map(|dependency| text(&dependency["name"])).collect();
        packages.insert(name.clone(), Package { name, roots, dependencies });
    }
    Ok(packages.into_values().collect())
}
