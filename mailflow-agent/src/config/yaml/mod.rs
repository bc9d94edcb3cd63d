//! YAML parser that builds a tree in which every key and value has its position.

pub(crate) mod get;
pub(crate) mod parse;
pub(crate) mod tree;
pub(crate) mod values;
