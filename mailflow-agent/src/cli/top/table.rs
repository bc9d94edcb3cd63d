//! Rows of the table: filter, order, and formatting in 80 columns.

use std::{cmp::Reverse, collections::HashMap};

use crate::{
    cli::args::TopColumn,
    control::{TopSnapshot, TopSource},
};

/// View settings of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableView {
    /// Sort column.
    pub(crate) sort: TopColumn,
    /// True for the reversed order: lowest numbers first, or highest addresses first.
    pub(crate) reversed: bool,
    /// Text that a source's address must contain.
    pub(crate) filter: String,
    /// Period of the numbers.
    pub(crate) period: CountingPeriod,
}

/// Period of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CountingPeriod {
    /// Total since the agent started.
    SinceStart,
    /// Rate per second between the last two updates.
    PerSecond,
}

/// Row with its numbers, in the order of the columns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TopRow {
    pub(crate) source: String,
    pub(crate) numbers: [f64; 5],
}

impl TableView {
    /// Returns the visible rows of `now`. Rates need the previous table, `before`.
    pub(crate) fn rows(&self, now: &TopSnapshot, before: Option<&TopSnapshot>) -> Vec<TopRow> {
        let filter = self.filter.to_lowercase();
        let past: HashMap<&str, &TopSource> = match (self.period, before) {
            (CountingPeriod::PerSecond, Some(before)) => {
                before.rows.iter().map(|row| (row.source.as_str(), row)).collect()
            }
            _ => HashMap::new(),
        };
        let seconds = match (self.period, before) {
            (CountingPeriod::PerSecond, Some(before)) => (now.at_seconds - before.at_seconds).max(0.001),
            // The first table has no rates.
            (CountingPeriod::PerSecond, None) => f64::INFINITY,
            (CountingPeriod::SinceStart, _) => 1.0,
        };
        let matching = now.rows.iter().filter(|row| row.source.to_lowercase().contains(&filter));
        let mut rows: Vec<TopRow> = matching
            .map(|row| {
                let past = past.get(row.source.as_str()).map_or([0; 5], |past| numbers(past));
                let now = numbers(row);
                // A source that was removed and returned starts at zero.
                let gain = |n: usize| now[n].saturating_sub(past[n]) as f64 / seconds;
                TopRow { source: row.source.clone(), numbers: std::array::from_fn(gain) }
            })
            .filter(|row| {
                row.numbers.iter().any(|number| *number > 0.0) || self.period == CountingPeriod::PerSecond
            })
            .collect();
        rows.sort_by(|one, other| one.source.cmp(&other.source));
        if let Some(column) =
            TopColumn::ALL.iter().position(|column| *column == self.sort).and_then(|n| n.checked_sub(1))
        {
            // Stable sort: equal numbers stay in the order of addresses.
            rows.sort_by_key(|row| Reverse(row.numbers[column].to_bits()));
        }
        if self.reversed {
            rows.reverse();
        }
        rows
    }

    /// Returns the header line.
    pub(crate) fn header(&self) -> String {
        let name = |column: TopColumn| {
            let mark = if column != self.sort {
                ""
            } else if self.reversed {
                "^"
            } else {
                "v"
            };
            format!("{}{mark}", column.name().to_uppercase())
        };
        let [source, rest @ ..] = TopColumn::ALL.map(name);
        let rest: String =
            rest.iter().zip(COLUMN_WIDTHS).map(|(name, width)| format!("{name:>width$}")).collect();
        format!("{source:<SOURCE_WIDTH$}{rest}")
    }

    /// Formats a row as a line of at most 79 columns.
    pub(crate) fn line(&self, row: &TopRow) -> String {
        let rest: String = row
            .numbers
            .iter()
            .zip(COLUMN_WIDTHS)
            .enumerate()
            .map(|(column, (number, width))| {
                let text = if column == BYTES_COLUMN { bytes(*number) } else { count(*number, self.period) };
                format!("{text:>width$}")
            })
            .collect();
        format!("{:<SOURCE_WIDTH$}{rest}", row.source)
    }
}

