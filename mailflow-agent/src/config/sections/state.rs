//! `control` and `state`: the control socket, and the state that is kept between two processes.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use crate::{
    config::{
        amounts::{bytes, parse_bytes},
        diagnostics::DiagnosticSink,
        scalar::{duration_within, path},
        yaml::{
            get::{Cursor, MappingReader},
            values::{choice, or_off, parsed},
        },
    },
    util::disk::{FileLimits, Reserve},
};
use mailflow_kernel::options::AtStop;

/// Range of size limits. The state of few flows takes some kilobytes.
const FILE_SIZE_RANGE: RangeInclusive<u64> = 64_000..=1_000_000_000_000_000;
/// Maximum of `durability_timeout`: the flow table of a busy gateway is full after some minutes without a
/// poll.
const MAX_DURABILITY_TIMEOUT: Duration = Duration::from_secs(300);

/// Reads `control`.
pub(crate) fn control(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<ControlConfig> {
    MappingReader::read(cursor, diagnostics, |mapping| {
        let socket = mapping.required("socket", path_or_off);
        Some(ControlConfig { socket: socket? })
    })
}

/// Reads `state`.
pub(crate) fn state(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<StateConfig> {
    MappingReader::read(cursor, diagnostics, |mapping| {
        let directory = mapping.required("directory", path_or_off);
        let pins = mapping.required("pins", path_or_off);
        let choices = AtStop::ALL.map(|at_stop| (at_stop.name(), at_stop));
        let at_stop =
            mapping.required("at_stop", |cursor, diagnostics| choice(cursor, diagnostics, &choices));
        let limits = limits(mapping);
        let durability_timeout = mapping.required("durability_timeout", |cursor, diagnostics| {
            parsed(cursor, diagnostics, "a duration", |text| {
                duration_within(text, [Duration::ZERO, MAX_DURABILITY_TIMEOUT])
            })
        });
        Some(StateConfig {
            directory: directory?,
            pins: pins?,
            at_stop: at_stop?,
            limits: limits?,
            durability_timeout: durability_timeout?,
        })
    })
}

/// Reads the limits of files: `max_size` and `min_free`.
pub(crate) fn limits(mapping: &mut MappingReader<'_, '_>) -> Option<FileLimits> {
    let max_size =
        mapping.required("max_size", |cursor, diagnostics| bytes(cursor, diagnostics, FILE_SIZE_RANGE));
    let min_free = mapping.required("min_free", |cursor, diagnostics| {
        parsed(cursor, diagnostics, "bytes such as 20MB, or percent such as 1%", |text| {
            let Some(percent) = text.strip_suffix('%') else { return parse_bytes(text).map(Reserve::Bytes) };
            match percent.parse() {
                Ok(percent @ 0..=99) => Ok(Reserve::Percent(percent)),
                _ => Err("expected a whole number of percent from 0% to 99%".to_owned()),
            }
        })
    });
    Some(FileLimits { max_size: max_size?, min_free: min_free? })
}

fn path_or_off(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<Option<PathBuf>> {
    or_off(cursor, diagnostics, "an absolute path", path)
}

/// Settings of the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlConfig {
    /// Path of the Unix socket; `None` for no socket.
    pub socket: Option<PathBuf>,
}

/// Settings of the persistent state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateConfig {
    /// Directory of checkpoints and journal; `None` for no persistent state.
    pub directory: Option<PathBuf>,
    /// Directory of a BPF file system for pinned maps and links; `None` if they end with the agent.
    pub pins: Option<PathBuf>,
    /// Handling of the attached programs when the agent stops.
    pub at_stop: AtStop,
    /// Limits of all files in `directory` together.
    pub limits: FileLimits,
    /// Maximum time that flows stay in the kernel's table while `directory` is not writable.
    pub durability_timeout: Duration,
}
