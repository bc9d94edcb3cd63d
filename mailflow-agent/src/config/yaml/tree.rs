//! The tree of a YAML file, in which every key and value knows its place.

use serde_yaml::Value;

use crate::config::diagnostics::{Position, single_line};

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// Where it begins.
    pub(crate) position: Position,
    /// What it is.
    pub(crate) content: Content,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    /// A single value: the text as typed, and what it means.
    Scalar {
        /// As typed, without quotes.
        text: String,
        /// Null, a boolean, a number or a string.
        value: Value,
    },
    /// A list.
    List(Vec<Node>),
    /// A mapping, keys unique, in the order of the file.
    Map(Vec<MappingEntry>),
    /// Something that was reported already.
    Refused,
}

/// A key of a mapping with its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MappingEntry {
    /// The key's text.
    pub(crate) key: String,
    /// Where the key stands.
    pub(crate) position: Position,
    /// Its value.
    pub(crate) value: Node,
}

impl Node {
    /// The value under `key`, where this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&MappingEntry> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|entry| entry.key == key),
            Content::Scalar { .. } | Content::List(_) | Content::Refused => None,
        }
    }

    /// How many nodes it is made of.
    pub(crate) fn size(&self) -> usize {
        1 + match &self.content {
            Content::Scalar { .. } | Content::Refused => 0,
            Content::List(items) => items.iter().map(Node::size).sum(),
            Content::Map(entries) => entries.iter().map(|entry| entry.value.size()).sum(),
        }
    }
}

/// Adds a key to a path; whatever a key holds, the path stays on one line.
pub(crate) fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(&single_line(key));
}
