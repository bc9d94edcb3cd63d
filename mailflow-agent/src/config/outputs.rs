//! `outputs`: where metrics, alerts and flow records go.

use super::{
    Outputs, Target,
    fault::Collector,
    read::{At, Fields},
    typed::{number, or_off},
    value::{listen, target},
};

/// Most per-source series that may be asked for.
const MAX_SOURCES: usize = 1_000_000;

/// Reads the outputs.
pub(super) fn read(at: &At<'_>, faults: &mut Collector) -> Option<Outputs> {
    Fields::read(at, faults, |fields| {
        let metrics = fields.needed("metrics", |at, faults| {
            Fields::read(at, faults, |fields| {
                let address =
                    fields.needed("listen", |at, faults| or_off(at, faults, "ADDRESS:PORT", listen));
                let max_sources =
                    fields.needed("max_sources", |at, faults| number(at, faults, 1..=MAX_SOURCES));
                Some((address?, max_sources?))
            })
        });
        let alerts = fields.needed("alerts", lines);
        let flow_log = fields.needed("flow_log", lines);
        let (metrics, max_sources) = metrics?;
        Some(Outputs { metrics, max_sources, alerts: alerts?, flow_log: flow_log? })
    })
}

fn lines(at: &At<'_>, faults: &mut Collector) -> Option<Option<Target>> {
    or_off(at, faults, "a file, - for standard output", target)
}
