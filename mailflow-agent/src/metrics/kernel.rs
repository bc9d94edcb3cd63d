//! Counters of the kernel program, and utilisation of its tables.

use std::time::Duration;

use mailflow_common::{Reason, Totals};

use super::text::MetricFamily;
use mailflow_engine::event::CounterDelta;

const KERNEL_PACKETS: MetricFamily = MetricFamily::counter(
    "mailflow_kernel_packets_total",
    "Number of packets that the program counted, by direction.",
);
const KERNEL_BYTES: MetricFamily = MetricFamily::counter(
    "mailflow_kernel_bytes_total",
    "Number of IP bytes that the program counted, by direction.",
);
const KERNEL_BUFFERS: MetricFamily = MetricFamily::counter(
    "mailflow_kernel_buffers_total",
    "Number of buffers that the program counted, by direction. A merged (GRO) buffer counts once.",
);
const UNCOUNTED_BUFFERS: MetricFamily = MetricFamily::counter(
    "mailflow_uncounted_buffers_total",
    "Number of buffers that the program received and did not count to a flow, by reason.",
);
const TABLE_ENTRIES: MetricFamily =
    MetricFamily::gauge("mailflow_flow_table_entries", "Number of flows in the flow table.");
const TABLE_CAPACITY: MetricFamily =
    MetricFamily::gauge("mailflow_flow_table_capacity", "Largest number of flows in the flow table.");
const OVERFLOW_ENTRIES: MetricFamily = MetricFamily::gauge(
    "mailflow_overflow_entries",
    "Number of overflow entries: sources, by service, with flows that have no entry in the flow table.",
);
const OVERFLOW_CAPACITY: MetricFamily =
    MetricFamily::gauge("mailflow_overflow_capacity", "Largest number of overflow entries.");
const LOCATED_PACKETS: MetricFamily = MetricFamily::gauge(
    "mailflow_accounted_packets",
    "Number of packets that the program counted, by their location and direction.",
);
const LOCATED_BYTES: MetricFamily = MetricFamily::gauge(
    "mailflow_accounted_bytes",
    "Number of IP bytes that the program counted, by their location and direction.",
);
const MERGED_FLOWS: MetricFamily = MetricFamily::counter(
    "mailflow_merged_flows_total",
    "Number of flows merged with the next flow of their 5-tuple, because the map of superseded flows was \
     full.",
);
const HANDSHAKE_PACKETS: MetricFamily = MetricFamily::counter(
    "mailflow_handshake_packets_total",
    "Number of SYNs and SYN-ACKs of flows in the table, copies included.",
);
const HANDSHAKE_COPIES: MetricFamily = MetricFamily::counter(
    "mailflow_handshake_copies_total",
    "Number of SYNs and SYN-ACKs that repeat the previous one within a tick: copies, not retransmissions.",
);
const DUPLICATE_DELIVERY: MetricFamily = MetricFamily::gauge(
    "mailflow_duplicate_delivery",
    "1 if the last handshakes show that packets are delivered twice, and counted twice, else 0.",
);
const SCAN_DURATION: MetricFamily = MetricFamily::gauge(
    "mailflow_flow_table_scan_duration_seconds",
    "Duration of the last scan of the flow table.",
);
const ATTACHED_PROGRAMS: MetricFamily = MetricFamily::gauge(
    "mailflow_attached",
    "1 while the program is attached, by interface, hook and direction. 0 while the interface does not \
     exist.",
);
const HOOK_POSITION: MetricFamily = MetricFamily::gauge(
    "mailflow_program_position",
    "Position of the program at its hook. 1 is the first. Packets that an earlier program accepts are not \
     seen.",
);
const REATTACHMENTS: MetricFamily = MetricFamily::counter(
    "mailflow_reattachments_total",
    "Number of reattachments: the interface reappeared, or the program was detached or no longer first.",
);
const BOUND_INTERFACES: MetricFamily = MetricFamily::gauge(
    "mailflow_interfaces",
    "Number of interfaces that an entry of `interfaces` is bound to, by entry.",
);
const UNLISTED_PREFIXES: MetricFamily = MetricFamily::gauge(
    "mailflow_unlisted_prefix_info",
    "1 for each network behind an inside interface that is in no internal network.",
);
const UNLISTED_FLOWS: MetricFamily = MetricFamily::counter(
    "mailflow_unlisted_client_flows_total",
    "Number of flows to the Internet at inside interfaces whose client is in no internal network.",
);
const HELPER_UP: MetricFamily = MetricFamily::gauge(
    "mailflow_hook_monitor_up",
    "1 while the helper process runs. Without it the position of the program at TCX is unknown.",
);
const PACKET_DIFFERENCE: MetricFamily = MetricFamily::gauge(
    "mailflow_conservation_difference_packets",
    "Packets that the program counted minus located packets, by direction. Not zero is a loss.",
);
const BYTE_DIFFERENCE: MetricFamily = MetricFamily::gauge(
    "mailflow_conservation_difference_bytes",
    "IP bytes that the program counted minus located IP bytes, by direction. Not zero is a loss.",
);

