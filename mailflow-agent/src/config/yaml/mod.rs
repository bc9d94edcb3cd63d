//! YAML text as a tree in which every key and value knows its position.

pub(crate) mod get;
pub(crate) mod parse;
pub(crate) mod tree;
pub(crate) mod values;
