//! Access to the YAML tree: values with the paths of their settings, and mappings with known keys.

use std::fmt::Display;

use super::tree::{Content, MappingEntry, Node, push_key};
use crate::config::{
    DEFAULT_NAME,
    diagnostics::{Diagnostic, DiagnosticSink, Position, SourceLocation, nearest, quote},
};

/// Value of the tree, with the path of its setting and its position for diagnostics.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    node: &'a Node,
    path: String,
    position: Position,
    origin: ValueOrigin,
    /// Shipped value of the same setting, which provides omitted keys.
    shipped: Option<&'a Node>,
}

/// Origin of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ValueOrigin {
    /// The file sets the value.
    Explicit,
    /// Shipped value, as the file omits the setting. Diagnostics name the position of the mapping that omits
    /// it.
    Shipped,
}

impl<'a> Cursor<'a> {
    /// Returns a cursor at the root of a file. Its mappings take omitted keys from `shipped`.
    pub(crate) fn root(node: &'a Node, shipped: Option<&'a Node>) -> Self {
        Self { node, path: String::new(), position: node.position, origin: ValueOrigin::Explicit, shipped }
    }

    /// Returns the cursor with other defaults for omitted keys.
    pub(crate) fn with_defaults(self, shipped: Option<&'a Node>) -> Self {
        Self { shipped, ..self }
    }

    /// Returns the location for diagnostics.
    pub(crate) fn location(&self, diagnostics: &DiagnosticSink) -> SourceLocation {
        diagnostics.location(self.position)
    }

    /// Returns the location of the value itself: for an omitted value, in the shipped file.
    pub(crate) fn source_location(&self, diagnostics: &DiagnosticSink) -> SourceLocation {
        match self.origin {
            ValueOrigin::Explicit => self.location(diagnostics),
            ValueOrigin::Shipped => {
                SourceLocation { file: DEFAULT_NAME.into(), position: Some(self.node.position) }
            }
        }
    }

    /// Returns the path of the setting.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Returns true if the file sets the value.
    pub(crate) fn is_explicit(&self) -> bool {
        self.origin == ValueOrigin::Explicit
    }

    /// Returns the text as typed, if the value is a scalar and not null.
    pub(crate) fn text(&self) -> Option<&'a str> {
        match &self.node.content {
            Content::Scalar { text, value } if !value.is_null() => Some(text),
            Content::Scalar { .. } | Content::List(_) | Content::Map(_) | Content::Refused => None,
        }
    }

    /// Returns true if the value is a number of any size.
    pub(crate) fn is_number(&self) -> bool {
        matches!(&self.node.content, Content::Scalar { value, .. } if value.is_number())
    }

    /// Returns the content.
    pub(crate) fn content(&self) -> &'a Content {
        &self.node.content
    }

    /// Returns the items of a list; `None` with an error if the value is no list.
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

    /// Returns the keys and values of a mapping; `None` with an error if the value is no mapping.
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

    /// Reports an error of this value, with the value. Returns `None`.
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

    /// Reports an error of the contents of this list or mapping, without the value. Returns `None`.
    pub(crate) fn reject_contents<T>(
        &self,
        diagnostics: &mut DiagnosticSink,
        expected: impl Display,
    ) -> Option<T> {
        self.report_at(diagnostics, None, expected)
    }

    /// Reports a warning about this value.
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
            ValueOrigin::Shipped => format!("{expected} (omitted here, so this is the shipped value)"),
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

    /// Parts of an omitted value have the position of the mapping that omits it.
    fn inner(&self, position: Position) -> Cursor<'a> {
        let position = if self.is_explicit() { position } else { self.position };
        Cursor { position, ..self.clone() }
    }
}

/// Reader of a mapping. The requested keys are the known ones; [`MappingReader::read`] reports others.
pub(crate) struct MappingReader<'a, 'c> {
    cursor: Cursor<'a>,
    known: Vec<&'static str>,
    missing: Vec<&'static str>,
    all_known: bool,
    /// Sink of diagnostics.
    pub(crate) diagnostics: &'c mut DiagnosticSink,
}

impl<'a, 'c> MappingReader<'a, 'c> {
    /// Reads the mapping `cursor` with `read`, then reports unknown keys and missing required keys.
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
            // A misspelled key is one error, not an unknown key and a missing key.
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

    /// Returns the value of `key`: the one of the file, else the shipped one.
    pub(crate) fn get(&mut self, key: &'static str) -> Option<Cursor<'a>> {
        self.explicit(key).or_else(|| {
            let left_out = Cursor { origin: ValueOrigin::Shipped, ..self.cursor.clone() };
            Some(left_out.entry(self.shipped_entry(key)?, None))
        })
    }

    /// Returns the value of `key` if the file sets it. Keys that the value omits may still be the shipped
    /// ones.
    pub(crate) fn explicit(&mut self, key: &'static str) -> Option<Cursor<'a>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let shipped = self.shipped_entry(key).map(|entry| &entry.value);
        Some(self.cursor.entry(self.cursor.node.get(key)?, shipped))
    }

    /// Accepts all keys, as the setting that determines the known keys is invalid.
    pub(crate) fn accept_all_keys(&mut self) {
        self.all_known = true;
    }

    /// Returns the shipped entry of `key`.
    pub(crate) fn shipped_entry(&self, key: &str) -> Option<&'a MappingEntry> {
        self.cursor.shipped?.get(key)
    }

    /// Reads `key`, which is required.
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

    /// Reads `key`, or returns `default` if it is omitted.
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
