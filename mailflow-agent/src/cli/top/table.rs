//! The table: which rows, in which order, in 80 columns.

use std::{cmp::Reverse, collections::HashMap};

use crate::{
    cli::args::Column,
    control::{Row, Top},
};

/// How the table is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// By which column it is sorted.
    pub(crate) sort: Column,
    /// True if the other way round: lowest first, addresses from the end.
    pub(crate) reversed: bool,
    /// What a source's address must contain.
    pub(crate) filter: String,
    /// What its numbers are of.
    pub(crate) span: Span,
}

/// What numbers are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// All since the agent started.
    Start,
    /// A second, between the last two looks.
    Second,
}

/// A row's numbers, in the order of the columns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shown {
    pub(crate) source: String,
    pub(crate) numbers: [f64; 5],
}

impl Look {
    /// The rows to show of what was seen `now`, and `before` if there was a look before.
    pub(crate) fn rows(&self, now: &Top, before: Option<&Top>) -> Vec<Shown> {
        let filter = self.filter.to_lowercase();
        let past: HashMap<&str, &Row> = match (self.span, before) {
            (Span::Second, Some(before)) => {
                before.rows.iter().map(|row| (row.source.as_str(), row)).collect()
            }
            _ => HashMap::new(),
        };
        let seconds = match (self.span, before) {
            (Span::Second, Some(before)) => (now.at_seconds - before.at_seconds).max(0.001),
            // A first look shows no gains yet.
            (Span::Second, None) => f64::INFINITY,
            (Span::Start, _) => 1.0,
        };
        let matching = now.rows.iter().filter(|row| row.source.to_lowercase().contains(&filter));
        let mut rows: Vec<Shown> = matching
            .map(|row| {
                let past = past.get(row.source.as_str()).map_or([0; 5], |past| numbers(past));
                let now = numbers(row);
                // A source that left and came back begins anew.
                let gain = |n: usize| now[n].saturating_sub(past[n]) as f64 / seconds;
                Shown { source: row.source.clone(), numbers: std::array::from_fn(gain) }
            })
            .filter(|row| row.numbers.iter().any(|number| *number > 0.0) || self.span == Span::Second)
            .collect();
        rows.sort_by(|one, other| one.source.cmp(&other.source));
        if let Some(column) =
            Column::ALL.iter().position(|column| *column == self.sort).and_then(|n| n.checked_sub(1))
        {
            // Stable: equal numbers stay in the order of addresses.
            rows.sort_by_key(|row| Reverse(row.numbers[column].to_bits()));
        }
        if self.reversed {
            rows.reverse();
        }
        rows
    }

    /// The line above the rows.
    pub(crate) fn head(&self) -> String {
        let name = |column: Column| {
            let mark = if column != self.sort {
                ""
            } else if self.reversed {
                "^"
            } else {
                "v"
            };
            format!("{}{mark}", column.name().to_uppercase())
        };
        let [source, rest @ ..] = Column::ALL.map(name);
        let rest: String = rest.iter().zip(WIDTHS).map(|(name, width)| format!("{name:>width$}")).collect();
        format!("{source:<SOURCE$}{rest}")
    }

    /// A row as a line of at most 79 columns.
    pub(crate) fn line(&self, row: &Shown) -> String {
        let rest: String = row
            .numbers
            .iter()
            .zip(WIDTHS)
            .enumerate()
            .map(|(column, (number, width))| {
                let text = if column == BYTES { bytes(*number) } else { count(*number, self.span) };
                format!("{text:>width$}")
            })
            .collect();
        format!("{:<SOURCE$}{rest}", row.source)
    }
}

/// Room for an IPv6 prefix of 64 bits as it is written at its longest.
const SOURCE: usize = 24;
/// Room for the other columns.
const WIDTHS: [usize; 5] = [12, 11, 10, 11, 11];
/// The column whose numbers are bytes.
const BYTES: usize = 1;

fn numbers(row: &Row) -> [u64; 5] {
    [row.packets_up, row.bytes_up, row.flows, row.messages, row.qualifying]
}

