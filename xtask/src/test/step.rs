//! The steps of `cargo xtask test`.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{bpf, deny, fuzz, imports, kernels, packaging, terminal, workspace};

/// Seconds that each step took, by its name: what `cargo xtask test` printed on two quiet cores.
const SECONDS: &str = include_str!("seconds.tsv");
/// Package of the suites that need no root.
const UNPRIVILEGED: &str = "mailflow-unprivileged-tests";
/// Package of the suites that need root.
const SYSTEM: &str = "mailflow-system-tests";
/// Package whose unit tests load programs.
const KERNEL: &str = "mailflow-kernel";
/// Suite of the step [`Kind::Packaging`], which builds the package first.
const PACKAGING: &str = "packaging";
/// Seconds for which each fuzz target looks for new inputs, after the committed ones.
const FUZZ_SECONDS: u32 = 2;
/// Packages with unit tests that need no root.
const UNIT_TESTED: [&str; 5] =
    ["mailflow-common", "mailflow-ebpf", "mailflow-engine", "mailflow-agent", "xtask"];

/// Group of steps, in the order of a whole run, which ends after `Fast` if a step of it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Needs no root and little time: the steps of `cargo xtask check`.
    Fast,
    /// Needs root: live agents, whose checks bound times. Only builds of low priority run at the same time.
    System,
    /// Builds alone: they run at the time of the system suites, with low priority.
    Builds,
    /// Boots machines, which have time limits of their own.
    Machines,
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
    /// The build of all test binaries of the workspace.
    Build,
    /// Test binaries of the workspace.
    Binaries(Vec<Target>),
    Imports,
    Fuzz,
    Object,
    Dependencies,
    Kernels,
    Package,
    Packaging,
}

/// A target with tests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    package: String,
    /// Name of a suite, or none for the unit tests of libraries and programs.
    suite: Option<String>,
}

impl Target {
    fn suite(package: &str, suite: &str) -> Self {
        Self { package: package.to_owned(), suite: Some(suite.to_owned()) }
    }

    fn units(package: &str) -> Self {
        Self { package: package.to_owned(), suite: None }
    }
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

    /// Returns true if the step only runs test binaries.
    pub(super) fn has_binaries(&self) -> bool {
        matches!(self.kind, Kind::Binaries(_))
    }

    /// Runs the step with visible output.
    pub(super) fn run(&self) -> Result<()> {
        self.run_with_output(None)
    }

    /// Runs the step. The output of test binaries is written to `log`, if there is one.
    pub(super) fn run_with_output(&self, log: Option<&File>) -> Result<()> {
        match &self.kind {
            Kind::Cargo(arguments) => {
                let mut cargo = Command::new(env!("CARGO"));
                terminal::run(cargo.args(arguments).current_dir(workspace::root()))
            }
            Kind::Build => build().map(|_| ()),
            Kind::Binaries(targets) => run_binaries(targets, log),
            Kind::Imports => imports::check(),
            Kind::Fuzz => fuzz::run(&fuzz::Args::all(FUZZ_SECONDS)),
            Kind::Object => bpf::run(&bpf::Args { check: true }),
            Kind::Dependencies => deny::run(),
            Kind::Kernels => kernels::run(),
            Kind::Package => packaging::build().map(|_| ()),
            Kind::Packaging => packaging::run(),
        }
    }
}

/// Test binaries of each target, with the folders of their packages.
type Binaries = BTreeMap<Target, Vec<(PathBuf, PathBuf)>>;

/// Builds the test binaries of the workspace, once for all steps of a run.
fn build() -> Result<&'static Binaries> {
    static BUILT: OnceLock<Result<Binaries, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build_workspace().map_err(|error| format!("{error:#}")));
    built.as_ref().map_err(|error| anyhow!(error.clone()))
}

/// Builds all packages at once: of a part of them cargo unifies other features, and builds dependencies again.
fn build_workspace() -> Result<Binaries> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "test",
        "--locked",
        "--workspace",
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ]);
    let output =
        cargo.current_dir(workspace::root()).stderr(Stdio::inherit()).output().context("running cargo")?;
    ensure!(output.status.success(), "`{}` failed: {}", terminal::shown(&cargo), output.status);
    let mut found = Binaries::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        let (Some(binary), Some(manifest)) =
            (message["executable"].as_str(), message["manifest_path"].as_str())
        else {
            continue;
        };
        if message["profile"]["test"] != true {
            continue;
        }
        let folder = Path::new(manifest).parent().context("a manifest has no folder")?.to_owned();
        let package = package_name(message["package_id"].as_str().unwrap_or_default());
        let name = message["target"]["name"].as_str().unwrap_or_default();
        let target = match message["target"]["kind"][0].as_str() {
            Some("test") => Target::suite(package, name),
            _ => Target::units(package),
        };
        found.entry(target).or_default().push((PathBuf::from(binary), folder));
    }
    Ok(found)
}

