//! `control` and `state`: how a running agent is asked, and what outlives it.

use std::path::PathBuf;

use super::{
    AtStop, Control, State,
    fault::Collector,
    read::{At, Fields},
    typed::{choice, or_off},
    value::path,
};

/// Reads how the agent is asked.
pub(super) fn control(at: &At<'_>, faults: &mut Collector) -> Option<Control> {
    Fields::read(at, faults, |fields| {
        let socket = fields.needed("socket", place);
        Some(Control { socket: socket? })
    })
}

/// Reads what outlives the agent.
pub(super) fn state(at: &At<'_>, faults: &mut Collector) -> Option<State> {
    Fields::read(at, faults, |fields| {
        let directory = fields.needed("directory", place);
        let pins = fields.needed("pins", place);
        let choices = AtStop::ALL.map(|at_stop| (at_stop.name(), at_stop));
        let at_stop = fields.needed("at_stop", |at, faults| choice(at, faults, &choices));
        Some(State { directory: directory?, pins: pins?, at_stop: at_stop? })
    })
}

fn place(at: &At<'_>, faults: &mut Collector) -> Option<Option<PathBuf>> {
    or_off(at, faults, "an absolute path", path)
}
