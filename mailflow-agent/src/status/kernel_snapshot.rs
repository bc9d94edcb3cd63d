//! What the metrics port is told of the kernel's side.

use std::time::Duration;

use mailflow_common::{DirectionTotals, Totals};
use tracing::{info, warn};

use super::duplicate_detector::Delivery;
use crate::{
    config::FlowTable,
    metrics::{Attached, Fill, Holding, KernelView, WatchedEntry},
};
use mailflow_engine::event::Gain;
use mailflow_kernel::clock;
use mailflow_kernel::{
    AttachState, AttachmentStatus, EntryBinding, HookQueryHelper, Kernel, KernelError, TrafficSum,
};

/// True if every flow finds a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// It does.
    Enough,
    /// The table is full, or a source has its share of it.
    Short,
}

impl Room {
    /// Says when it runs short, and when it is enough again.
    pub(crate) fn note(&mut self, view: &KernelView) {
        let room = if view.overflow.entries == 0 { Self::Enough } else { Self::Short };
        if room != *self {
            *self = room;
            match room {
                Self::Short => warn!(
                    flows = view.flows.entries,
                    capacity = view.flows.capacity,
                    sources = view.overflow.entries,
                    "new flows have no place in the table, or a source has more than its share: they are \
                     counted by source"
                ),
                Self::Enough => info!("every flow has a place in the table again"),
            }
        }
    }
}

/// What the page shows of the kernel. `before` are the totals from before the tables were read.
pub(crate) fn kernel_view(
    kernel: &Kernel,
    before: &Totals,
    tables: &FlowTable,
    delivery: &mut Delivery,
    drain: Duration,
) -> Result<KernelView, KernelError> {
    let totals = kernel.totals()?;
    let held = kernel.packet_audit();
    let missing = held.difference(before, &totals);
    let unattributed = |total: &DirectionTotals| Gain { packets: total.packets, bytes: total.bytes };
    let holding = |name, sum: &TrafficSum| Holding { name, up: sum.up, down: sum.down };
    Ok(KernelView {
        held: vec![
            holding("live", &held.active),
            holding("retired", &held.ended),
            holding("overflow", &held.overflow),
            Holding {
                name: "unattributed",
                up: unattributed(&totals.unattributed_up),
                down: unattributed(&totals.unattributed_down),
            },
        ],
        missing: [missing.packets, missing.bytes],
        twice: delivery.judge(&totals),
        flows: Fill { entries: held.flows, capacity: tables.flows.into() },
        overflow: Fill { entries: held.sources, capacity: tables.overflow.into() },
        attached: kernel.attachments().map(shown).collect(),
        entries: kernel.entry_bindings().into_iter().map(entry).collect(),
        unlisted: Vec::new(),
        unlisted_flows: 0,
        lookout: kernel.hook_query_helper().map(HookQueryHelper::process_id),
        totals,
        drain,
    })
}

/// An entry as the metrics and `status` show it.
pub(crate) fn entry(bound: EntryBinding) -> WatchedEntry {
    WatchedEntry {
        name: bound.entry,
        pattern: bound.pattern,
        hook: bound.hook.name(),
        interfaces: bound.interfaces.into_iter().map(|bound| (bound.name, bound.role.name())).collect(),
        missing: bound.missing_since.map(|missing| clock::now().since(missing)),
    }
}

/// A place as the metrics show it.
pub(crate) fn shown(place: &AttachmentStatus) -> Attached {
    let (attached, position) = match place.state {
        AttachState::Attached { position } => (true, position),
        AttachState::Detached => (false, None),
    };
    Attached {
        interface: place.interface.clone(),
        hook: place.attachment.name(),
        direction: place.direction.name(),
        attached,
        position,
        again: place.reattach_count,
    }
}
