//! The steps of `cargo xtask test`.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{
    bpf, deny, fuzz, imports, kernels, packaging,
    terminal::{self},
    workspace,
};

/// Seconds that each step took, by its name: what `cargo xtask test` printed on two quiet cores.
const SECONDS: &str = include_str!("seconds.tsv");
/// Package of the suites that need no root.
const UNPRIVILEGED: &str = "mailflow-unprivileged-tests";
/// Package of the suites that need root.
pub(super) const SYSTEM: &str = "mailflow-system-tests";
/// Suite of the step [`Kind::Packaging`], which builds the package first.
const PACKAGING: &str = "packaging";
/// Seconds for which each fuzz target looks for new inputs, after the committed ones.
const FUZZ_SECONDS: u32 = 2;
/// Packages with unit tests that need no root.
const UNIT_TESTED: [&str; 5] =
    ["mailflow-common", "mailflow-ebpf", "mailflow-engine", "mailflow-agent", "xtask"];

/// The order of steps: a lane runs when those before it have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Needs no root and little time: the steps of `cargo xtask check`.
    Fast,
    /// Needs root: live agents, whose checks bound times. Only builds of low priority run at the same time.
    System,
    /// Builds, downloads, guests.
    Builds,
}

/// One check, which has a name on the command line.
pub(super) struct Step {
    pub(super) name: String,
    pub(super) lane: Lane,
    /// The first sentence about it.
    pub(super) about: String,
    kind: Kind,
}

enum Kind {
    /// A run of cargo with these arguments.
    Cargo(Vec<String>),
    Imports,
    Fuzz,
    Object,
    Dependencies,
    Kernels,
    Packaging,
}

impl Step {
    fn new(name: &str, lane: Lane, about: &str, kind: Kind) -> Self {
        Self { name: name.to_owned(), lane, about: about.to_owned(), kind }
    }

    fn cargo(name: &str, lane: Lane, about: &str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self::new(name, lane, about, Kind::Cargo(arguments))
    }

    /// Returns the seconds that the step takes on two quiet cores once all is built, if they were measured.
    pub(super) fn seconds(&self) -> Option<u32> {
        seconds().get(self.name.as_str()).copied()
    }

    /// Runs the step with its output in sight.
    pub(super) fn run(&self) -> Result<()> {
        match &self.kind {
            Kind::Cargo(arguments) => {
                let mut cargo = Command::new(env!("CARGO"));
                cargo.args(arguments).current_dir(workspace::root());
                let promtool = workspace::root().join("target/lab/prometheus/usr/bin/promtool");
                if promtool.is_file() {
                    cargo.env("PROMTOOL", promtool);
                }
                terminal::run(&mut cargo)
            }
            Kind::Imports => imports::check(),
            Kind::Fuzz => fuzz::run(&fuzz::Args::all(FUZZ_SECONDS)),
            Kind::Object => bpf::run(&bpf::Args { check: true }),
            Kind::Dependencies => deny::run(),
            Kind::Kernels => kernels::run(),
            Kind::Packaging => packaging::run(),
        }
    }
}

/// Returns the measured seconds by name.
fn seconds() -> BTreeMap<&'static str, u32> {
    let lines = SECONDS.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('\t'))
        .filter_map(|(name, seconds)| Some((name, seconds.parse().ok()?)))
        .collect()
}

/// Returns all steps in the order of their run.
///
/// # Errors
/// cargo cannot list the suites, or a suite has no documentation.
pub(super) fn all() -> Result<Vec<Step>> {
    let mut units = vec!["test", "--locked", "--lib", "--bins"];
    units.extend(UNIT_TESTED.iter().flat_map(|package| ["--package", package]));
    let mut steps = vec![
        Step::cargo("fmt", Lane::Fast, "Every file is formatted.", &["fmt", "--all", "--check"]),
        Step::cargo(
            "clippy",
            Lane::Fast,
            "No lint of the workspace fires.",
            &["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"],
        ),
        Step::new(
            "imports",
            Lane::Fast,
            "No circle of imports over two files, and no arrow against the layers.",
            Kind::Imports,
        ),
        Step::cargo("units", Lane::Fast, "Unit tests that need no root.", &units),
    ];
    for (package, lane) in [(UNPRIVILEGED, Lane::Fast), (SYSTEM, Lane::System)] {
        for (suite, about) in suites(package)?.into_iter().filter(|(suite, _)| suite != PACKAGING) {
            steps.push(Step::cargo(
                &suite_name(&suite, lane),
                lane,
                &about,
                &["test", "--locked", "--package", package, "--test", &suite],
            ));
        }
    }
    let kernel = ["test", "--locked", "--lib", "--package", "mailflow-kernel"];
    steps.push(Step::cargo(
        "kernel_units",
        Lane::System,
        "Unit tests of mailflow-kernel, which load programs.",
        &kernel,
    ));
    let builds = [
        ("fuzz", "Committed inputs of the fuzz targets, and some new ones, break no parser.", Kind::Fuzz),
        ("object", "The committed BPF object is the one that its sources make.", Kind::Object),
        (
            "dependencies",
            "Licences, sources and known vulnerabilities of the dependencies.",
            Kind::Dependencies,
        ),
        ("kernels", "The program loads, attaches and counts on other kernels, in QEMU.", Kind::Kernels),
        (
            PACKAGING,
            "The package and the Ansible role on booted hosts, and ClickHouse's answers.",
            Kind::Packaging,
        ),
    ];
    steps.extend(builds.into_iter().map(|(name, about, kind)| Step::new(name, Lane::Builds, about, kind)));
    Ok(steps)
}

/// Returns the name of a suite's step: suites of both packages may have one name.
fn suite_name(suite: &str, lane: Lane) -> String {
    if lane == Lane::System && suite == "outputs" { "outputs_live".to_owned() } else { suite.to_owned() }
}

/// Returns the suites of a package, each with the first sentence of its documentation.
fn suites(package: &str) -> Result<Vec<(String, String)>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(workspace::root())
        .output()
        .context("running cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let found = packages.iter().find(|found| found["name"] == package);
    let targets = found.and_then(|found| found["targets"].as_array());
    let targets = targets.with_context(|| format!("there is no package {package}"))?;
    let tests = targets.iter().filter(|target| target["kind"][0] == "test");
    tests
        .map(|target| {
            let name = target["name"].as_str().context("a target has no name")?;
            let path = target["src_path"].as_str().context("a target has no path")?;
            Ok((name.to_owned(), first_sentence(Path::new(path))?))
        })
        .collect()
}

/// Returns the first sentence of a file's documentation.
fn first_sentence(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let lines = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let paragraph = lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    ensure!(!paragraph.is_empty(), "{} has no documentation", path.display());
    Ok(match paragraph.split_once(". ") {
        Some((sentence, _)) => format!("{sentence}."),
        None => paragraph,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn seconds_are_of_steps_and_names_are_unique() {
        let steps = all().unwrap();
        let names: BTreeSet<_> = steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names.len(), steps.len());
        let unknown: Vec<_> = seconds().into_keys().filter(|name| !names.contains(name)).collect();
        assert_eq!(unknown, Vec::<&str>::new(), "in xtask/src/test/seconds.tsv");
        let unmeasured: Vec<_> = names.into_iter().filter(|name| !seconds().contains_key(name)).collect();
        assert_eq!(unmeasured, Vec::<&str>::new(), "not in xtask/src/test/seconds.tsv");
    }
}