/// Bytes in a unit in which they have at most four digits.
fn bytes(number: f64) -> String {
    scaled(number, &["B", "kB", "MB", "GB", "TB", "PB"])
}

fn count(number: f64, span: Span) -> String {
    match span {
        Span::Start if number < 1e9 => format!("{number:.0}"),
        Span::Second if number > 0.0 && number < 100.0 => format!("{number:.1}"),
        _ if number < 1e6 => format!("{number:.0}"),
        _ => scaled(number, &["", "k", "M", "G", "T", "P"]),
    }
}

fn scaled(mut number: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while number >= 9_999.5 && unit + 1 < units.len() {
        number /= 1_000.0;
        unit += 1;
    }
    let text = if unit == 0 || number >= 100.0 { format!("{number:.0}") } else { format!("{number:.1}") };
    format!("{text} {}", units[unit]).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(at_seconds: f64, rows: &[(&str, [u64; 5])]) -> Top {
        let row = |(source, [packets_up, bytes_up, flows, messages, qualifying]): &(&str, [u64; 5])| Row {
            source: (*source).to_owned(),
            packets_up: *packets_up,
            bytes_up: *bytes_up,
            flows: *flows,
            messages: *messages,
            qualifying: *qualifying,
            ..Row::default()
        };
        Top { at_seconds, rows: rows.iter().map(row).collect() }
    }

    fn look(sort: Column) -> Look {
        Look { sort, reversed: false, filter: String::new(), span: Span::Start }
    }

    fn sources(rows: &[Shown]) -> Vec<&str> {
        rows.iter().map(|row| row.source.as_str()).collect()
    }

    #[test]
    fn every_column_sorts_and_a_filter_chooses() {
        let now = top(
            1.0,
            &[
                ("10.0.0.2", [5, 1, 9, 0, 0]),
                ("10.0.0.1", [5, 2, 8, 1, 0]),
                ("2001:DB8::/64", [1, 3, 1, 9, 2]),
            ],
        );
        let sorted = |look: &Look| sources(&look.rows(&now, None)).join(" ");
        assert_eq!(sorted(&look(Column::Packets)), "10.0.0.1 10.0.0.2 2001:DB8::/64");
        assert_eq!(sorted(&look(Column::Bytes)), "2001:DB8::/64 10.0.0.1 10.0.0.2");
        assert_eq!(sorted(&look(Column::Flows)), "10.0.0.2 10.0.0.1 2001:DB8::/64");
        assert_eq!(
            sorted(&Look { reversed: true, ..look(Column::Source) }),
            "2001:DB8::/64 10.0.0.2 10.0.0.1"
        );
        assert_eq!(sorted(&Look { filter: "db8".to_owned(), ..look(Column::Bytes) }), "2001:DB8::/64");
    }

    #[test]
    fn gains_are_by_second() {
        let (before, now) = (
            top(10.0, &[("a", [100, 0, 0, 0, 0])]),
            top(12.0, &[("a", [150, 0, 0, 0, 0]), ("b", [8, 0, 0, 0, 0])]),
        );
        let look = Look { span: Span::Second, ..look(Column::Packets) };
        let rows = look.rows(&now, Some(&before));
        assert_eq!((sources(&rows), rows[0].numbers[0], rows[1].numbers[0]), (vec!["a", "b"], 25.0, 4.0));
        assert!(
            look.rows(&now, None).iter().all(|row| row.numbers == [0.0; 5]),
            "nothing to compare with yet"
        );
    }

    #[test]
    fn lines_fit_80_columns_whatever_the_numbers() {
        let look = look(Column::Bytes);
        let most = Shown {
            source: "2001:db8:ffff:ffff::/64".to_owned(),
            numbers: [9.9e18, 9.9e18, 9.9e11, 9.9e11, 9.9e11],
        };
        for line in [look.head(), look.line(&most)] {
            assert!(line.chars().count() < 80, "{}: {line}", line.len());
        }
        let shown = Shown { source: "10.0.0.1".to_owned(), numbers: [12.0, 12_345.0, 3.0, 0.0, 1.0] };
        let words: Vec<String> = look.line(&shown).split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["10.0.0.1", "12", "12.3", "kB", "3", "0", "1"]);
    }
}
