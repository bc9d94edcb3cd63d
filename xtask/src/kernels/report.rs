//! Report of a guest.

use anyhow::{Result, ensure};
use mailflow_test_support::guest::Line;

use crate::terminal::say;

/// Console lines that are printed if a guest did not finish.
const TAIL: usize = 25;

/// Report of a guest.
#[derive(Debug)]
pub(super) struct Report {
    lines: Vec<Line>,
    /// Last lines of the console.
    tail: String,
}

impl Report {
    /// Reads the report's lines from a console.
    pub(super) fn read(console: &str) -> Self {
        let all: Vec<&str> = console.lines().collect();
        let tail = all[all.len().saturating_sub(TAIL)..].join("\n");
        Self { lines: all.into_iter().filter_map(Line::read).collect(), tail }
    }

    /// Returns the kernel that ran.
    pub(super) fn release(&self) -> &str {
        let release = self.lines.iter().find_map(|line| match line {
            Line::Kernel(release) => Some(release.as_str()),
            _ => None,
        });
        release.unwrap_or("did not come up")
    }

    /// Returns the rows of the table with this kernel's cells.
    pub(super) fn facts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.iter().filter_map(|line| match line {
            Line::Fact { row, cell } => Some((row.as_str(), cell.as_str())),
            _ => None,
        })
    }

    /// Prints a summary: the number of checks, the skipped and the failed ones.
    pub(super) fn show(&self) {
        let held = self.lines.iter().filter(|line| matches!(line, Line::Held(_))).count();
        let mut loaded = Vec::new();
        let mut counts = Vec::new();
        for line in &self.lines {
            match line {
                Line::Loaded { program, instructions } => {
                    loaded.push(program);
                    counts.extend(instructions.map(|count| (count, program)));
                }
                Line::Absent { what, why } => say(format!("          not run: {what}: {why}")),
                Line::Failed { check, why } => say(format!("          FAILED: {check}: {why}")),
                _ => {}
            }
        }
        let most = match counts.iter().max() {
            Some((count, program)) => {
                format!("; the verifier needs at most {count} instructions ({program})")
            }
            None => String::new(),
        };
        say(format!("          {held} checks hold, {} programs loaded{most}", loaded.len()));
    }

    /// Returns an error unless every check ran and passed.
    pub(super) fn verdict(&self) -> Result<()> {
        let failed = self.lines.iter().filter(|line| matches!(line, Line::Failed { .. })).count();
        let held = self.lines.iter().filter(|line| matches!(line, Line::Held(_))).count();
        ensure!(self.lines.last() == Some(&Line::End), "the guest did not come to its end:\n{}", self.tail);
        ensure!(failed == 0, "{failed} of {} checks failed", failed + held);
        ensure!(held > 0, "the guest has checked nothing");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[Line]) -> Report {
        let console: Vec<String> = lines.iter().map(|line| format!("{line}\r")).collect();
        Report::read(&format!("[    0.1] booting\n{}\n[    9.9] reboot: Power down\n", console.join("\n")))
    }

    #[test]
    fn only_complete_report_without_failure_passes() {
        let held = Line::Held("a".to_owned());
        let failed = Line::Failed { check: "b".to_owned(), why: "c".to_owned() };
        assert!(report(&[held.clone(), Line::End]).verdict().is_ok());
        assert!(report(&[held.clone(), failed, Line::End]).verdict().is_err());
        assert!(report(&[held]).verdict().is_err());
        assert!(report(&[Line::End]).verdict().is_err());
        assert!(report(&[]).verdict().is_err());
    }
}
