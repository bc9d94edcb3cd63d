//! Tables: the first line names the columns, in any order.

use std::ops::Range;

use csv::{ReaderBuilder, StringRecord, Trim};

use super::{
    entry::{group, role},
    list_file::{ListFile, OtherColumns},
    lists::{Listed, Said},
    positions::Walk,
};
use crate::config::diagnostics::{Collector, Position, nearest};

/// What a column says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Cidr,
    Group,
    Role,
    Comment,
    Exclude,
}

const NAMES: [(&str, Column); 8] = [
    ("cidr", Column::Cidr),
    ("prefix", Column::Cidr),
    ("network", Column::Cidr),
    ("group", Column::Group),
    ("role", Column::Role),
    ("comment", Column::Comment),
    ("description", Column::Comment),
    ("exclude", Column::Exclude),
];

impl Column {
    fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, column)| *column)
    }
}

/// Returns true if a text begins with the names of columns, one of them that of the networks.
pub(crate) fn has_header(text: &str) -> bool {
    let header = first_line(text);
    let cells = header.split(char::from(delimiter(header)));
    cells.into_iter().any(|cell| Column::named(cell.trim().trim_matches('"')) == Some(Column::Cidr))
}

/// The networks of such a file; wrong ones are reported and left out.
pub(crate) fn read(file: &ListFile, text: &str, faults: &mut Collector) -> Vec<Listed> {
    let delimiter = delimiter(first_line(text));
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .comment(Some(b'#'))
        .has_headers(false)
        .flexible(true)
        .trim(Trim::All)
        .from_reader(text.as_bytes());
    let mut rows = Rows { file, text, delimiter, walk: Walk::new(text), faults };
    let mut record = StringRecord::new();
    let mut columns = None;
    let mut listed = Vec::new();
    // The text is UTF-8 and rows may be of any length: no row is refused by the reader.
    while reader.read_record(&mut record).unwrap_or(false) {
        let start = record.position().map_or(0, |position| skip_comments(text, position.byte() as usize));
        if record.iter().all(str::is_empty) {
            continue;
        }
        match &columns {
            None => match rows.columns(&record, start..reader.position().byte() as usize) {
                Some(found) => columns = Some(found),
                None => return Vec::new(),
            },
            Some(columns) => {
                listed.extend(rows.row(&record, start..reader.position().byte() as usize, columns));
            }
        }
    }
    listed
}

struct Rows<'a, 'f> {
    file: &'a ListFile,
    text: &'a str,
    delimiter: u8,
    walk: Walk<'a>,
    faults: &'f mut Collector,
}

impl Rows<'_, '_> {
    /// What each column says; `None` after a fault.
    fn columns(&mut self, names: &StringRecord, at: Range<usize>) -> Option<Vec<Option<Column>>> {
        let mut columns: Vec<Option<Column>> = Vec::new();
        // There may be a million columns, and only so many that are known.
        let mut known: Vec<Column> = Vec::new();
        let before = self.faults.count();
        for (index, name) in names.iter().enumerate() {
            let column = Column::named(name);
            if let Some(why) = ill_quoted(name) {
                self.fault(&at, index, name, why);
                continue;
            }
            match column {
                Some(column) if known.contains(&column) => {
                    self.fault(&at, index, name, "another column says the same");
                }
                Some(column) => known.push(column),
                None => {}
            }
            if column.is_none() && self.file.columns == OtherColumns::Refuse {
                let known = NAMES.map(|(name, _)| name);
                let expected = match nearest(name, known) {
                    Some(name) => format!("unknown column; did you mean {name}?"),
                    None => format!(
                        "unknown column; expected {}, or other_columns: ignore beside the file's path",
                        known.join(", ")
                    ),
                };
                self.fault(&at, index, name, expected);
            }
            columns.push(column);
        }
        if !columns.contains(&Some(Column::Cidr)) && self.faults.count() == before {
            let first = names.get(0).unwrap_or_default();
            let expected = "the first line must name the columns, one of them cidr, prefix or network";
            self.fault(&at, 0, first, expected);
        }
        (self.faults.count() == before).then_some(columns)
    }

