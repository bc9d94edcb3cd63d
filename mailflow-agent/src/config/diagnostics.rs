//! Diagnostics: errors and warnings of a configuration, with their locations.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use crate::util::terminal::escape;

/// Position in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Position {
    /// Start of a file.
    pub const START: Position = Position { line: 1, column: 1 };

    /// Returns the position right after `text`. As in YAML, a lone carriage return ends a line too.
    pub(crate) fn after(text: &str) -> Self {
        let text = text.replace("\r\n", "\n");
        let last = text.rsplit(['\n', '\r']).next().unwrap_or_default();
        Position { line: 1 + text.matches(['\n', '\r']).count(), column: 1 + last.chars().count() }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Location in one of the files of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceLocation {
    /// Name of the file, as configured.
    pub file: Arc<str>,
    /// Position in the file; `None` for the whole file, for example if it cannot be read.
    pub position: Option<Position>,
}

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = escape(&self.file);
        match self.position {
            Some(position) => write!(f, "{file}:{position}"),
            None => f.write_str(&file),
        }
    }
}

/// Error or warning about a configuration. Its `Display` is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Location.
    pub location: SourceLocation,
    /// Path of the setting, such as `rules[0].window`; empty for the whole file.
    pub path: String,
    /// Value as typed; `None` if there is none.
    pub value: Option<String>,
    /// Description of the error, and the expected value.
    pub expected: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.location)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        if let Some(value) = &self.value {
            write!(f, "{value}: ")?;
        }
        f.write_str(&self.expected)
    }
}

/// Errors of a configuration, at least one, sorted by line. `Display` prints one line each. For each file
/// there are the first [`MAX_DIAGNOSTICS_PER_FILE`] errors and the number of further ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    diagnostics: Vec<Diagnostic>,
    count: usize,
}

impl Diagnostics {
    /// Iterates over the errors. After the last error of a file with more errors follows an entry with their
    /// number.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.diagnostics.iter()
    }

    /// Returns the number of errors, including those that are only counted.
    pub fn count(&self) -> usize {
        self.count
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self { diagnostics: vec![diagnostic], count: 1 }
    }
}

/// Maximum number of errors, and of warnings, that are stored for one file: a list may have an error on each
/// of a million lines.
const MAX_DIAGNOSTICS_PER_FILE: usize = 100;

/// Errors or warnings: at most [`MAX_DIAGNOSTICS_PER_FILE`] of each file. Further ones are counted.
#[derive(Debug, Default)]
struct DiagnosticList {
    /// Stored entries. A value that is used several times (an alias, a shipped value) has one entry.
    entries: Vec<Diagnostic>,
    /// Location, value and description of each stored entry.
    seen: HashSet<(SourceLocation, Option<String>, String)>,
    /// Number of stored entries and of further entries, by file.
    files: HashMap<Arc<str>, [usize; 2]>,
}

impl DiagnosticList {
    fn add(&mut self, diagnostic: Diagnostic) {
        let [stored, further] = match self.files.get_mut(&diagnostic.location.file) {
            Some(counts) => counts,
            None => self.files.entry(Arc::clone(&diagnostic.location.file)).or_default(),
        };
        if *stored >= MAX_DIAGNOSTICS_PER_FILE {
            let same = |seen: &Diagnostic| {
                seen.location == diagnostic.location && seen.expected == diagnostic.expected
            };
            // Errors of a list are never reported twice, and the search takes time proportional to the stored
            // entries.
            let repeated = *further < MAX_DIAGNOSTICS_PER_FILE && self.entries.iter().any(same);
            *further += usize::from(!repeated);
        } else if self.seen.insert((
            diagnostic.location.clone(),
            diagnostic.value.clone(),
            diagnostic.expected.clone(),
        )) {
            *stored += 1;
            self.entries.push(diagnostic);
        }
    }

    fn count(&self) -> usize {
        self.files.values().map(|[stored, further]| stored + further).sum()
    }