/// Attachment of the program at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramAttachment {
    /// Name of the interface.
    pub interface: String,
    /// `xdp`, `tcx` or `clsact`.
    pub hook: &'static str,
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// True if the program is attached.
    pub attached: bool,
    /// Position among the programs of the hook, if known.
    pub position: Option<u32>,
    /// Number of reattachments.
    pub reattach_count: u64,
}

impl ProgramAttachment {
    /// Returns the labels of the attachment.
    fn labels(&self) -> [(&'static str, &str); 3] {
        [("interface", &self.interface), ("hook", self.hook), ("direction", self.direction)]
    }
}

/// Entry of the configured interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedEntry {
    /// Name or pattern as configured.
    pub name: String,
    /// True if the entry is a pattern.
    pub pattern: bool,
    /// Hook as configured.
    pub hook: &'static str,
    /// Interfaces that the entry is bound to, with their roles.
    pub interfaces: Vec<(String, &'static str)>,
    /// Time for which the entry has had no interface, if it has none.
    pub missing: Option<Duration>,
}

/// Utilisation of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Utilisation {
    /// Number of entries.
    pub entries: u64,
    /// Largest number of entries.
    pub capacity: u64,
}

/// Number of counted packets at a location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketsAt {
    /// `live`, `retired`, `overflow` or `unattributed`.
    pub name: &'static str,
    /// Client to server.
    pub up: CounterDelta,
    /// Server to client.
    pub down: CounterDelta,
}

/// State of the kernel program at the last poll.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelSnapshot {
    /// Totals of all CPUs since the process started.
    pub totals: Totals,
    /// Locations of the counted packets.
    pub packet_locations: Vec<PacketsAt>,
    /// Counted minus located, by direction: packets, then IP bytes.
    pub difference: [[i64; 2]; 2],
    /// True if each packet is delivered twice.
    pub duplicate_delivery: bool,
    /// Utilisation of the flow table.
    pub flows: Utilisation,
    /// Utilisation of the overflow table.
    pub overflow: Utilisation,
    /// Attachments of the program.
    pub attached: Vec<ProgramAttachment>,
    /// Entries of the configured interfaces.
    pub entries: Vec<WatchedEntry>,
    /// Networks behind inside interfaces that are in no internal network, with the interface of each.
    pub unlisted: Vec<(String, String)>,
    /// Flows of clients in no internal network.
    pub unlisted_flows: u64,
    /// Process ID of the helper process, if it is running.
    pub helper_pid: Option<u32>,
    /// Duration of the scan of the flow table.
    pub scan_duration: Duration,
}

