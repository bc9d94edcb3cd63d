//! `limits`: what the rules may hold and tell, however many sources are made up.

use crate::config::{
    amounts::bytes,
    diagnostics::Collector,
    yaml::{
        get::{At, Fields},
        values::number,
    },
};
use mailflow_engine::settings::RuleLimits;

/// Fewest and most subjects of a rule.
const SUBJECTS: [usize; 2] = [1_000, 1 << 24];
/// Least and most memory of a rule.
const MEMORY: [u64; 2] = [1_000_000, 1_000_000_000_000];

/// Reads the limits.
pub(crate) fn read(at: &At<'_>, faults: &mut Collector) -> Option<RuleLimits> {
    Fields::read(at, faults, |fields| {
        let [fewest, most] = SUBJECTS;
        let subjects = fields.needed("subjects", |at, faults| number(at, faults, fewest..=most));
        let [least, largest] = MEMORY;
        let memory = fields.needed("memory", |at, faults| bytes(at, faults, least..=largest));
        let any = 1..=1_000_000_u32;
        let alerts = fields.needed("alerts_per_minute", |at, faults| number(at, faults, any.clone()));
        let flood = fields.needed("flood_sources", |at, faults| number(at, faults, any.clone()));
        Some(RuleLimits {
            groups: subjects?,
            memory: usize::try_from(memory?).unwrap_or(usize::MAX),
            alerts_per_minute: alerts?,
            flood_sources: flood?,
        })
    })
}