    /// Sorts the entries: the file `main` first, then the files that it names, each by line. Adds an entry
    /// with the number of further entries for each file that has any.
    fn sorted(self, main: &Arc<str>, what: &str) -> Vec<Diagnostic> {
        let Self { mut entries, files: counts, .. } = self;
        let mut files = HashMap::from([(Arc::clone(main), 0)]);
        for diagnostic in &entries {
            let next = files.len();
            files.entry(Arc::clone(&diagnostic.location.file)).or_insert(next);
        }
        let of = |file: &Arc<str>| files.get(file).copied();
        let mut more: Vec<(Option<usize>, Diagnostic)> = counts
            .iter()
            .filter(|(_, [_, more])| *more > 0)
            .map(|(file, [_, more])| (of(file), more_diagnostics(file, *more, what)))
            .collect();
        more.sort_by_key(|(file, _)| *file);
        entries.sort_by_key(|diagnostic| (of(&diagnostic.location.file), diagnostic.location.position));
        // Each entry goes after the last one of its file.
        for (file, more) in more.into_iter().rev() {
            entries.insert(entries.partition_point(|diagnostic| of(&diagnostic.location.file) <= file), more);
        }
        entries
    }
}

/// Returns the entry "and 99,900 more errors" of a file.
fn more_diagnostics(file: &Arc<str>, more: usize, what: &str) -> Diagnostic {
    let location = SourceLocation { file: Arc::clone(file), position: None };
    let s = if more == 1 { "" } else { "s" };
    let expected = format!("and {} more {what}{s}", thousands(more));
    Diagnostic { location, path: String::new(), value: None, expected }
}

/// Formats `1234567` as `1,234,567`.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Collector of errors and warnings while a configuration is read.
///
/// A reader that returns `None` has reported the reason. So each mistake has one error, even if several
/// settings depend on it.
#[derive(Debug)]
pub(crate) struct DiagnosticSink {
    file: Arc<str>,
    diagnostics: DiagnosticList,
    warnings: DiagnosticList,
    count: usize,
}

impl DiagnosticSink {
    /// Returns an empty sink for the configuration `file`.
    pub(crate) fn new(file: &str) -> Self {
        Self {
            file: file.into(),
            diagnostics: DiagnosticList::default(),
            warnings: DiagnosticList::default(),
            count: 0,
        }
    }

    /// Returns a location in the configuration file.
    pub(crate) fn location(&self, position: Position) -> SourceLocation {
        SourceLocation { file: self.file.clone(), position: Some(position) }
    }

    /// Returns the number of errors, stored or not.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Returns true if further errors of `file` are only counted.
    pub(crate) fn is_file_full(&self, file: &Arc<str>) -> bool {
        self.diagnostics.files.get(file).is_some_and(|[stored, _]| *stored >= MAX_DIAGNOSTICS_PER_FILE)
    }

    /// Counts an error of a `file` for which [`is_file_full`](Self::is_file_full) is true.
    pub(crate) fn count_unlisted(&mut self, file: &Arc<str>) {
        self.count += 1;
        if let Some([_, more]) = self.diagnostics.files.get_mut(file) {
            *more += 1;
        }
    }

    /// Reports an error.
    pub(crate) fn report(&mut self, diagnostic: Diagnostic) {
        self.count += 1;
        self.diagnostics.add(diagnostic);
    }

    /// Reports a warning.
    pub(crate) fn warn(&mut self, warning: Diagnostic) {
        self.warnings.add(warning);
    }

    /// Returns `value` with the warnings, or the errors if there are any.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<(T, Vec<Diagnostic>), Diagnostics> {
        let Self { file, diagnostics, warnings, count } = self;
        match value {
            Some(value) if count == 0 => Ok((value, warnings.sorted(&file, "warning"))),
            Some(_) | None => {
                let count = diagnostics.count();
                Err(Diagnostics { diagnostics: diagnostics.sorted(&file, "error"), count })
            }
        }
    }
}

/// Returns `text` in quotes, escaped by [`single_line`].
pub(crate) fn quote(text: &str) -> String {
    format!("\"{}\"", single_line(text))
}

