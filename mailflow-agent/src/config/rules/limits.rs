//! `limits`: limits of memory and alerts of the rules, also under spoofed sources.

use crate::config::{
    amounts::bytes,
    diagnostics::DiagnosticSink,
    yaml::{
        get::{Cursor, MappingReader},
        values::number,
    },
};
use mailflow_engine::settings::RuleLimits;

/// Range of the number of group keys of a rule.
const SUBJECTS_RANGE: [usize; 2] = [1_000, 1 << 24];
/// Range of the memory of a rule, in bytes.
const MEMORY_BYTES_RANGE: [u64; 2] = [1_000_000, 1_000_000_000_000];

/// Reads the limits.
pub(crate) fn read(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<RuleLimits> {
    MappingReader::read(cursor, diagnostics, |mapping| {
        let [min_subjects, max_subjects] = SUBJECTS_RANGE;
        let subjects = mapping.required("subjects", |cursor, diagnostics| {
            number(cursor, diagnostics, min_subjects..=max_subjects)
        });
        let [min_memory, max_memory] = MEMORY_BYTES_RANGE;
        let memory = mapping
            .required("memory", |cursor, diagnostics| bytes(cursor, diagnostics, min_memory..=max_memory));
        let any = 1..=1_000_000_u32;
        let alerts = mapping
            .required("alerts_per_minute", |cursor, diagnostics| number(cursor, diagnostics, any.clone()));
        let flood =
            mapping.required("flood_sources", |cursor, diagnostics| number(cursor, diagnostics, any.clone()));
        Some(RuleLimits {
            groups: subjects?,
            memory: usize::try_from(memory?).unwrap_or(usize::MAX),
            alerts_per_minute: alerts?,
            flood_sources: flood?,
        })
    })
}
