//! Defaults: the shipped configuration.

use super::{
    diagnostics::DiagnosticSink,
    yaml::{parse, tree::Node},
};
use std::sync::LazyLock;

/// Returns the YAML tree of [`DEFAULT`].
pub(crate) fn shipped() -> Option<&'static Node> {
    static SHIPPED: LazyLock<Option<Node>> =
        LazyLock::new(|| parse::read(DEFAULT, &mut DiagnosticSink::new(DEFAULT_NAME)));
    SHIPPED.as_ref()
}

/// Shipped configuration. It is used without a file, and for every setting that a file omits.
pub const DEFAULT: &str = include_str!("../../../config/mailflow.yaml");

/// Name of [`DEFAULT`] in diagnostics.
pub const DEFAULT_NAME: &str = "<default>";