/// Escapes control characters of `text` and cuts it after 100 characters.
pub(crate) fn single_line(text: &str) -> String {
    const SHOWN: usize = 100;
    let escape = |c: char| match c {
        '"' | '\'' => c.to_string(),
        _ => c.escape_debug().to_string(),
    };
    let mut shown: String = text.chars().take(SHOWN).map(escape).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

/// Returns the candidate nearest to `word`, if it is near enough to be a typing error.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer words are no typing errors, and the distance costs the product of the lengths.
    let word: Vec<char> = word.to_lowercase().chars().take(64).collect();
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.chars().collect::<Vec<_>>()), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .map(|(_, candidate)| candidate)
}

/// Returns the number of edits between two words: letters added, dropped, replaced, or swapped with the next
/// one.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(x != y);
            let mut least = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_only_typing_errors() {
        let keys = ["poll_interval", "interfaces", "rules"];
        assert_eq!(nearest("pollinterval", keys), Some("poll_interval"));
        assert_eq!(nearest("Rule", keys), Some("rules"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("", keys), None);
    }

    #[test]
    fn distance_counts_edits() {
        let of = |a: &str, b: &str| distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
        assert_eq!(of("kitten", "sitting"), 3);
        assert_eq!(of("", "abc"), 3);
        assert_eq!(of("abc", ""), 3);
        assert_eq!(of("abc", "abc"), 0);
        assert_eq!(of("tpc", "tcp"), 1);
    }

    #[test]
    fn numbers_have_commas() {
        let shown = [0, 999, 1_000, 99_900, 1_234_567].map(thousands);
        assert_eq!(shown, ["0", "999", "1,000", "99,900", "1,234,567"]);
    }

    #[test]
    fn excess_diagnostics_are_counted_by_file() {
        let mut diagnostics = DiagnosticSink::new("m");
        let diagnostic = |file: &str, line: usize| Diagnostic {
            location: SourceLocation { file: file.into(), position: Some(Position { line, column: 1 }) },
            path: String::new(),
            value: None,
            expected: "x".to_owned(),
        };
        for line in (1..=150).rev() {
            diagnostics.report(diagnostic("a", line));
            diagnostics.report(diagnostic("m", 7));
        }
        diagnostics.report(diagnostic("b", 1));
        let diagnostics = diagnostics.finish(Some(())).unwrap_err().to_string();
        let lines: Vec<_> = diagnostics.lines().collect();
        assert_eq!((lines.len(), lines[0], lines[1]), (103, "m:7:1: x", "a:51:1: x"));
        assert_eq!(lines[100..], ["a:150:1: x", "a: and 50 more errors", "b:1:1: x"]);
    }

    #[test]
    fn diagnostics_escape_and_cut_values() {
        let long = "x".repeat(1_000);
        for text in [
            format!("outputs: {{ flow_log: {{ type: ipfix, to: \"udp:h\\e:{long}\" }} }}"),
            format!("outputs: {{ alerts: {{ type: syslog, to: \"tcp:h\\e{long}\" }} }}"),
            format!("poll_interval: \"5{long}\\e\""),
            format!("state: {{ max_size: \"5{long}\\e\" }}"),
            "internal_networks: { files: [\"/nonexistent/\\e\"] }".to_owned(),
        ] {
            let diagnostics = super::super::parse("f", &text).unwrap_err();
            for diagnostic in diagnostics.iter().map(ToString::to_string) {
                assert!(!diagnostic.contains(char::is_control) && diagnostic.len() < 600, "{diagnostic}");
            }
        }
        let odd = SourceLocation { file: "a\u{1b}[1m".into(), position: None };
        assert_eq!(odd.to_string(), "a\\u001b[1m");
    }

    #[test]
    fn a_quoted_value_stays_on_one_line() {
        assert_eq!(quote("a\nb\u{1b}[1m"), "\"a\\nb\\u{1b}[1m\"");
        assert_eq!(quote(&"x".repeat(101)), format!("\"{}...\"", "x".repeat(100)));
        assert_eq!(single_line("it's \u{85}"), "it's \\u{85}");
    }
}
