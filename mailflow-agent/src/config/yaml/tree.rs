//! YAML tree with the position of every key and value.

use serde_yaml::Value;

use crate::config::diagnostics::{Position, single_line};

/// Value with its position.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// Position of its first character.
    pub(crate) position: Position,
    /// Content.
    pub(crate) content: Content,
}

/// Content of a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    /// Scalar: its text and its value.
    Scalar {
        /// Text as typed, without quotes.
        text: String,
        /// Value: null, boolean, number or string.
        value: Value,
    },
    /// List.
    List(Vec<Node>),
    /// Mapping with unique keys, in the order of the file.
    Map(Vec<MappingEntry>),
    /// Invalid value that was reported already.
    Refused,
}

/// Key of a mapping with its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MappingEntry {
    /// Text of the key.
    pub(crate) key: String,
    /// Position of the key.
    pub(crate) position: Position,
    /// Value.
    pub(crate) value: Node,
}

impl Node {
    /// Returns the entry of `key`, if this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&MappingEntry> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|entry| entry.key == key),
            Content::Scalar { .. } | Content::List(_) | Content::Refused => None,
        }
    }

    /// Returns the number of nodes in this subtree.
    pub(crate) fn size(&self) -> usize {
        1 + match &self.content {
            Content::Scalar { .. } | Content::Refused => 0,
            Content::List(items) => items.iter().map(Node::size).sum(),
            Content::Map(entries) => entries.iter().map(|entry| entry.value.size()).sum(),
        }
    }
}

/// Appends a key to a path. Control characters of the key are escaped.
pub(crate) fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(&single_line(key));
}
