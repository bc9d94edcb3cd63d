//! Reads network lists in CSV. The first line names the columns, in any order.

use std::ops::Range;

use csv::{ReaderBuilder, StringRecord, Trim};

use super::{
    entry::{group, role},
    list_file::{ListFile, OtherColumns},
    lists::{NetworkEntry, RawNetwork},
    positions::LineIndex,
};
use crate::config::diagnostics::{DiagnosticSink, Position, nearest};

/// Meaning of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CsvColumn {
    Cidr,
    Group,
    Role,
    Comment,
    Exclude,
}

const COLUMN_NAMES: [(&str, CsvColumn); 8] = [
    ("cidr", CsvColumn::Cidr),
    ("prefix", CsvColumn::Cidr),
    ("network", CsvColumn::Cidr),
    ("group", CsvColumn::Group),
    ("role", CsvColumn::Role),
    ("comment", CsvColumn::Comment),
    ("description", CsvColumn::Comment),
    ("exclude", CsvColumn::Exclude),
];

impl CsvColumn {
    fn named(name: &str) -> Option<Self> {
        COLUMN_NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, column)| *column)
    }
}

/// Returns true if a text begins with a header line that has a column of networks.
pub(crate) fn has_header(text: &str) -> bool {
    let header = first_line(text);
    let cells = header.split(char::from(delimiter(header)));
    cells.into_iter().any(|cell| CsvColumn::named(cell.trim().trim_matches('"')) == Some(CsvColumn::Cidr))
}

/// Returns the networks of a CSV file. Invalid rows are reported and skipped.
pub(crate) fn read(file: &ListFile, text: &str, diagnostics: &mut DiagnosticSink) -> Vec<NetworkEntry> {
    let delimiter = delimiter(first_line(text));
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .comment(Some(b'#'))
        .has_headers(false)
        .flexible(true)
        .trim(Trim::All)
        .from_reader(text.as_bytes());
    let mut rows = RowReader { file, text, delimiter, line_index: LineIndex::new(text), diagnostics };
    let mut record = StringRecord::new();
    let mut columns = None;
    let mut entries = Vec::new();
    // The text is UTF-8 and rows may have any length, so the reader returns no error.
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
                entries.extend(rows.row(&record, start..reader.position().byte() as usize, columns));
            }
        }
    }
    entries
}

struct RowReader<'a, 'f> {
    file: &'a ListFile,
    text: &'a str,
    delimiter: u8,
    line_index: LineIndex<'a>,
    diagnostics: &'f mut DiagnosticSink,
}

impl RowReader<'_, '_> {
    /// Returns the meaning of each column; `None` after an error.
    fn columns(&mut self, names: &StringRecord, at: Range<usize>) -> Option<Vec<Option<CsvColumn>>> {
        let mut columns: Vec<Option<CsvColumn>> = Vec::new();
        // Searching `columns` would be slow with a million columns. At most five meanings exist.
        let mut known: Vec<CsvColumn> = Vec::new();
        let before = self.diagnostics.count();
        for (index, name) in names.iter().enumerate() {
            let column = CsvColumn::named(name);
            if let Some(why) = quoting_error(name) {
                self.report(&at, index, name, why);
                continue;
            }
            match column {
                Some(column) if known.contains(&column) => {
                    self.report(&at, index, name, "another column has the same meaning");
                }
                Some(column) => known.push(column),
                None => {}
            }
            if column.is_none() && self.file.columns == OtherColumns::Refuse {
                let known = COLUMN_NAMES.map(|(name, _)| name);
                let expected = match nearest(name, known) {
                    Some(name) => format!("unknown column; did you mean {name}?"),
                    None => format!(
                        "unknown column; expected {}, or set other_columns: ignore for this file",
                        known.join(", ")
                    ),
                };
                self.report(&at, index, name, expected);
            }
            columns.push(column);
        }
        if !columns.contains(&Some(CsvColumn::Cidr)) && self.diagnostics.count() == before {
            let first = names.get(0).unwrap_or_default();
            let expected = "the first line must name the columns, one of them cidr, prefix or network";
            self.report(&at, 0, first, expected);
        }
        (self.diagnostics.count() == before).then_some(columns)
    }

