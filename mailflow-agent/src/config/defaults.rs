//! Defaults: the shipped configuration.

use super::{
    diagnostics::DiagnosticSink,
    yaml::{parse, tree::Node},
};
use std::sync::LazyLock;

/// The tree of [`DEFAULT`].
pub(crate) fn shipped() -> Option<&'static Node> {
    static SHIPPED: LazyLock<Option<Node>> =
        LazyLock::new(|| parse::read(DEFAULT, &mut DiagnosticSink::new(DEFAULT_NAME)));
    SHIPPED.as_ref()
}

/// The shipped configuration: what is used without a file, and whatever a file leaves out.
pub const DEFAULT: &str = include_str!("../../../config/mailflow.yaml");

/// The name of [`DEFAULT`] in faults.
pub const DEFAULT_NAME: &str = "<default>";
