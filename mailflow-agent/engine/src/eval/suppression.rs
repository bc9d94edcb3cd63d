//! Allow-list status of flows, and the suppression of alerts about flows on an allow-list.

use std::sync::Arc;

use crate::{
    alert::event::Alert,
    flow::FlowRecord,
    network::{Endpoints, Networks},
    rule::compiled::CompiledRule,
    time::WallClockOffset,
};

/// Allow-list status of a flow. A rule groups flows of each status separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum AllowStatus {
    /// On no allow-list.
    Unlisted,
    /// On an allow-list.
    Listed,
}

/// Sets the reason of the allow-list entry on an alert about allow-listed flows.
pub(crate) fn apply_suppression(
    compiled: &CompiledRule,
    allow_status: AllowStatus,
    alert: &mut Alert,
    internal: &Networks,
    clock_offset: WallClockOffset,
) {
    if allow_status == AllowStatus::Unlisted {
        return;
    }
    let of = |record: &Arc<FlowRecord>| {
        let endpoints = Endpoints::of(&record.flow, internal);
        compiled.allowed(&endpoints, record.time(), clock_offset).map(|allow| Arc::clone(&allow.reason))
    };
    let reason = alert.flows.iter().rev().find_map(of);
    alert.suppressed = Some(reason.unwrap_or_else(|| "on an allow-list".into()));
}
