//! Defaults: the shipped configuration.

use super::{build, fault::Collector, span::Node};
use std::sync::LazyLock;

/// The tree of [`DEFAULT`].
pub(super) fn shipped() -> Option<&'static Node> {
    static SHIPPED: LazyLock<Option<Node>> =
        LazyLock::new(|| build::read(DEFAULT, &mut Collector::new(DEFAULT_NAME)));
    SHIPPED.as_ref()
}

/// The shipped configuration: what is used without a file, and whatever a file leaves out.
pub const DEFAULT: &str = include_str!("../../../config/mailflow.yaml");

/// The name of [`DEFAULT`] in faults.
pub const DEFAULT_NAME: &str = "<default>";