impl KernelSnapshot {
    /// Writes the families.
    pub(crate) fn render(&self, out: &mut String) {
        let directions = [("up", &self.totals.up), ("down", &self.totals.down)];
        KERNEL_PACKETS.head(out);
        for (direction, totals) in directions {
            KERNEL_PACKETS.sample(out, &[("direction", direction)], totals.packets);
        }
        KERNEL_BYTES.head(out);
        for (direction, totals) in directions {
            KERNEL_BYTES.sample(out, &[("direction", direction)], totals.bytes);
        }
        KERNEL_BUFFERS.head(out);
        for (direction, totals) in directions {
            KERNEL_BUFFERS.sample(out, &[("direction", direction)], totals.buffers);
        }
        UNCOUNTED_BUFFERS.head(out);
        for reason in Reason::ALL {
            UNCOUNTED_BUFFERS.sample(out, &[("reason", reason.name())], self.totals.reason(reason));
        }
        self.render_locations(out);
        TABLE_ENTRIES.single(out, self.flows.entries);
        TABLE_CAPACITY.single(out, self.flows.capacity);
        OVERFLOW_ENTRIES.single(out, self.overflow.entries);
        OVERFLOW_CAPACITY.single(out, self.overflow.capacity);
        MERGED_FLOWS.single(out, self.totals.merged);
        let handshakes = [("syn", self.totals.syns), ("syn_ack", self.totals.syn_acks)];
        HANDSHAKE_PACKETS.head(out);
        for (packet, handshakes) in handshakes {
            HANDSHAKE_PACKETS.sample(out, &[("packet", packet)], handshakes.all);
        }
        HANDSHAKE_COPIES.head(out);
        for (packet, handshakes) in handshakes {
            HANDSHAKE_COPIES.sample(out, &[("packet", packet)], handshakes.copies);
        }
        DUPLICATE_DELIVERY.single(out, u8::from(self.duplicate_delivery));
        SCAN_DURATION.single(out, self.scan_duration.as_secs_f64());
        ATTACHED_PROGRAMS.head(out);
        for attachment in &self.attached {
            ATTACHED_PROGRAMS.sample(out, &attachment.labels(), u8::from(attachment.attached));
        }
        HOOK_POSITION.head(out);
        for attachment in &self.attached {
            if let Some(position) = attachment.position {
                HOOK_POSITION.sample(out, &attachment.labels(), position);
            }
        }
        REATTACHMENTS.head(out);
        for attachment in &self.attached {
            // The hook of an attachment may change, so the counter has no hook label.
            let [interface, _, direction] = attachment.labels();
            REATTACHMENTS.sample(out, &[interface, direction], attachment.reattach_count);
        }
        BOUND_INTERFACES.head(out);
        for entry in &self.entries {
            BOUND_INTERFACES.sample(out, &[("entry", &entry.name)], entry.interfaces.len());
        }
        UNLISTED_PREFIXES.head(out);
        for (interface, prefix) in &self.unlisted {
            UNLISTED_PREFIXES.sample(out, &[("interface", interface), ("prefix", prefix)], 1);
        }
        UNLISTED_FLOWS.single(out, self.unlisted_flows);
        HELPER_UP.single(out, u8::from(self.helper_pid.is_some()));
    }

    /// Writes the families of packet locations and of the conservation difference.
    fn render_locations(&self, out: &mut String) {
        for (family, value) in [
            (LOCATED_PACKETS, (|gain| gain.packets) as fn(CounterDelta) -> u64),
            (LOCATED_BYTES, |gain| gain.bytes),
        ] {
            family.head(out);
            for attachment in &self.packet_locations {
                for (direction, gain) in [("up", attachment.up), ("down", attachment.down)] {
                    family.sample(
                        out,
                        &[("location", attachment.name), ("direction", direction)],
                        value(gain),
                    );
                }
            }
        }
        for (family, missing) in [PACKET_DIFFERENCE, BYTE_DIFFERENCE].iter().zip(self.difference) {
            family.head(out);
            for (direction, missing) in ["up", "down"].iter().zip(missing) {
                family.sample(out, &[("direction", direction)], missing);
            }
        }
    }
}
