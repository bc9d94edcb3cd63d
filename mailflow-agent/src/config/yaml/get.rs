//! Access to the tree: values with the names of their settings, and mappings with known keys.

use std::fmt::Display;

use super::tree::{Content, Entry, Node, push_key};
use crate::config::{
    DEFAULT_NAME,
    diagnostics::{Collector, Fault, Place, Position, nearest, quote},
};

/// A value, with the name of its setting and the place to name in faults.
#[derive(Clone)]
pub(crate) struct At<'a> {
    node: &'a Node,
    path: String,
    position: Position,
    origin: Origin,
    /// The shipped value: where keys come from that are left out here.
    shipped: Option<&'a Node>,
}

/// Whose value it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The file's.
    Own,
    /// Left out, so the shipped one; faults name the place where it was left out.
    Shipped,
}

impl<'a> At<'a> {
    /// The whole of a file; mappings take from `shipped` what they leave out.
    pub(crate) fn root(node: &'a Node, shipped: Option<&'a Node>) -> Self {
        Self { node, path: String::new(), position: node.position, origin: Origin::Own, shipped }
    }

    /// The same, its mappings taking what they leave out from `shipped`.
    pub(crate) fn over(self, shipped: Option<&'a Node>) -> Self {
        Self { shipped, ..self }
    }

    /// Where it is.
    pub(crate) fn place(&self, faults: &Collector) -> Place {
        faults.place(self.position)
    }

    /// Where it is written: for a value that was left out, in the shipped file.
    pub(crate) fn written(&self, faults: &Collector) -> Place {
        match self.origin {
            Origin::Own => self.place(faults),
            Origin::Shipped => Place { file: DEFAULT_NAME.into(), position: Some(self.node.position) },
        }
    }

    /// The name of the setting.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Returns true if the file says so itself.
    pub(crate) fn is_own(&self) -> bool {
        self.origin == Origin::Own
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
    pub(crate) fn items(&self, faults: &mut Collector) -> Option<impl Iterator<Item = At<'a>> + use<'a>> {
        let Content::List(nodes) = &self.node.content else {
            return self.fault(faults, "expected a list ([a, b])");
        };
        let list = self.clone();
        Some(nodes.iter().enumerate().map(move |(index, node)| {
            let path = format!("{}[{index}]", list.path);
            At { node, path, shipped: None, ..list.inner(node.position) }
        }))
    }

    /// The keys and values of a mapping; `None` with a fault where it is none.
    pub(crate) fn entries(
        &self,
        faults: &mut Collector,
    ) -> Option<impl Iterator<Item = (&'a Entry, At<'a>)> + use<'a>> {
        let Content::Map(entries) = &self.node.content else {
            return self.fault(faults, "expected a mapping (key: value)");
        };
        let map = self.clone();
        Some(entries.iter().map(move |entry| (entry, map.entry(entry, None))))
    }

    /// Reports that this value is wrong; always `None`.
    pub(crate) fn fault<T>(&self, faults: &mut Collector, expected: impl Display) -> Option<T> {
        let value = match &self.node.content {
            Content::Scalar { value, .. } if value.is_null() => "nothing".to_owned(),
            Content::Scalar { text, .. } => quote(text),
            Content::List(_) => "a list".to_owned(),
            Content::Map(_) => "a mapping".to_owned(),
            Content::Refused => return None,
        };
        self.report(faults, Some(value), expected)
    }

    /// Reports that what is in this list or mapping does not do; always `None`.
    pub(crate) fn fault_inside<T>(&self, faults: &mut Collector, expected: impl Display) -> Option<T> {
        self.report(faults, None, expected)
    }

    /// Reports that this is odd but not wrong.
    pub(crate) fn warn(&self, faults: &mut Collector, why: impl Display) {
        let place = self.place(faults);
        faults.warn(Fault { place, path: self.path.clone(), value: None, expected: why.to_string() });
    }

    fn report<T>(&self, faults: &mut Collector, value: Option<String>, expected: impl Display) -> Option<T> {
        let expected = match self.origin {
            Origin::Own => expected.to_string(),
            Origin::Shipped => format!("{expected} (left out here, so this is the shipped value)"),
        };
        faults.fault(Fault { place: self.place(faults), path: self.path.clone(), value, expected });
        None
    }

