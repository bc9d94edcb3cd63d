//! What is wrong with a configuration, and where.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use crate::util::terminal::escape;

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Position {
    /// The beginning of a file.
    pub const START: Position = Position { line: 1, column: 1 };

    /// The place right after `text`. As in YAML, a lone carriage return ends a line too.
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

/// A place in one of the files a configuration is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceLocation {
    /// The file as it was named.
    pub file: Arc<str>,
    /// Where in it; `None` for the file as a whole (it cannot be read).
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

/// One thing that is wrong; its `Display` is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where.
    pub location: SourceLocation,
    /// The setting, such as `rules[0].window`; empty for the file as a whole.
    pub path: String,
    /// What stands there, as typed; `None` where nothing does.
    pub value: Option<String>,
    /// What is wrong with it and what was expected.
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

/// Everything that is wrong with a configuration (something is), in the order of its lines; one line each.
/// Of each file the first [`MAX_OF_A_FILE`], and how many more there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    diagnostics: Vec<Diagnostic>,
    count: usize,
}

impl Diagnostics {
    /// The faults; behind those of a file that has more, how many.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.diagnostics.iter()
    }

    /// Number of faults, those included that are only counted.
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

/// Most faults that are kept of one file, and most warnings: a list may have a fault on each of a million lines.
const MAX_DIAGNOSTICS_PER_FILE: usize = 100;

/// Faults or warnings, at most [`MAX_OF_A_FILE`] of each file; the others are counted.
#[derive(Debug, Default)]
struct DiagnosticList {
    /// Those that are kept. What stands in one place and is used in several (an alias, a shipped value) is
    /// one.
    kept: Vec<Diagnostic>,
    /// Kept, by place, value and expectation.
    known: HashSet<(SourceLocation, Option<String>, String)>,
    /// Of each file, those that are kept and those that are only counted.
    files: HashMap<Arc<str>, [usize; 2]>,
}

impl DiagnosticList {
    fn add(&mut self, diagnostic: Diagnostic) {
        let [kept, more] = match self.files.get_mut(&diagnostic.location.file) {
            Some(counts) => counts,
            None => self.files.entry(Arc::clone(&diagnostic.location.file)).or_default(),
        };
        if *kept >= MAX_DIAGNOSTICS_PER_FILE {
            let same = |known: &Diagnostic| {
                known.location == diagnostic.location && known.expected == diagnostic.expected
            };
            // Faults of a list are never reported twice, and looking through those kept is not free.
            let repeated = *more < MAX_DIAGNOSTICS_PER_FILE && self.kept.iter().any(same);
            *more += usize::from(!repeated);
        } else if self.known.insert((
            diagnostic.location.clone(),
            diagnostic.value.clone(),
            diagnostic.expected.clone(),
        )) {
            *kept += 1;
            self.kept.push(diagnostic);
        }
    }

    fn count(&self) -> usize {
        self.files.values().map(|[kept, more]| kept + more).sum()
    }

    /// Those of the file `main` first, then those of the files it names, each by line; of a file that has more,
    /// how many.
    fn sorted(self, main: &Arc<str>, what: &str) -> Vec<Diagnostic> {
        let Self { mut kept, files: counts, .. } = self;
        let mut files = HashMap::from([(Arc::clone(main), 0)]);
        for diagnostic in &kept {
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
        kept.sort_by_key(|diagnostic| (of(&diagnostic.location.file), diagnostic.location.position));
        // Each behind the last one of its file.
        for (file, more) in more.into_iter().rev() {
            kept.insert(kept.partition_point(|diagnostic| of(&diagnostic.location.file) <= file), more);
        }
        kept
    }
}

/// "and 99,900 more faults" of a file.
fn more_diagnostics(file: &Arc<str>, more: usize, what: &str) -> Diagnostic {
    let location = SourceLocation { file: Arc::clone(file), position: None };
    let s = if more == 1 { "" } else { "s" };
    let expected = format!("and {} more {what}{s}", thousands(more));
    Diagnostic { location, path: String::new(), value: None, expected }
}

/// `1234567` as `1,234,567`.
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

/// Collects faults and warnings while a configuration is read.
///
/// A reader that returns `None` has reported why; so one mistake is one fault, however many settings
/// depend on it.
#[derive(Debug)]
pub(crate) struct DiagnosticSink {
    file: Arc<str>,
    diagnostics: DiagnosticList,
    warnings: DiagnosticList,
    count: usize,
}

impl DiagnosticSink {
    /// A collector for the configuration named `file`.
    pub(crate) fn new(file: &str) -> Self {
        Self {
            file: file.into(),
            diagnostics: DiagnosticList::default(),
            warnings: DiagnosticList::default(),
            count: 0,
        }
    }

