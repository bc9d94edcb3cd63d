//! `control`: how a running agent is asked.

use std::path::PathBuf;

use super::{
    Control,
    fault::Collector,
    read::{At, Fields},
    typed::or_off,
    value::path,
};

/// Reads how the agent is asked.
pub(super) fn control(at: &At<'_>, faults: &mut Collector) -> Option<Control> {
    Fields::read(at, faults, |fields| {
        let socket = fields.needed("socket", place);
        Some(Control { socket: socket? })
    })
}

fn place(at: &At<'_>, faults: &mut Collector) -> Option<Option<PathBuf>> {
    or_off(at, faults, "an absolute path", path)
}
