//! Access to the tree: values with the names of their settings, and mappings with known keys.

use std::fmt::Display;

use super::tree::{Content, MappingEntry, Node, push_key};
use crate::config::{
    DEFAULT_NAME,
    diagnostics::{Diagnostic, DiagnosticSink, Position, SourceLocation, nearest, quote},
};

/// A value, with the name of its setting and the place to name in faults.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    node: &'a Node,
    path: String,
    position: Position,
    origin: ValueOrigin,
    /// The shipped value: where keys come from that are left out here.
    shipped: Option<&'a Node>,
}

/// Whose value it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ValueOrigin {
    /// The file's.
    Explicit,
    /// Left out, so the shipped one; faults name the place where it was left out.
    Shipped,
}

impl<'a> Cursor<'a> {
    /// The whole of a file; mappings take from `shipped` what they leave out.
    pub(crate) fn root(node: &'a Node, shipped: Option<&'a Node>) -> Self {
        Self { node, path: String::new(), position: node.position, origin: ValueOrigin::Explicit, shipped }
    }

    /// The same, its mappings taking what they leave out from `shipped`.
    pub(crate) fn with_defaults(self, shipped: Option<&'a Node>) -> Self {
        Self { shipped, ..self }
    }

    /// Where it is.
    pub(crate) fn location(&self, diagnostics: &DiagnosticSink) -> SourceLocation {
        diagnostics.location(self.position)
    }

    /// Where it is written: for a value that was left out, in the shipped file.
    pub(crate) fn source_location(&self, diagnostics: &DiagnosticSink) -> SourceLocation {
        match self.origin {
            ValueOrigin::Explicit => self.location(diagnostics),
            ValueOrigin::Shipped => {
                SourceLocation { file: DEFAULT_NAME.into(), position: Some(self.node.position) }
            }
        }
    }

    /// The name of the setting.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Returns true if the file says so itself.
    pub(crate) fn is_explicit(&self) -> bool {
        self.origin == ValueOrigin::Explicit
    }

    /// The text as typed, where it is a single value.
    pub(crate) fn text(&self) -> Option<&'a str> {
        match &self.node.content {
            Content::Scalar { text, value } if !value.is_null() => Some(text),
            Content::Scalar { .. } | Content::List(_) | Content::Map(_) | Content::Refused => None,
        }
    }

    /// Returns true if it is a number, of whatever size.
    pub(crate) fn is_number(&self) -> bool {
        matches!(&self.node.content, Content::Scalar { value, .. } if value.is_number())
    }

    /// What it is.
    pub(crate) fn content(&self) -> &'a Content {
        &self.node.content
    }

    /// The items of a list; `None` with a fault where it is none.
    pub(crate) fn items(
        &self,
        diagnostics: &mut DiagnosticSink,
    ) -> Option<impl Iterator<Item = Cursor<'a>> + use<'a>> {
        let Content::List(nodes) = &self.node.content else {
            return self.reject(diagnostics, "expected a list ([a, b])");
        };
        let list = self.clone();
        Some(nodes.iter().enumerate().map(move |(index, node)| {
            let path = format!("{}[{index}]", list.path);
            Cursor { node, path, shipped: None, ..list.inner(node.position) }
        }))
    }

    /// The keys and values of a mapping; `None` with a fault where it is none.
    pub(crate) fn entries(
        &self,
        diagnostics: &mut DiagnosticSink,
    ) -> Option<impl Iterator<Item = (&'a MappingEntry, Cursor<'a>)> + use<'a>> {
        let Content::Map(entries) = &self.node.content else {
            return self.reject(diagnostics, "expected a mapping (key: value)");
        };
        let map = self.clone();
        Some(entries.iter().map(move |entry| (entry, map.entry(entry, None))))
    }

    /// Reports that this value is wrong; always `None`.
    pub(crate) fn reject<T>(&self, diagnostics: &mut DiagnosticSink, expected: impl Display) -> Option<T> {
        let value = match &self.node.content {
            Content::Scalar { value, .. } if value.is_null() => "nothing".to_owned(),
            Content::Scalar { text, .. } => quote(text),
            Content::List(_) => "a list".to_owned(),
            Content::Map(_) => "a mapping".to_owned(),
            Content::Refused => return None,
        };
        self.report_at(diagnostics, Some(value), expected)
    }

    /// Reports that what is in this list or mapping does not do; always `None`.
    pub(crate) fn reject_contents<T>(
        &self,
        diagnostics: &mut DiagnosticSink,
        expected: impl Display,
    ) -> Option<T> {
        self.report_at(diagnostics, None, expected)
    }

    /// Reports that this is odd but not wrong.
    pub(crate) fn warn(&self, diagnostics: &mut DiagnosticSink, why: impl Display) {
        let location = self.location(diagnostics);
        diagnostics.warn(Diagnostic {
            location,
            path: self.path.clone(),
            value: None,
            expected: why.to_string(),
        });
    }

    fn report_at<T>(
        &self,
        diagnostics: &mut DiagnosticSink,
        value: Option<String>,
        expected: impl Display,
    ) -> Option<T> {
        let expected = match self.origin {
            ValueOrigin::Explicit => expected.to_string(),
            ValueOrigin::Shipped => format!("{expected} (left out here, so this is the shipped value)"),
        };
        diagnostics.report(Diagnostic {
            location: self.location(diagnostics),
            path: self.path.clone(),
            value,
            expected,
        });
        None
    }

    fn entry(&self, entry: &'a MappingEntry, shipped: Option<&'a Node>) -> Cursor<'a> {
        let mut path = self.path.clone();
        push_key(&mut path, &entry.key);
        Cursor { node: &entry.value, path, shipped, ..self.inner(entry.value.position) }
    }

    /// Of a left-out value the parts are left out too: they have no place of their own.
    fn inner(&self, position: Position) -> Cursor<'a> {
        let position = if self.is_explicit() { position } else { self.position };
        Cursor { position, ..self.clone() }
    }
}

