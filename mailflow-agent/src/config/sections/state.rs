//! `control` and `state`: how a running agent is asked, and what outlives it.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use crate::{
    config::{
        amounts::{amount, bytes},
        diagnostics::Collector,
        scalar::{duration_within, path},
        yaml::{
            get::{At, Fields},
            values::{choice, or_off, parsed},
        },
    },
    util::disk::{Limits, Reserve},
};
use mailflow_kernel::options::AtStop;

/// Sizes that files may be limited to: a state of few flows takes some kilobytes.
const SIZES: RangeInclusive<u64> = 64_000..=1_000_000_000_000_000;
/// The flow table of a busy gateway is full after some minutes without a poll.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Reads how the agent is asked.
pub(crate) fn control(at: &At<'_>, faults: &mut Collector) -> Option<Control> {
    Fields::read(at, faults, |fields| {
        let socket = fields.needed("socket", place);
        Some(Control { socket: socket? })
    })
}

/// Reads what outlives the agent.
pub(crate) fn state(at: &At<'_>, faults: &mut Collector) -> Option<State> {
    Fields::read(at, faults, |fields| {
        let directory = fields.needed("directory", place);
        let pins = fields.needed("pins", place);
        let choices = AtStop::ALL.map(|at_stop| (at_stop.name(), at_stop));
        let at_stop = fields.needed("at_stop", |at, faults| choice(at, faults, &choices));
        let limits = limits(fields);
        let durability_timeout = fields.needed("durability_timeout", |at, faults| {
            parsed(at, faults, "a duration", |text| duration_within(text, [Duration::ZERO, LONGEST_WAIT]))
        });
        Some(State {
            directory: directory?,
            pins: pins?,
            at_stop: at_stop?,
            limits: limits?,
            durability_timeout: durability_timeout?,
        })
    })
}

/// Limits of files: `max_size` and `min_free`.
pub(crate) fn limits(fields: &mut Fields<'_, '_>) -> Option<Limits> {
    let max_size = fields.needed("max_size", |at, faults| bytes(at, faults, SIZES));
    let min_free = fields.needed("min_free", |at, faults| {
        parsed(at, faults, "bytes such as 20MB, or percent such as 1%", |text| {
            let Some(percent) = text.strip_suffix('%') else { return amount(text).map(Reserve::Bytes) };
            match percent.parse() {
                Ok(percent @ 0..=99) => Ok(Reserve::Percent(percent)),
                _ => Err("expected a whole number of percent from 0% to 99%".to_owned()),
            }
        })
    });
    Some(Limits { max_size: max_size?, min_free: min_free? })
}

fn place(at: &At<'_>, faults: &mut Collector) -> Option<Option<PathBuf>> {
    or_off(at, faults, "an absolute path", path)
}

/// How the running agent is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The Unix socket; `None` for none.
    pub socket: Option<PathBuf>,
}

/// What outlives the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Where its state and its journal lie; `None`: nothing is remembered.
    pub directory: Option<PathBuf>,
    /// Directory of a BPF file system under which tables and links are pinned; `None`: they end with the agent.
    pub pins: Option<PathBuf>,
    /// What becomes of the attached programs when the agent is stopped.
    pub at_stop: AtStop,
    /// Limits of the files in `directory` together.
    pub limits: Limits,
    /// How long flows wait in the kernel's table for a directory that takes nothing.
    pub durability_timeout: Duration,
}
