//! `cargo xtask bench`: cost of counting, compared with the limits.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    terminal::{self, Steps, say},
    workspace,
};

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Also write the results to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run only cases whose name contains TEXT
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Benchmarks of the tests package in the order of their runs, with descriptions.
const BENCHES: [(&str, &str); 5] = [
    ("kernel", "the kernel program, net of an empty one"),
    ("wire", "on the wire, between network namespaces"),
    ("engine", "the agent, from the kernel's table to the records"),
    ("backtest", "two weeks of flows, beside DuckDB's reading of the same file"),
    ("scrape", "the metrics page, against the prometheus crate's counter vectors"),
];

/// Line that a benchmark prints.
#[derive(Serialize, Deserialize, Debug)]
struct Line {
    case: String,
    unit: String,
    value: f64,
    /// Maximum of the value.
    #[serde(default)]
    bar: Option<f64>,
    /// Minimum of the value.
    #[serde(default)]
    floor: Option<f64>,
}

impl Line {
    /// Returns true if the limit is met; `None` without a limit.
    fn met(&self) -> Option<bool> {
        match (self.bar, self.floor) {
            (Some(bar), _) => Some(self.value <= bar),
            (None, Some(floor)) => Some(self.value >= floor),
            (None, None) => None,
        }
    }
}

/// Builds and runs the benchmarks, and prints a table.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(
        terminal::is_root(),
        "the benchmarks load programs into the kernel; run them as root:\n  \
         sudo --preserve-env=HOME env \"PATH=$PATH\" cargo xtask bench"
    );
    let mut steps = Steps::new(BENCHES.len());
    let mut lines = Vec::new();
    for (bench, about) in BENCHES {
        steps.next(about);
        for line in measure(bench, args.only.as_deref())? {
            say(shown(&line));
            lines.push(line);
        }
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&lines)?;
        fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    let verdicts: Vec<bool> = lines.iter().filter_map(Line::met).collect();
    let met = verdicts.iter().filter(|met| **met).count();
    println!("{}", terminal::bold(&format!("{met} of {} bars met", verdicts.len())));
    Ok(())
}

/// Runs one benchmark; other output of it passes through.
fn measure(bench: &str, only: Option<&str>) -> Result<Vec<Line>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["bench", "--locked", "--quiet", "--package", "mailflow-system-tests", "--bench", bench]);
    if let Some(only) = only {
        cargo.args(["--", only]);
    }
    let shown = terminal::shown(&cargo);
    let mut child = cargo
        .current_dir(workspace::root())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{shown}`"))?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut lines = Vec::new();
    for text in BufReader::new(output).lines() {
        let text = text?;
        match serde_json::from_str(&text) {
            Ok(line) => lines.push(line),
            Err(_) => println!("{text}"),
        }
    }
    ensure!(child.wait()?.success(), "`{shown}` failed");
    Ok(lines)
}

fn shown(line: &Line) -> String {
    let value = number(line.value);
    let Line { case, unit, .. } = line;
    let bar = match (line.bar, line.floor) {
        (Some(bar), _) => format!("<= {}", number(bar)),
        (None, Some(floor)) => format!(">= {}", number(floor)),
        (None, None) => String::new(),
    };
    let verdict = match line.met() {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "",
    };
    format!("{case:<48} {value:>10} {unit:<9} {bar:>12}  {verdict}").trim_end().to_owned()
}

/// Formats a number with its significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        small if small < 1.0 => format!("{value:.3}"),
        _ => format!("{value:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn limit_is_met_at_or_below_it() {
        let at = |value: f64| line(&format!(r#"{{"case":"a","unit":"ns","value":{value},"bar":8.0}}"#));
        assert_eq!([8.0, 8.1].map(|value| at(value).met()), [Some(true), Some(false)]);
        let floor = line(r#"{"case":"a","unit":"times","value":9.9,"floor":10}"#);
        assert_eq!(floor.met(), Some(false));
        assert!(shown(&floor).ends_with(">= 10.0  MISSED"), "{}", shown(&floor));
        assert_eq!(line(r#"{"case":"a","unit":"ns","value":1}"#).met(), None);
    }

    #[test]
    fn numbers_have_significant_digits() {
        let shown = [0.2345, 5.66, 123_456.7].map(number);
        assert_eq!(shown, ["0.234", "5.7", "123457"]);
    }
}
