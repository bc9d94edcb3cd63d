//! What the kernel counted, and how full its table is.

use std::time::Duration;

use mailflow_common::{Reason, Totals};

use super::text::Family;
use mailflow_engine::event::CounterDelta;

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
const SPILLED: Family = Family::gauge(
    "mailflow_overflow_entries",
    "Sources, by service, some of whose flows have no place in the flow table.",
);
const SPILLED_CAPACITY: Family =
    Family::gauge("mailflow_overflow_capacity", "Most of them that can be counted.");
const HELD_PACKETS: Family = Family::gauge(
    "mailflow_held_packets",
    "Where the packets are that the program counted, by place and direction.",
);
const HELD_BYTES: Family = Family::gauge(
    "mailflow_held_bytes",
    "Where the IP bytes are that the program counted, by place and direction.",
);
const MERGED: Family = Family::counter(
    "mailflow_merged_flows_total",
    "Flows that stayed one with the next one on their tuple, for want of room to put them aside.",
);
const HANDSHAKES: Family = Family::counter(
    "mailflow_handshake_packets_total",
    "SYNs and SYN-ACKs of flows in the table, copies included.",
);
const COPIES: Family = Family::counter(
    "mailflow_handshake_copies_total",
    "SYNs and SYN-ACKs that repeat the one just before: copies, not retransmissions.",
);
const TWICE: Family = Family::gauge(
    "mailflow_delivered_twice",
    "Whether packets come twice, judged by the last handshakes: then everything is counted twice.",
);
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
const ENTRIES_BOUND: Family = Family::gauge(
    "mailflow_watched_interfaces",
    "Interfaces that an entry of `interfaces` is bound to, by the entry; 0 while there is none.",
);
const UNLISTED: Family = Family::gauge(
    "mailflow_unlisted_prefix",
    "Networks behind inside interfaces that are in no internal network, 1 each.",
);
const UNLISTED_FLOWS: Family = Family::counter(
    "mailflow_unlisted_client_flows_total",
    "Flows to the Internet, seen at inside interfaces, whose client is in no internal network.",
);
const LOOKOUT: Family = Family::gauge(
    "mailflow_lookout_up",
    "Whether the process lives that looks at the hooks; without it the program's place at TCX is not known.",
);
const PACKET_DIFFERENCE: Family = Family::gauge(
    "mailflow_conservation_difference_packets",
    "Packets the program counted minus packets held, by direction; not zero is a loss.",
);
const BYTE_DIFFERENCE: Family = Family::gauge(
    "mailflow_conservation_difference_bytes",
    "IP bytes the program counted minus IP bytes held, by direction; not zero is a loss.",
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
    /// True if the program is attached.
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

/// An entry of the configuration that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedEntry {
    /// The name or the pattern, as configured.
    pub name: String,
    /// The entry is a pattern.
    pub pattern: bool,
    /// Hook, as configured.
    pub hook: &'static str,
    /// The interfaces that it is bound to, with the role of each.
    pub interfaces: Vec<(String, &'static str)>,
    /// For how long there is none.
    pub missing: Option<Duration>,
}

/// How full a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Its entries.
    pub entries: u64,
    /// Most it can hold.
    pub capacity: u64,
}

/// A place where counted packets are, and how many of them are there: client to server, and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// `live`, `retired`, `overflow` or `unattributed`.
    pub name: &'static str,
    /// Client to server.
    pub up: CounterDelta,
    /// Server to client.
    pub down: CounterDelta,
}

/// What the kernel's side looked like at the last poll.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelView {
    /// Sums over all CPUs since the process started.
    pub totals: Totals,
    /// Where what they counted is.
    pub held: Vec<Holding>,
    /// What is held nowhere, by direction: packets, then IP bytes.
    pub missing: [[i64; 2]; 2],
    /// True if packets come twice.
    pub twice: bool,
    /// The flow table.
    pub flows: Fill,
    /// The table of sources beyond it.
    pub overflow: Fill,
    /// What is attached where.
    pub attached: Vec<Attached>,
    /// Entries of the configuration that are watched.
    pub entries: Vec<WatchedEntry>,
    /// Networks behind inside interfaces that are in no internal network, with the interface of each.
    pub unlisted: Vec<(String, String)>,
    /// Flows of such clients.
    pub unlisted_flows: u64,
    /// The process that looks at the hooks, while it does.
    pub lookout: Option<u32>,
    /// How long reading the table took.
    pub drain: Duration,
}

impl KernelView {
    /// Writes the families.
    pub(crate) fn render(&self, out: &mut String) {
        let directions = [("up", &self.totals.up), ("down", &self.totals.down)];
        PACKETS.head(out);
        for (direction, totals) in directions {
            PACKETS.sample(out, &[("direction", direction)], totals.packets);
        }
        BYTES.head(out);
        for (direction, totals) in directions {
            BYTES.sample(out, &[("direction", direction)], totals.bytes);
        }
        BUFFERS.head(out);
        for (direction, totals) in directions {
            BUFFERS.sample(out, &[("direction", direction)], totals.buffers);
        }
        UNCOUNTED.head(out);
        for reason in Reason::ALL {
            UNCOUNTED.sample(out, &[("reason", reason.name())], self.totals.reason(reason));
        }
        self.render_held(out);
        ENTRIES.single(out, self.flows.entries);
        CAPACITY.single(out, self.flows.capacity);
        SPILLED.single(out, self.overflow.entries);
        SPILLED_CAPACITY.single(out, self.overflow.capacity);
        MERGED.single(out, self.totals.merged);
        let openings = [("syn", self.totals.syns), ("syn_ack", self.totals.syn_acks)];
        HANDSHAKES.head(out);
        for (packet, openings) in openings {
            HANDSHAKES.sample(out, &[("packet", packet)], openings.all);
        }
        COPIES.head(out);
        for (packet, openings) in openings {
            COPIES.sample(out, &[("packet", packet)], openings.copies);
        }
        TWICE.single(out, u8::from(self.twice));
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
        ENTRIES_BOUND.head(out);
        for entry in &self.entries {
            ENTRIES_BOUND.sample(out, &[("entry", &entry.name)], entry.interfaces.len());
        }
        UNLISTED.head(out);
        for (interface, prefix) in &self.unlisted {
            UNLISTED.sample(out, &[("interface", interface), ("prefix", prefix)], 1);
        }
        UNLISTED_FLOWS.single(out, self.unlisted_flows);
        LOOKOUT.single(out, u8::from(self.lookout.is_some()));
    }

    fn render_held(&self, out: &mut String) {
        for (family, value) in [
            (HELD_PACKETS, (|gain| gain.packets) as fn(CounterDelta) -> u64),
            (HELD_BYTES, |gain| gain.bytes),
        ] {
            family.head(out);
            for place in &self.held {
                for (direction, gain) in [("up", place.up), ("down", place.down)] {
                    family.sample(out, &[("place", place.name), ("direction", direction)], value(gain));
                }
            }
        }
        for (family, missing) in [PACKET_DIFFERENCE, BYTE_DIFFERENCE].iter().zip(self.missing) {
            family.head(out);
            for (direction, missing) in ["up", "down"].iter().zip(missing) {
                family.sample(out, &[("direction", direction)], missing);
            }
        }
    }
}
