//! What is wrong with a configuration, and where.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

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
    pub(super) fn after(text: &str) -> Self {
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
pub struct Place {
    /// The file as it was named.
    pub file: Arc<str>,
    /// Where in it; `None` for the file as a whole (it cannot be read).
    pub position: Option<Position>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(position) => write!(f, "{}:{position}", self.file),
            None => write!(f, "{}", self.file),
        }
    }
}

/// One thing that is wrong; its `Display` is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// The setting, such as `rules[0].window`; empty for the file as a whole.
    pub path: String,
    /// What stands there, as typed; `None` where nothing does.
    pub value: Option<String>,
    /// What is wrong with it and what was expected.
    pub expected: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// The faults.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

/// Collects faults and warnings while a configuration is read.
///
/// A reader that returns `None` has reported why; so one mistake is one fault, however many settings
/// depend on it.
#[derive(Debug)]
pub(super) struct Collector {
    file: Arc<str>,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl Collector {
    /// A collector for the configuration named `file`.
    pub(super) fn new(file: &str) -> Self {
        Self { file: file.into(), faults: Vec::new(), warnings: Vec::new() }
    }

    /// A place in the configuration file itself.
    pub(super) fn place(&self, position: Position) -> Place {
        Place { file: self.file.clone(), position: Some(position) }
    }

    /// How many faults there are.
    pub(super) fn count(&self) -> usize {
        self.faults.len()
    }

    /// Takes a fault.
    pub(super) fn fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Takes something odd that is not wrong.
    pub(super) fn warn(&mut self, warning: Fault) {
        self.warnings.push(warning);
    }

    /// `value` with the warnings, or the faults where there are any.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<(T, Vec<Fault>), Faults> {
        let Self { file, faults, warnings } = self;
        match value {
            Some(value) if faults.is_empty() => Ok((value, in_order(&file, warnings))),
            Some(_) | None => Err(Faults(in_order(&file, faults))),
        }
    }
}

/// The configuration's own faults first, then those of the files it names, each by line. What stands
/// in one place and is used in several (an alias, a shipped value) is one fault.
fn in_order(main: &Arc<str>, mut faults: Vec<Fault>) -> Vec<Fault> {
    let mut told = HashSet::new();
    faults.retain(|Fault { place, value, expected, .. }| {
        told.insert((place.clone(), value.clone(), expected.clone()))
    });
    let mut files = HashMap::from([(main.clone(), 0)]);
    for fault in &faults {
        let next = files.len();
        files.entry(fault.place.file.clone()).or_insert(next);
    }
    faults.sort_by_key(|fault| (files.get(&fault.place.file).copied(), fault.place.position));
    faults
}

/// `text` in quotes, on one line and of bearable length.
pub(super) fn quote(text: &str) -> String {
    format!("\"{}\"", plain(text))
}

/// `text` on one line and of bearable length, without what a terminal would obey.
pub(super) fn plain(text: &str) -> String {
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
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
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
    fn a_quoted_value_stays_on_one_line() {
        assert_eq!(quote("a\nb\u{1b}[1m"), "\"a\\nb\\u{1b}[1m\"");
        assert_eq!(quote(&"x".repeat(101)), format!("\"{}...\"", "x".repeat(100)));
        assert_eq!(plain("it's \u{85}"), "it's \\u{85}");
    }
}
