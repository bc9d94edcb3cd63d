//! What the kernel counted, and how full its table is.

use std::time::Duration;

use mailflow_common::{Reason, Totals};

use super::text::Family;
use crate::engine::event::Gain;

const PACKETS: Family =
    Family::counter("mailflow_kernel_packets_total", "Packets the program counted, by direction.");
const BYTES: Family =
    Family::counter("mailflow_kernel_bytes_total", "IP bytes the program counted, by direction.");
const BUFFERS: Family = Family::counter(
    "mailflow_kernel_buffers_total",
    "Buffers the program counted, by direction; a merged one is one.",
);
const UNCOUNTED: Family = Family::counter(
    "mailflow_uncounted_buffers_total",
    "Buffers the program was shown and did not count to a flow, by reason.",
);
const ENTRIES: Family = Family::gauge("mailflow_flow_table_entries", "Flows in the kernel's table.");
const CAPACITY: Family =
    Family::gauge("mailflow_flow_table_capacity", "Most flows the kernel's table can hold.");
const DRAIN: Family =
    Family::gauge("mailflow_drain_duration_seconds", "Time the last reading of the kernel's table took.");
const ATTACHED: Family = Family::gauge(
    "mailflow_attached",
    "Whether the program is attached, by interface, hook and direction; 0 while the interface is gone.",
);
const POSITION: Family = Family::gauge(
    "mailflow_attached_position",
    "Place of the program among those of its hook; 1 is the first, and what those before it accept is not seen.",
);
const REATTACHED: Family = Family::counter(
    "mailflow_reattached_total",
    "Times the program was attached again: the interface came back, or the program was taken away or overtaken.",
);
const PACKET_DIFFERENCE: Family = Family::gauge(
    "mailflow_conservation_difference_packets",
    "Packets the program counted minus packets booked to flows, by direction.",
);
const BYTE_DIFFERENCE: Family = Family::gauge(
    "mailflow_conservation_difference_bytes",
    "IP bytes the program counted minus IP bytes booked to flows, by direction.",
);

/// A program that belongs at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The interface's name.
    pub interface: String,
    /// `xdp`, `tcx`, `clsact`.
    pub hook: &'static str,
    /// `ingress`, `egress`.
    pub direction: &'static str,
    /// Whether it is there.
    pub attached: bool,
    /// Its place among the hook's programs, where that is known.
    pub position: Option<u32>,
    /// Times it was attached again.
    pub again: u64,
}

impl Attached {
    fn labels(&self) -> [(&'static str, &str); 3] {
        [("interface", &self.interface), ("hook", self.hook), ("direction", self.direction)]
    }
}

/// What the kernel's side looked like at the last poll.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelView {
    /// Sums over all CPUs since the process started.
    pub totals: Totals,
    /// Entries of the flow table.
    pub flows: u64,
    /// Most entries it can hold.
    pub capacity: u64,
    /// What is attached where.
    pub attached: Vec<Attached>,
    /// How long reading the table took.
    pub drain: Duration,
}

impl KernelView {
    /// Writes the families. `booked` is what reached the ledger, client to server and back.
    pub(super) fn render(&self, booked: (Gain, Gain), out: &mut String) {
        let directions = [("up", &self.totals.up, booked.0), ("down", &self.totals.down, booked.1)];
        PACKETS.head(out);
        for (direction, totals, _) in directions {
            PACKETS.sample(out, &[("direction", direction)], totals.packets);
        }
        BYTES.head(out);
        for (direction, totals, _) in directions {
            BYTES.sample(out, &[("direction", direction)], totals.bytes);
        }
        BUFFERS.head(out);
        for (direction, totals, _) in directions {
            BUFFERS.sample(out, &[("direction", direction)], totals.buffers);
        }
        UNCOUNTED.head(out);
        for reason in Reason::ALL {
            UNCOUNTED.sample(out, &[("reason", reason.name())], self.totals.reason(reason));
        }
        PACKET_DIFFERENCE.head(out);
        for (direction, totals, booked) in directions {
            PACKET_DIFFERENCE.sample(
                out,
                &[("direction", direction)],
                difference(totals.packets, booked.packets),
            );
        }
        BYTE_DIFFERENCE.head(out);
        for (direction, totals, booked) in directions {
            BYTE_DIFFERENCE.sample(out, &[("direction", direction)], difference(totals.bytes, booked.bytes));
        }
        ENTRIES.single(out, self.flows);
        CAPACITY.single(out, self.capacity);
        DRAIN.single(out, self.drain.as_secs_f64());
        ATTACHED.head(out);
        for place in &self.attached {
            ATTACHED.sample(out, &place.labels(), u8::from(place.attached));
        }
        POSITION.head(out);
        for place in &self.attached {
            if let Some(position) = place.position {
                POSITION.sample(out, &place.labels(), position);
            }
        }
        REATTACHED.head(out);
        for place in &self.attached {
            // The hook may have become another one: the count is the place's.
            let [interface, _, direction] = place.labels();
            REATTACHED.sample(out, &[interface, direction], place.again);
        }
    }
}

fn difference(counted: u64, booked: u64) -> i128 {
    i128::from(counted) - i128::from(booked)
}