    /// A place in the configuration file itself.
    pub(crate) fn location(&self, position: Position) -> SourceLocation {
        SourceLocation { file: self.file.clone(), position: Some(position) }
    }

    /// Returns the number of faults, kept or not.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Returns true if further faults of `file` are only counted.
    pub(crate) fn is_file_full(&self, file: &Arc<str>) -> bool {
        self.diagnostics.files.get(file).is_some_and(|[kept, _]| *kept >= MAX_DIAGNOSTICS_PER_FILE)
    }

    /// Counts a fault of a `file` that is full.
    pub(crate) fn count_unlisted(&mut self, file: &Arc<str>) {
        self.count += 1;
        if let Some([_, more]) = self.diagnostics.files.get_mut(file) {
            *more += 1;
        }
    }

    /// Takes a fault.
    pub(crate) fn report(&mut self, diagnostic: Diagnostic) {
        self.count += 1;
        self.diagnostics.add(diagnostic);
    }

    /// Takes something odd that is not wrong.
    pub(crate) fn warn(&mut self, warning: Diagnostic) {
        self.warnings.add(warning);
    }

    /// `value` with the warnings, or the faults where there are any.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<(T, Vec<Diagnostic>), Diagnostics> {
        let Self { file, diagnostics, warnings, count } = self;
        match value {
            Some(value) if count == 0 => Ok((value, warnings.sorted(&file, "warning"))),
            Some(_) | None => {
                let count = diagnostics.count();
                Err(Diagnostics { diagnostics: diagnostics.sorted(&file, "fault"), count })
            }
        }
    }
}

/// `text` in quotes, on one line and of bearable length.
pub(crate) fn quote(text: &str) -> String {
    format!("\"{}\"", single_line(text))
}

/// `text` on one line and of bearable length, without what a terminal would obey.
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

/// The candidate nearest to `word`, if it is near enough to be a slip.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer words are no slips, and the distance costs the product of the lengths.
    let word: Vec<char> = word.to_lowercase().chars().take(64).collect();
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.chars().collect::<Vec<_>>()), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .map(|(_, candidate)| candidate)
}

/// Edits between two words: letters added, dropped, replaced, or swapped with the next one.
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
    fn slips_are_recognised_and_strangers_are_not() {
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
    fn what_is_not_kept_is_counted_behind_the_last_of_its_file() {
        let mut diagnostics = DiagnosticSink::new("m");
        let diagnostic = |file: &str, line: usize| Diagnostic {
            location: SourceLocation { file: file.into(), position: Some(Position { line, column: 1 }) },
            path: String::new(),
            value: None,
            expected: "x".to_owned(),
        };
        for line in (1..=150).rev() {
            diagnostics.report(diagnostic("a", line));
            // An alias is used many times.
            diagnostics.report(diagnostic("m", 7));
        }
        diagnostics.report(diagnostic("b", 1));
        let diagnostics = diagnostics.finish(Some(())).unwrap_err().to_string();
        let lines: Vec<_> = diagnostics.lines().collect();
        assert_eq!((lines.len(), lines[0], lines[1]), (103, "m:7:1: x", "a:51:1: x"));
        assert_eq!(lines[100..], ["a:150:1: x", "a: and 50 more faults", "b:1:1: x"]);
    }

    #[test]
    fn no_fault_repeats_a_value_as_it_is() {
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