    fn row(&mut self, row: &StringRecord, at: Range<usize>, columns: &[Option<Column>]) -> Option<Listed> {
        let before = self.faults.count();
        if let Some(extra) = row.get(columns.len()) {
            let expected = format!(
                "more fields than the {} columns; a field with \"{}\" in it stands in quotes",
                columns.len(),
                char::from(self.delimiter).escape_default()
            );
            self.fault(&at, columns.len(), extra, expected);
            return None;
        }
        let mut said = Said::default();
        let mut cidr_at = 0;
        for (index, (cell, column)) in row.iter().zip(columns).enumerate() {
            if let Some(why) = ill_quoted(cell) {
                self.fault(&at, index, cell, why);
                return None;
            }
            let Some(column) = column else { continue };
            if cell.is_empty() {
                continue;
            }
            match column {
                Column::Cidr => (said.cidr, cidr_at) = (cell, index),
                Column::Comment => said.comment = Some(cell),
                Column::Group => said.group = self.value(&at, index, cell, group),
                Column::Role => said.role = self.value(&at, index, cell, role),
                Column::Exclude => said.exclude = self.value(&at, index, cell, yes).unwrap_or_default(),
            }
        }
        let position = self.position(&at, cidr_at);
        let listed = said.listed(self.file, position, self.faults);
        listed.filter(|_| self.faults.count() == before)
    }

    fn value<'c, T>(
        &mut self,
        at: &Range<usize>,
        index: usize,
        cell: &'c str,
        read: impl FnOnce(&'c str) -> Result<T, String>,
    ) -> Option<T> {
        read(cell).map_err(|expected| self.fault(at, index, cell, expected)).ok()
    }

    fn fault(&mut self, at: &Range<usize>, index: usize, cell: &str, expected: impl Into<String>) {
        // The place of a fault that will not be shown is not looked for: a row may have a million columns.
        if self.faults.is_full(&self.file.name) {
            return self.faults.count_further(&self.file.name);
        }
        let position = self.position(at, index);
        self.file.fault(position, Some(cell), expected, self.faults);
    }

    /// The place at which the field begins, of the row at these bytes.
    fn position(&mut self, at: &Range<usize>, index: usize) -> Position {
        let row = self.text.get(at.clone()).unwrap_or_default().trim_end_matches(['\r', '\n']);
        let field = field_at(row, index, char::from(self.delimiter));
        self.walk.to(at.start + field)
    }
}

/// What a reader of tables takes in silence.
fn ill_quoted(cell: &str) -> Option<&'static str> {
    if cell.contains('\n') {
        return Some("a line break in a field; is a quote missing?");
    }
    cell.starts_with('"')
        .then_some("a quote must be the first character of its field, without a space before it")
}

/// `exclude`: whether the network is taken out.
fn yes(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "x" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err("expected yes or no".to_owned()),
    }
}

/// The first line that is no comment.
fn first_line(text: &str) -> &str {
    let start = skip_comments(text, 0);
    text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default()
}

/// What stands between the names of the columns: spreadsheets of some countries write semicolons.
fn delimiter(header: &str) -> u8 {
    let count = |delimiter: u8| header.bytes().filter(|byte| *byte == delimiter).count();
    // Of equal counts, the last one is taken.
    [b'\t', b';', b','].into_iter().max_by_key(|delimiter| count(*delimiter)).unwrap_or(b',')
}

/// From `at` over blank lines and comments: the reader counts them to the row behind them.
fn skip_comments(text: &str, mut at: usize) -> usize {
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let line = rest.split_inclusive('\n').next().unwrap_or_default();
        if line.is_empty() || !(line.starts_with('#') || line.trim_end_matches(['\r', '\n']).is_empty()) {
            return at;
        }
        at += line.len();
    }
}

/// The byte at which field `index` of a row begins.
fn field_at(row: &str, index: usize, delimiter: char) -> usize {
    let (mut field, mut fresh, mut quoted) = (0, true, false);
    for (at, c) in row.char_indices() {
        if field == index && (c == delimiter || !c.is_whitespace()) {
            return at;
        }
        match c {
            // A quote elsewhere in a field is a character like others.
            '"' if fresh || quoted => quoted = !quoted,
            '"' if row[..at].ends_with('"') => quoted = true,
            c if c == delimiter && !quoted => field += 1,
            _ => {}
        }
        fresh = c == delimiter && !quoted;
    }
    row.len()
}