/// Width of the source column: the longest text of an IPv6 /64 prefix.
const SOURCE_WIDTH: usize = 24;
/// Widths of the other columns.
const COLUMN_WIDTHS: [usize; 5] = [12, 11, 10, 11, 11];
/// Index of the column of bytes.
const BYTES_COLUMN: usize = 1;

fn numbers(row: &TopSource) -> [u64; 5] {
    [row.packets_up, row.bytes_up, row.flows, row.messages, row.matched_flows]
}

/// Formats bytes in a unit in which they have at most four digits.
fn bytes(number: f64) -> String {
    scaled(number, &["B", "kB", "MB", "GB", "TB", "PB"])
}

fn count(number: f64, period: CountingPeriod) -> String {
    match period {
        CountingPeriod::SinceStart if number < 1e9 => format!("{number:.0}"),
        CountingPeriod::PerSecond if number > 0.0 && number < 100.0 => format!("{number:.1}"),
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

    fn top(at_seconds: f64, rows: &[(&str, [u64; 5])]) -> TopSnapshot {
        let row =
            |(source, [packets_up, bytes_up, flows, messages, matched_flows]): &(&str, [u64; 5])| TopSource {
                source: (*source).to_owned(),
                packets_up: *packets_up,
                bytes_up: *bytes_up,
                flows: *flows,
                messages: *messages,
                matched_flows: *matched_flows,
                ..TopSource::default()
            };
        TopSnapshot { at_seconds, rows: rows.iter().map(row).collect() }
    }

    fn view(sort: TopColumn) -> TableView {
        TableView { sort, reversed: false, filter: String::new(), period: CountingPeriod::SinceStart }
    }

    fn sources(rows: &[TopRow]) -> Vec<&str> {
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
        let sorted = |view: &TableView| sources(&view.rows(&now, None)).join(" ");
        assert_eq!(sorted(&view(TopColumn::Packets)), "10.0.0.1 10.0.0.2 2001:DB8::/64");
        assert_eq!(sorted(&view(TopColumn::Bytes)), "2001:DB8::/64 10.0.0.1 10.0.0.2");
        assert_eq!(sorted(&view(TopColumn::Flows)), "10.0.0.2 10.0.0.1 2001:DB8::/64");
        assert_eq!(
            sorted(&TableView { reversed: true, ..view(TopColumn::Source) }),
            "2001:DB8::/64 10.0.0.2 10.0.0.1"
        );
        assert_eq!(
            sorted(&TableView { filter: "db8".to_owned(), ..view(TopColumn::Bytes) }),
            "2001:DB8::/64"
        );
    }

    #[test]
    fn gains_are_by_second() {
        let (before, now) = (
            top(10.0, &[("a", [100, 0, 0, 0, 0])]),
            top(12.0, &[("a", [150, 0, 0, 0, 0]), ("b", [8, 0, 0, 0, 0])]),
        );
        let view = TableView { period: CountingPeriod::PerSecond, ..view(TopColumn::Packets) };
        let rows = view.rows(&now, Some(&before));
        assert_eq!((sources(&rows), rows[0].numbers[0], rows[1].numbers[0]), (vec!["a", "b"], 25.0, 4.0));
        assert!(
            view.rows(&now, None).iter().all(|row| row.numbers == [0.0; 5]),
            "nothing to compare with yet"
        );
    }

    #[test]
    fn lines_fit_80_columns_whatever_the_numbers() {
        let view = view(TopColumn::Bytes);
        let most = TopRow {
            source: "2001:db8:ffff:ffff::/64".to_owned(),
            numbers: [9.9e18, 9.9e18, 9.9e11, 9.9e11, 9.9e11],
        };
        for line in [view.header(), view.line(&most)] {
            assert!(line.chars().count() < 80, "{}: {line}", line.len());
        }
        let shown = TopRow { source: "10.0.0.1".to_owned(), numbers: [12.0, 12_345.0, 3.0, 0.0, 1.0] };
        let words: Vec<String> = view.line(&shown).split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["10.0.0.1", "12", "12.3", "kB", "3", "0", "1"]);
    }
}
