//! Table in `docs/understand/kernels.md`: differences between the kernels.

use std::{collections::BTreeMap, fmt, fs};

use anyhow::{Context, Result, ensure};

use super::report::Report;
use crate::workspace;

/// Page with the table.
const PAGE: &str = "docs/understand/kernels.md";

/// Table with rows in the order of the reports and columns in the order of the kernels.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    columns: Vec<String>,
    rows: Vec<String>,
    /// Cells by column and row.
    cells: BTreeMap<(String, String), String>,
}

impl Table {
    /// Creates a table without kernels.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds a kernel's column.
    pub(super) fn add(&mut self, column: &str, report: &Report) {
        for (row, cell) in report.facts() {
            self.insert(column, row, cell);
        }
    }

    fn insert(&mut self, column: &str, row: &str, cell: &str) {
        for (names, name) in [(&mut self.columns, column), (&mut self.rows, row)] {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        self.cells.insert((column.to_owned(), row.to_owned()), cell.to_owned());
    }

    /// Fails if the documentation differs for a kernel that has run.
    pub(super) fn compare_with_documentation(&self) -> Result<()> {
        let page = fs::read_to_string(workspace::root().join(PAGE)).context(PAGE)?;
        let documented = Self::read(&page);
        let differences = self.differences(&documented);
        ensure!(
            differences.is_empty(),
            "{PAGE} says otherwise; the table above is the truth:\n  {}",
            differences.join("\n  ")
        );
        Ok(())
    }

    fn differences(&self, documented: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for column in &self.columns {
            let rows = self.rows.iter().chain(documented.rows.iter().filter(|row| !self.rows.contains(row)));
            for row in rows {
                let place = (column.clone(), row.clone());
                let [seen, said] = [self, documented].map(|table| table.cells.get(&place));
                if seen != said {
                    let word =
                        |cell: Option<&String>| cell.map_or("nothing".to_owned(), |cell| format!("`{cell}`"));
                    differences.push(format!("{row}, {column}: {} here, {} there", word(seen), word(said)));
                }
            }
        }
        differences
    }

    /// Reads the first table of a page.
    fn read(page: &str) -> Self {
        let mut table = Self::new();
        let lines = page.lines().skip_while(|line| !line.starts_with('|'));
        let mut lines = lines.take_while(|line| line.starts_with('|')).map(cells);
        let columns = lines.next().unwrap_or_default();
        // The delimiter row follows the header.
        for line in lines.skip(1) {
            for (column, cell) in columns.iter().zip(&line).skip(1) {
                table.insert(column, line.first().copied().unwrap_or_default(), cell);
            }
        }
        table
    }
}

fn cells(line: &str) -> Vec<&str> {
    line.trim().trim_matches('|').split('|').map(str::trim).collect()
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| kernel | {} |", self.columns.join(" | "))?;
        write!(f, "|---|{}", "---|".repeat(self.columns.len()))?;
        for row in &self.rows {
            write!(f, "\n| {row} |")?;
            for column in &self.columns {
                let cell = self.cells.get(&(column.clone(), row.clone()));
                write!(f, " {} |", cell.map_or("", String::as_str))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(cells: &[(&str, &str, &str)]) -> Table {
        let mut table = Table::new();
        cells.iter().for_each(|(column, row, cell)| table.insert(column, row, cell));
        table
    }

    #[test]
    fn printed_table_round_trips() {
        let table = table(&[
            ("5.10", "TC", "clsact"),
            ("5.10", "XDP", "xdp"),
            ("6.1", "TC", "tcx"),
            ("6.1", "XDP", "frags"),
        ]);
        assert_eq!(Table::read(&format!("# A page\n\n{table}\n\nAnd more.\n| not | this |\n")), table);
    }

    #[test]
    fn only_kernels_that_ran_are_compared() {
        let documented = table(&[("5.10", "TC", "clsact"), ("6.1", "TC", "clsact")]);
        assert_eq!(table(&[("6.1", "TC", "clsact")]).differences(&documented), [""; 0]);
        assert_eq!(table(&[("6.1", "TC", "tcx")]).differences(&documented).len(), 1);
        // A row that only one of them has.
        assert_eq!(table(&[("6.1", "XDP", "xdp")]).differences(&documented).len(), 2);
    }

    #[test]
    fn documentation_has_a_column_for_each_series() {
        let page = fs::read_to_string(workspace::root().join(PAGE)).unwrap();
        let documented = Table::read(&page);
        assert!(documented.columns.iter().eq(super::super::SERIES.iter().map(|series| series.name)));
    }
}
