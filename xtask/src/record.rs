//! `cargo xtask record`: flow records, alerts and answers of the agent for known inputs, to compare two
//! versions.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    agent::{self, Profile},
    terminal::say,
    workspace,
};

/// Arguments of `cargo xtask record`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Folder for the recording; must not exist
    #[arg(required_unless_present = "compare")]
    folder: Option<PathBuf>,
    /// Compare two recordings: one before a change, and one after it
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"], conflicts_with = "folder")]
    compare: Option<Vec<PathBuf>>,
    /// Names that the change replaced: `OLD NEW` per line; OLD is a whole JSON key or text of the first
    /// recording
    #[arg(long, value_name = "FILE", requires = "compare")]
    names: Option<PathBuf>,
}

/// Maximum number of differences that are printed for a file.
const SHOWN: usize = 5;
/// Seeds of the scenario generator.
const SEEDS: [u32; 2] = [7, 11];

/// Records, or compares.
pub(crate) fn run(args: &Args) -> Result<()> {
    match (&args.compare, &args.folder) {
        (Some(folders), _) => {
            let [before, after] = &folders[..] else { bail!("--compare takes two folders") };
            let names = args.names.as_deref().map_or(Ok(BTreeMap::new()), names)?;
            compare(before, after, &names)
        }
        (None, Some(folder)) => record(folder),
        (None, None) => bail!("a folder is needed"),
    }
}

fn record(folder: &Path) -> Result<()> {
    ensure!(!folder.exists(), "{} is there already", folder.display());
    let binary = agent::build(Profile::Release)?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let folder = fs::canonicalize(folder)?;
    let shared = workspace::root().join("../shared");
    if shared.join("captures").is_dir() {
        captures(&binary, &shared, &folder)?;
    } else {
        say("SKIPPED: there are no captures in ../shared/captures");
    }
    if shared.join("scenarios/build.py").is_file() {
        SEEDS.iter().try_for_each(|seed| scenario(&binary, &shared, &folder, *seed))?;
    } else {
        say("SKIPPED: there is no generator of scenarios in ../shared/scenarios");
    }
    let tests = files(&workspace::root().join("config/rules/tests"), "yaml")?;
    // Relative to the working directory, as the answer contains them.
    let tests = tests.iter().map(|path| path.strip_prefix(workspace::root()).unwrap_or(path));
    let mut command = Command::new(&binary);
    command.args(["rules", "test"]).args(tests).current_dir(workspace::root());
    answer(&mut command, &folder.join("rule-tests.txt"))?;
    say(format!("recorded in {}", folder.display()));
    Ok(())
}

/// Replays each capture separately.
fn captures(binary: &Path, shared: &Path, folder: &Path) -> Result<()> {
    for kind in ["mail", "struct"] {
        let mut all = files(&shared.join("captures").join(kind), "pcap")?;
        all.extend(files(&shared.join("captures").join(kind), "pcapng")?);
        for capture in all {
            let name =
                capture.file_name().context("a capture without a name")?.to_string_lossy().into_owned();
            let to = |ending: &str| folder.join(format!("replay-{name}.{ending}"));
            let mut command = Command::new(binary);
            command.args(["replay", "--drain"]).arg(&capture);
            command.arg("--flow-log").arg(to("flows.jsonl")).arg("--alerts").arg(to("alerts.jsonl"));
            answer(&mut command, &to("txt"))?;
        }
    }
    Ok(())
}

/// Runs a backtest of two weeks of a generated network.
fn scenario(binary: &Path, shared: &Path, folder: &Path, seed: u32) -> Result<()> {
    let log = folder.join(format!("scenario-{seed}"));
    let mut python = Command::new("python3");
    python.arg(shared.join("scenarios/build.py")).args([seed.to_string(), "1".to_owned()]).arg(&log);
    ensure!(python.status().context("running python3")?.success(), "the scenario of seed {seed} failed");
    let mut command = Command::new(binary);
    command.arg("backtest").arg(log.with_extension("json"));
    command.arg("--alerts").arg(folder.join(format!("backtest-{seed}.alerts.jsonl")));
    answer(&mut command, &folder.join(format!("backtest-{seed}.txt")))?;
    // The generator's own files are large, and not part of the recording.
    for made in fs::read_dir(folder)? {
        let made = made?.path();
        if made
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(&format!("scenario-{seed}")))
        {
            fs::remove_file(made)?;
        }
    }
    Ok(())
}

/// Writes the exit status and the output of a command to a file.
fn answer(command: &mut Command, to: &Path) -> Result<()> {
    let output = command.env("NO_COLOR", "1").output().context("running the agent")?;
    let text = format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stdout));
    fs::write(to, text).with_context(|| format!("writing {}", to.display()))
}

