//! State of the kernel program for the metrics page.

use std::time::Duration;

use mailflow_common::{DirectionTotals, Totals};
use tracing::{info, warn};

use super::duplicate_detector::DuplicateDetector;
use crate::{
    config::FlowTableConfig,
    metrics::{KernelSnapshot, PacketsAt, ProgramAttachment, Utilisation, WatchedEntry},
};
use mailflow_engine::event::CounterDelta;
use mailflow_kernel::clock;
use mailflow_kernel::{
    AttachState, AttachmentStatus, EntryBinding, HookQueryHelper, Kernel, KernelError, TrafficSum,
};

/// Pressure on the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TablePressure {
    /// An entry for every flow.
    Normal,
    /// Full table, or a source at its limit.
    Exhausted,
}

impl TablePressure {
    /// Logs a change of the pressure.
    pub(crate) fn log_change(&mut self, snapshot: &KernelSnapshot) {
        let pressure = if snapshot.overflow.entries == 0 { Self::Normal } else { Self::Exhausted };
        if pressure != *self {
            *self = pressure;
            match pressure {
                Self::Exhausted => warn!(
                    flows = snapshot.flows.entries,
                    capacity = snapshot.flows.capacity,
                    sources = snapshot.overflow.entries,
                    "the flow table is full or a source has reached its limit; new flows are counted by \
                     source"
                ),
                Self::Normal => info!("every flow has an entry in the flow table again"),
            }
        }
    }
}

/// Returns the state of the kernel program. `before` are the totals from before the scan of the tables.
pub(crate) fn take_snapshot(
    kernel: &Kernel,
    before: &Totals,
    tables: &FlowTableConfig,
    detector: &mut DuplicateDetector,
    scan_duration: Duration,
) -> Result<KernelSnapshot, KernelError> {
    let totals = kernel.totals()?;
    let audit = kernel.packet_audit();
    let difference = audit.difference(before, &totals);
    let unattributed = |total: &DirectionTotals| CounterDelta { packets: total.packets, bytes: total.bytes };
    let packets_at = |name, sum: &TrafficSum| PacketsAt { name, up: sum.up, down: sum.down };
    Ok(KernelSnapshot {
        packet_locations: vec![
            packets_at("active", &audit.active),
            packets_at("ended", &audit.ended),
            packets_at("overflow", &audit.overflow),
            PacketsAt {
                name: "unattributed",
                up: unattributed(&totals.unattributed_up),
                down: unattributed(&totals.unattributed_down),
            },
        ],
        difference: [difference.packets, difference.bytes],
        duplicate_delivery: detector.update(&totals),
        flows: Utilisation { entries: audit.flows, capacity: tables.flows.into() },
        overflow: Utilisation { entries: audit.sources, capacity: tables.overflow.into() },
        attached: kernel.attachments().map(attachment).collect(),
        entries: kernel.entry_bindings().into_iter().map(entry).collect(),
        unlisted: Vec::new(),
        unlisted_flows: 0,
        helper_pid: kernel.hook_query_helper().map(HookQueryHelper::process_id),
        totals,
        scan_duration,
    })
}

/// Converts a configured interface entry for the metrics and `status`.
pub(crate) fn entry(bound: EntryBinding) -> WatchedEntry {
    WatchedEntry {
        name: bound.entry,
        pattern: bound.pattern,
        hook: bound.hook.name(),
        interfaces: bound.interfaces.into_iter().map(|bound| (bound.name, bound.role.name())).collect(),
        missing: bound.missing_since.map(|missing| clock::now().since(missing)),
    }
}

/// Converts an attachment for the metrics.
pub(crate) fn attachment(place: &AttachmentStatus) -> ProgramAttachment {
    let (attached, position) = match place.state {
        AttachState::Attached { position } => (true, position),
        AttachState::Detached => (false, None),
    };
    ProgramAttachment {
        interface: place.interface.clone(),
        hook: place.attachment.name(),
        direction: place.direction.name(),
        attached,
        position,
        reattach_count: place.reattach_count,
    }
}
