//! `rules test`.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use super::command::Exit;
use crate::offline::ruletest::{
    self, TestOutcome,
    file::{RuleTest, format_alert, read},
};

/// Runs the tests of `files`: each test is named on `out` with what was found, faults of files go to `err`.
pub fn test(files: &[PathBuf], out: &mut impl Write, err: &mut impl Write) -> io::Result<Exit> {
    let (mut tests, mut failed, mut faulty) = (0, 0, 0);
    for file in files {
        let read = match read(file) {
            Ok(read) => read,
            Err(faults) => {
                for fault in faults.iter() {
                    writeln!(err, "{fault}")?;
                }
                faulty += 1;
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
    write!(out, "{}, {failed} failed", counted(tests, "test"))?;
    if faulty > 0 {
        write!(out, ", {} could not be read", counted(faulty, "file"))?;
    }
    writeln!(out)?;
    Ok(match (faulty, failed) {
        (0, 0) => Exit::Good,
        (0, _) => Exit::Failure,
        _ => Exit::Usage,
    })
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn report(test: &RuleTest, tested: &TestOutcome<'_>, out: &mut impl Write) -> io::Result<()> {
    if tested.is_success() {
        return writeln!(out, "  ok      {} ({})", test.name, counted(tested.matched, "alert"));
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