/// Returns the package of an id such as `path+file:///folder#name@0.1.0` or `path+file:///folder/name#0.1.0`.
fn package_name(id: &str) -> &str {
    let (path, fragment) = id.split_once('#').unwrap_or(("", id));
    match fragment.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next().unwrap_or(path),
    }
}

/// Runs the binaries of these targets, in the folders of their packages as cargo does. Their output is written to
/// `log`, if there is one.
fn run_binaries(targets: &[Target], log: Option<&File>) -> Result<()> {
    let built = build()?;
    let promtool = workspace::root().join("target/lab/prometheus/usr/bin/promtool");
    let mut failed = Vec::new();
    for target in targets {
        let binaries = built.get(target).with_context(|| format!("{target:?} has no binary"))?;
        for (binary, folder) in binaries {
            let mut command = Command::new(binary);
            match log {
                Some(log) => command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?),
                None => {
                    println!("{}", binary.display());
                    &mut command
                }
            };
            command.current_dir(folder).env("CARGO_MANIFEST_DIR", folder).env("CARGO", env!("CARGO"));
            if promtool.is_file() {
                command.env("PROMTOOL", &promtool);
            }
            if let Err(error) = terminal::run(&mut command) {
                failed.push(format!("{error:#}"));
            }
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
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
    let units = UNIT_TESTED.iter().map(|package| Target::units(package)).collect();
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
            "No cycle of imports over two files, and no arrow against the layers.",
            Kind::Imports,
        ),
        Step::new("build", Lane::Fast, "All tests build.", Kind::Build),
        Step::new("units", Lane::Fast, "Unit tests that need no root.", Kind::Binaries(units)),
    ];
    let packages = workspace::packages()?;
    for (package, lane) in [(UNPRIVILEGED, Lane::Fast), (SYSTEM, Lane::System)] {
        for (suite, about) in suites(&packages, package)?.into_iter().filter(|(suite, _)| suite != PACKAGING)
        {
            let binaries = Kind::Binaries(vec![Target::suite(package, &suite)]);
            steps.push(Step::new(&suite_name(&suite, lane), lane, &about, binaries));
        }
    }
    let kernel = Kind::Binaries(vec![Target::units(KERNEL)]);
    steps.push(Step::new(
        "kernel_units",
        Lane::System,
        "Unit tests of mailflow-kernel, which load programs.",
        kernel,
    ));
    let others = [
        ("package", Lane::Builds, "The package builds twice, equal to the byte.", Kind::Package),
        (
            "fuzz",
            Lane::Builds,
            "Committed inputs of the fuzz targets, and some new ones, break no parser.",
            Kind::Fuzz,
        ),
        ("object", Lane::Builds, "The committed BPF object is the one that its sources make.", Kind::Object),
        (
            "dependencies",
            Lane::Builds,
            "Licences, sources and known vulnerabilities of the dependencies.",
            Kind::Dependencies,
        ),
        (
            "kernels",
            Lane::Machines,
            "The program loads, attaches and counts on other kernels, in QEMU.",
            Kind::Kernels,
        ),
        (
            PACKAGING,
            Lane::Machines,
            "The package and the Ansible role on booted hosts, and ClickHouse's answers.",
            Kind::Packaging,
        ),
    ];
    steps.extend(others.map(|(name, lane, about, kind)| Step::new(name, lane, about, kind)));
    Ok(steps)
}

/// Returns the name of a suite's step: suites of both packages may have one name.
fn suite_name(suite: &str, lane: Lane) -> String {
    if lane == Lane::System && suite == "outputs" { "outputs_live".to_owned() } else { suite.to_owned() }
}

/// Returns the suites of one of these packages, each with the first sentence of its documentation.
fn suites(packages: &[serde_json::Value], package: &str) -> Result<Vec<(String, String)>> {
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
    fn package_ids_of_both_forms_are_read() {
        assert_eq!(
            package_name("path+file:///folder/mailflow-agent/engine#mailflow-engine@0.1.0"),
            "mailflow-engine"
        );
        assert_eq!(package_name("path+file:///folder/xtask#0.1.0"), "xtask");
    }

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