    fn entry(&self, entry: &'a Entry, shipped: Option<&'a Node>) -> At<'a> {
        let mut path = self.path.clone();
        push_key(&mut path, &entry.key);
        At { node: &entry.value, path, shipped, ..self.inner(entry.value.position) }
    }

    /// Of a left-out value the parts are left out too: they have no place of their own.
    fn inner(&self, position: Position) -> At<'a> {
        let position = if self.is_own() { position } else { self.position };
        At { position, ..self.clone() }
    }
}

/// A mapping being read. The keys asked for are the keys there are; [`Fields::read`] reports others.
pub(crate) struct Fields<'a, 'c> {
    at: At<'a>,
    known: Vec<&'static str>,
    missing: Vec<&'static str>,
    all_known: bool,
    /// Where faults go.
    pub(crate) faults: &'c mut Collector,
}

impl<'a, 'c> Fields<'a, 'c> {
    /// Reads the mapping `at` with `read`, then reports the keys that it did not ask for and the needed
    /// ones that are not there.
    pub(crate) fn read<T>(
        at: &At<'a>,
        faults: &'c mut Collector,
        read: impl FnOnce(&mut Fields<'a, 'c>) -> Option<T>,
    ) -> Option<T> {
        let entries = at.entries(faults)?;
        let mut fields =
            Fields { at: at.clone(), known: Vec::new(), missing: Vec::new(), all_known: false, faults };
        let value = read(&mut fields);
        let Fields { known, mut missing, all_known, faults, .. } = fields;
        for (entry, value) in entries.filter(|(entry, _)| !all_known && !known.contains(&entry.key.as_str()))
        {
            // A key written wrongly is one fault, not a strange key and a missing one.
            let meant = nearest(&entry.key, missing.iter().copied());
            missing.retain(|key| Some(*key) != meant && known.len() > 1);
            let expected = match meant.or_else(|| nearest(&entry.key, known.iter().copied())) {
                Some(key) => format!("unknown key; did you mean {key}?"),
                None => format!("unknown key; expected one of {}", known.join(", ")),
            };
            let place = faults.place(entry.position);
            faults.fault(Fault { place, path: value.path, value: None, expected });
        }
        for key in missing {
            let mut path = at.path.clone();
            push_key(&mut path, key);
            let expected = "is missing".to_owned();
            faults.fault(Fault { place: at.place(faults), path, value: None, expected });
        }
        value
    }

    /// The value under `key`: the file's own, else the shipped one.
    pub(crate) fn get(&mut self, key: &'static str) -> Option<At<'a>> {
        self.own(key).or_else(|| {
            let left_out = At { origin: Origin::Shipped, ..self.at.clone() };
            Some(left_out.entry(self.shipped(key)?, None))
        })
    }

    /// The value under `key` where it is given; its own parts may still be the shipped ones.
    pub(crate) fn own(&mut self, key: &'static str) -> Option<At<'a>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let shipped = self.shipped(key).map(|entry| &entry.value);
        Some(self.at.entry(self.at.node.get(key)?, shipped))
    }

    /// Takes every key for known: what would tell which there are is wrong itself.
    pub(crate) fn know_all(&mut self) {
        self.all_known = true;
    }

    /// The shipped value under `key`.
    pub(crate) fn shipped(&self, key: &str) -> Option<&'a Entry> {
        self.at.shipped?.get(key)
    }

    /// Reads `key`, which must be there.
    pub(crate) fn needed<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&At<'a>, &mut Collector) -> Option<T>,
    ) -> Option<T> {
        match self.get(key) {
            Some(at) => read(&at, self.faults),
            None => {
                self.missing.push(key);
                None
            }
        }
    }

    /// Reads `key`; `default` where it is left out.
    pub(crate) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&At<'a>, &mut Collector) -> Option<T>,
    ) -> Option<T> {
        match self.get(key) {
            Some(at) => read(&at, self.faults),
            None => Some(default),
        }
    }
}