/// A mapping being read. The keys asked for are the keys there are; [`Fields::read`] reports others.
pub(crate) struct MappingReader<'a, 'c> {
    cursor: Cursor<'a>,
    known: Vec<&'static str>,
    missing: Vec<&'static str>,
    all_known: bool,
    /// Where faults go.
    pub(crate) diagnostics: &'c mut DiagnosticSink,
}

impl<'a, 'c> MappingReader<'a, 'c> {
    /// Reads the mapping `at` with `read`, then reports the keys that it did not ask for and the needed
    /// ones that are not there.
    pub(crate) fn read<T>(
        cursor: &Cursor<'a>,
        diagnostics: &'c mut DiagnosticSink,
        read: impl FnOnce(&mut MappingReader<'a, 'c>) -> Option<T>,
    ) -> Option<T> {
        let entries = cursor.entries(diagnostics)?;
        let mut mapping = MappingReader {
            cursor: cursor.clone(),
            known: Vec::new(),
            missing: Vec::new(),
            all_known: false,
            diagnostics,
        };
        let value = read(&mut mapping);
        let MappingReader { known, mut missing, all_known, diagnostics, .. } = mapping;
        for (entry, value) in entries.filter(|(entry, _)| !all_known && !known.contains(&entry.key.as_str()))
        {
            // A key written wrongly is one fault, not a strange key and a missing one.
            let meant = nearest(&entry.key, missing.iter().copied());
            missing.retain(|key| Some(*key) != meant && known.len() > 1);
            let expected = match meant.or_else(|| nearest(&entry.key, known.iter().copied())) {
                Some(key) => format!("unknown key; did you mean {key}?"),
                None => format!("unknown key; expected one of {}", known.join(", ")),
            };
            let location = diagnostics.location(entry.position);
            diagnostics.report(Diagnostic { location, path: value.path, value: None, expected });
        }
        for key in missing {
            let mut path = cursor.path.clone();
            push_key(&mut path, key);
            let expected = "is missing".to_owned();
            diagnostics.report(Diagnostic {
                location: cursor.location(diagnostics),
                path,
                value: None,
                expected,
            });
        }
        value
    }

    /// The value under `key`: the file's own, else the shipped one.
    pub(crate) fn get(&mut self, key: &'static str) -> Option<Cursor<'a>> {
        self.explicit(key).or_else(|| {
            let left_out = Cursor { origin: ValueOrigin::Shipped, ..self.cursor.clone() };
            Some(left_out.entry(self.shipped_entry(key)?, None))
        })
    }

    /// The value under `key` where it is given; its own parts may still be the shipped ones.
    pub(crate) fn explicit(&mut self, key: &'static str) -> Option<Cursor<'a>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let shipped = self.shipped_entry(key).map(|entry| &entry.value);
        Some(self.cursor.entry(self.cursor.node.get(key)?, shipped))
    }

    /// Takes every key for known: what would tell which there are is wrong itself.
    pub(crate) fn accept_all_keys(&mut self) {
        self.all_known = true;
    }

    /// The shipped value under `key`.
    pub(crate) fn shipped_entry(&self, key: &str) -> Option<&'a MappingEntry> {
        self.cursor.shipped?.get(key)
    }

    /// Reads `key`, which must be there.
    pub(crate) fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Cursor<'a>, &mut DiagnosticSink) -> Option<T>,
    ) -> Option<T> {
        match self.get(key) {
            Some(cursor) => read(&cursor, self.diagnostics),
            None => {
                self.missing.push(key);
                None
            }
        }
    }

    /// Reads `key`; `default` where it is left out.
    pub(crate) fn optional<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Cursor<'a>, &mut DiagnosticSink) -> Option<T>,
    ) -> Option<T> {
        match self.get(key) {
            Some(cursor) => read(&cursor, self.diagnostics),
            None => Some(default),
        }
    }
}
