//! `rules test`.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use super::command::ExitStatus;
use crate::offline::ruletest::{
    self, TestOutcome,
    file::{RuleTest, format_alert, read},
};

/// Runs the tests of `files`. Prints each test with its result to `out`, and errors of files to `err`.
pub fn test(files: &[PathBuf], out: &mut impl Write, err: &mut impl Write) -> io::Result<ExitStatus> {
    let (mut tests, mut failed, mut invalid) = (0, 0, 0);
    for file in files {
        let read = match read(file) {
            Ok(read) => read,
            Err(faults) => {
                for fault in faults.iter() {
                    writeln!(err, "{fault}")?;
                }
                invalid += 1;
                continue;
            }
        };
        for warning in &read.warnings {
            writeln!(err, "warning: {warning}")?;
        }
        writeln!(out, "{}", file.display())?;
        for test in &read.tests {
            let tested = ruletest::run(test);
            tests += 1;
            failed += usize::from(!tested.is_success());
            report(test, &tested, out)?;
        }
    }
    write!(out, "{}, {failed} failed", pluralize(tests, "test"))?;
    if invalid > 0 {
        write!(out, ", {} not run", pluralize(invalid, "file"))?;
    }
    writeln!(out)?;
    Ok(match (invalid, failed) {
        (0, 0) => ExitStatus::Good,
        (0, _) => ExitStatus::Failure,
        _ => ExitStatus::Usage,
    })
}

fn pluralize(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn report(test: &RuleTest, tested: &TestOutcome<'_>, out: &mut impl Write) -> io::Result<()> {
    if tested.is_success() {
        return writeln!(out, "  ok      {} ({})", test.name, pluralize(tested.matched, "alert"));
    }
    writeln!(out, "  FAILED  {} ({})", test.name, test.place)?;
    for expected in &tested.missing {
        writeln!(out, "          missing     {expected} ({})", expected.place)?;
    }
    for alert in &tested.unexpected {
        writeln!(out, "          unexpected  {}", format_alert(alert, test.start))?;
    }
    Ok(())
}