/// Returns the files with this extension, sorted by name.
fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut paths: Vec<_> =
        paths.into_iter().filter(|path| path.extension().is_some_and(|own| own == ending)).collect();
    paths.sort();
    Ok(paths)
}

fn names(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let pair = |(number, line): (usize, &str)| {
        let (old, new) = line
            .split_once(' ')
            .with_context(|| format!("{}:{}: {line:?}: expected `OLD NEW`", path.display(), number + 1))?;
        Ok((old.to_owned(), new.to_owned()))
    };
    text.lines().enumerate().map(pair).collect()
}

/// Compares all files of two recordings; a file on one side only is a difference too.
fn compare(before: &Path, after: &Path, names: &BTreeMap<String, String>) -> Result<()> {
    let listed = |folder: &Path| -> Result<BTreeMap<String, PathBuf>> {
        let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
        entries
            .map(|entry| entry.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())))
            .collect::<std::io::Result<_>>()
            .map_err(Into::into)
    };
    let (before, after) = (listed(before)?, listed(after)?);
    let (mut lines, mut differences) = (0, 0);
    for name in before.keys().chain(after.keys().filter(|name| !before.contains_key(*name))) {
        let (Some(old), Some(new)) = (before.get(name), after.get(name)) else {
            say(format!("{name}: only in one of the recordings"));
            differences += 1;
            continue;
        };
        let [old, new] = [old, new]
            .map(|path| fs::read_to_string(path).map(|text| text.lines().map(str::to_owned).collect()));
        let (mut old, mut new): (Vec<String>, Vec<String>) = (old?, new?);
        // The order of the flow records of one poll depends on the random key of the flow table's hash.
        if name.ends_with(".flows.jsonl") {
            old.sort();
            new.sort();
        }
        let of = |line: &String| renamed(line, names);
        let other: Vec<usize> = (0..old.len().max(new.len()))
            .filter(|line| {
                old.get(*line).map(of) != new.get(*line).map(|line| renamed(line, &BTreeMap::new()))
            })
            .collect();
        lines += new.len();
        differences += other.len();
        for line in other.iter().take(SHOWN) {
            let [old, new] = [&old, &new].map(|lines| lines.get(*line).map_or("nothing", String::as_str));
            say(format!("{name}:{}:\n  before {old}\n  after  {new}", line + 1));
        }
    }
    ensure!(lines > 0, "there is nothing to compare");
    ensure!(differences == 0, "{differences} of {lines} lines differ");
    say(format!("{lines} lines of {} files are equal", after.len()));
    Ok(())
}

/// Returns a line with the new names. JSON is compared as a value: the order of keys does not matter.
fn renamed(line: &str, names: &BTreeMap<String, String>) -> String {
    match serde_json::from_str::<Value>(line) {
        Ok(value) => with_names(value, names).to_string(),
        Err(_) => names.iter().fold(line.to_owned(), |line, (old, new)| line.replace(old, new)),
    }
}

fn with_names(value: Value, names: &BTreeMap<String, String>) -> Value {
    let name = |text: String| names.get(&text).cloned().unwrap_or(text);
    match value {
        Value::Object(fields) => Value::Object(
            fields.into_iter().map(|(key, value)| (name(key), with_names(value, names))).collect(),
        ),
        Value::Array(values) => values.into_iter().map(|value| with_names(value, names)).collect(),
        Value::String(text) => Value::String(name(text)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_are_compared_with_renamed_keys() {
        let folder = std::env::temp_dir().join(format!("mailflow-record-{}", std::process::id()));
        let [before, after] = ["before", "after"].map(|name| folder.join(name));
        for side in [&before, &after] {
            fs::create_dir_all(side).unwrap();
        }
        let write = |side: &Path, text: &str| fs::write(side.join("flows.jsonl"), text).unwrap();
        write(&before, "{\"old\":1,\"kept\":[\"old\",\"older\"]}\n");
        write(&after, "{\"kept\":[\"new\",\"older\"],\"new\":1}\n");
        let names = BTreeMap::from([("old".to_owned(), "new".to_owned())]);
        compare(&before, &after, &names).unwrap();
        assert!(compare(&before, &after, &BTreeMap::new()).is_err());
        write(&after, "{\"kept\":[\"new\",\"older\"],\"new\":2}\n");
        assert_eq!(compare(&before, &after, &names).unwrap_err().to_string(), "1 of 1 lines differ");
        fs::write(after.join("more.txt"), "").unwrap();
        assert_eq!(compare(&before, &after, &names).unwrap_err().to_string(), "2 of 1 lines differ");
        fs::remove_dir_all(folder).unwrap();
    }
}
