//! Report of a guest of `cargo xtask test kernels`, on its serial console. The guest writes the lines and
//! xtask reads them.

use std::fmt;

/// Prefix of every line of a report: the kernel writes to the console too.
const MARK: &str = "mailflow-guest";

/// Line of a guest's report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Running kernel, by `uname -r`.
    Kernel(String),
    /// Loaded program.
    Loaded {
        /// Name of the program.
        program: String,
        /// Number of instructions that the verifier processed, if the kernel reports it.
        instructions: Option<u32>,
    },
    /// Successful check.
    Held(String),
    /// Failed check.
    Failed {
        /// Name of the check.
        check: String,
        /// Reason of the failure.
        why: String,
    },
    /// Check that is skipped on this kernel.
    Absent {
        /// Name of the check.
        what: String,
        /// Reason for skipping it.
        why: String,
    },
    /// Property of this kernel: a cell of the table in `docs/understand/kernels.md`.
    Fact {
        /// Row of the table.
        row: String,
        /// Text of the cell.
        cell: String,
    },
    /// End of the report.
    End,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = |words: &[&str]| {
            f.write_str(MARK)?;
            // A field may be an error message of several lines.
            words.iter().try_for_each(|word| write!(f, "\t{}", word.replace(['\n', '\r', '\t'], " ")))
        };
        match self {
            Self::Kernel(release) => words(&["kernel", release]),
            Self::Loaded { program, instructions: Some(count) } => {
                words(&["loaded", program, &count.to_string()])
            }
            Self::Loaded { program, instructions: None } => words(&["loaded", program, "-"]),
            Self::Held(check) => words(&["held", check]),
            Self::Failed { check, why } => words(&["failed", check, why]),
            Self::Absent { what, why } => words(&["absent", what, why]),
            Self::Fact { row, cell } => words(&["fact", row, cell]),
            Self::End => words(&["end"]),
        }
    }
}

impl Line {
    /// Parses a line of a console; `None` if it is no line of a report.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once(MARK)?;
        let words: Vec<&str> = rest.trim_end_matches('\r').split('\t').skip(1).collect();
        let own = |word: &str| word.to_owned();
        Some(match words[..] {
            ["kernel", release] => Self::Kernel(own(release)),
            ["loaded", program, count] => {
                Self::Loaded { program: own(program), instructions: count.parse().ok() }
            }
            ["held", check] => Self::Held(own(check)),
            ["failed", check, why] => Self::Failed { check: own(check), why: own(why) },
            ["absent", what, why] => Self::Absent { what: own(what), why: own(why) },
            ["fact", row, cell] => Self::Fact { row: own(row), cell: own(cell) },
            ["end"] => Self::End,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_line_round_trips() {
        let word = || "a, b: c".to_owned();
        for line in [
            Line::Kernel("5.10.0-46-cloud-amd64".to_owned()),
            Line::Loaded { program: word(), instructions: Some(7) },
            Line::Loaded { program: word(), instructions: None },
            Line::Held(word()),
            Line::Failed { check: word(), why: word() },
            Line::Absent { what: word(), why: word() },
            Line::Fact { row: word(), cell: word() },
            Line::End,
        ] {
            assert_eq!(Line::read(&format!("[    1.0] noise {line}\r")), Some(line));
        }
        let several = Line::Failed { check: word(), why: "one\n\ttwo\r\n".to_owned() };
        assert_eq!(several.to_string().lines().count(), 1);
        assert_eq!(Line::read("mailflow-guest\theld"), None);
        assert_eq!(Line::read("[    1.0] Linux"), None);
    }
}