    fn row(
        &mut self,
        row: &StringRecord,
        at: Range<usize>,
        columns: &[Option<CsvColumn>],
    ) -> Option<NetworkEntry> {
        let before = self.diagnostics.count();
        if let Some(extra) = row.get(columns.len()) {
            let expected = format!(
                "more fields than the {} columns; put a field that contains \"{}\" in quotes",
                columns.len(),
                char::from(self.delimiter).escape_default()
            );
            self.report(&at, columns.len(), extra, expected);
            return None;
        }
        let mut raw = RawNetwork::default();
        let mut cidr_at = 0;
        for (index, (cell, column)) in row.iter().zip(columns).enumerate() {
            if let Some(why) = quoting_error(cell) {
                self.report(&at, index, cell, why);
                return None;
            }
            let Some(column) = column else { continue };
            if cell.is_empty() {
                continue;
            }
            match column {
                CsvColumn::Cidr => (raw.cidr, cidr_at) = (cell, index),
                CsvColumn::Comment => raw.comment = Some(cell),
                CsvColumn::Group => raw.group = self.value(&at, index, cell, group),
                CsvColumn::Role => raw.role = self.value(&at, index, cell, role),
                CsvColumn::Exclude => {
                    raw.exclude = self.value(&at, index, cell, parse_bool).unwrap_or_default()
                }
            }
        }
        let position = self.position(&at, cidr_at);
        let entries = raw.into_entry(self.file, position, self.diagnostics);
        entries.filter(|_| self.diagnostics.count() == before)
    }

    fn value<'c, T>(
        &mut self,
        at: &Range<usize>,
        index: usize,
        cell: &'c str,
        read: impl FnOnce(&'c str) -> Result<T, String>,
    ) -> Option<T> {
        read(cell).map_err(|expected| self.report(at, index, cell, expected)).ok()
    }

    fn report(&mut self, at: &Range<usize>, index: usize, cell: &str, expected: impl Into<String>) {
        // The position of an error that is only counted is not computed: a row may have a million columns.
        if self.diagnostics.is_file_full(&self.file.name) {
            return self.diagnostics.count_unlisted(&self.file.name);
        }
        let position = self.position(at, index);
        self.file.report(position, Some(cell), expected, self.diagnostics);
    }

    /// Returns the position of a field of the row at these bytes.
    fn position(&mut self, at: &Range<usize>, index: usize) -> Position {
        let row = self.text.get(at.clone()).unwrap_or_default().trim_end_matches(['\r', '\n']);
        let field = field_at(row, index, char::from(self.delimiter));
        self.line_index.position_of(at.start + field)
    }
}

/// Returns an error of quoting that the CSV reader accepts silently.
fn quoting_error(cell: &str) -> Option<&'static str> {
    if cell.contains('\n') {
        return Some("a line break in a field; is a quote missing?");
    }
    cell.starts_with('"')
        .then_some("a quote must be the first character of its field, without a space before it")
}

/// Parses a value of `exclude`.
fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "x" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err("expected yes or no".to_owned()),
    }
}

/// Returns the first line that is not a comment.
fn first_line(text: &str) -> &str {
    let start = skip_comments(text, 0);
    text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default()
}

/// Returns the delimiter. Spreadsheets of some locales write semicolons.
fn delimiter(header: &str) -> u8 {
    let count = |delimiter: u8| header.bytes().filter(|byte| *byte == delimiter).count();
    // `max_by_key` takes the last one of equal counts, the comma.
    [b'\t', b';', b','].into_iter().max_by_key(|delimiter| count(*delimiter)).unwrap_or(b',')
}

/// Returns the offset after blank lines and comments from `at`. The CSV reader counts these to the next row.
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

/// Returns the byte offset of field `index` in a row.
fn field_at(row: &str, index: usize, delimiter: char) -> usize {
    let (mut field, mut fresh, mut quoted) = (0, true, false);
    for (at, c) in row.char_indices() {
        if field == index && (c == delimiter || !c.is_whitespace()) {
            return at;
        }
        match c {
            // A quote inside of an unquoted field is an ordinary character.
            '"' if fresh || quoted => quoted = !quoted,
            '"' if row[..at].ends_with('"') => quoted = true,
            c if c == delimiter && !quoted => field += 1,
            _ => {}
        }
        fresh = c == delimiter && !quoted;
    }
    row.len()
}
