//! Audit of the counters: every packet that the program counted is in a flow, in the overflow, or was
//! evicted.

use mailflow_common::{DirectionTotals, FlowCounters, Totals};

use mailflow_engine::{
    event::CounterDelta,
    flow::{DirectionStats, Flow, SourceOverflow},
};

/// Packets and bytes of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficSum {
    /// Client to server.
    pub up: CounterDelta,
    /// Server to client.
    pub down: CounterDelta,
}

/// Location of the packets that the program has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketAudit {
    /// Number of flows in the table.
    pub flows: u64,
    /// Counts of those flows.
    pub active: TrafficSum,
    /// Counts of superseded and evicted flows.
    pub ended: TrafficSum,
    /// Number of sources in the overflow map.
    pub sources: u64,
    /// Counts of those sources, with evicted ones.
    pub overflow: TrafficSum,
    /// Counts of evicted sources.
    evicted_overflow: TrafficSum,
}

/// Packets and bytes that are missing (positive) or too many (negative).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConservationDifference {
    /// Packets, for each direction.
    pub packets: [i64; 2],
    /// IP bytes, for each direction.
    pub bytes: [i64; 2],
}

impl PacketAudit {
    /// Begins a scan of the table.
    pub(crate) fn begin_scan(&mut self) {
        (self.flows, self.active) = (0, TrafficSum::default());
    }

    /// Adds an entry of the table, and its part that belongs to superseded flows.
    pub(crate) fn add_active(&mut self, counters: &FlowCounters, base: Option<&FlowCounters>) {
        self.flows += 1;
        self.active.add(&TrafficSum::of(counters));
        if let Some(base) = base {
            self.active.subtract(&TrafficSum::of(base));
        }
    }

    /// Adds a superseded flow, and the part of its entry that belongs to flows before it.
    pub(super) fn add_superseded(&mut self, counters: &FlowCounters, base: Option<&FlowCounters>) {
        self.ended.add(&TrafficSum::of(counters));
        if let Some(base) = base {
            self.ended.subtract(&TrafficSum::of(base));
        }
    }

    /// Adds an evicted flow.
    pub(crate) fn add_evicted(&mut self, flow: &Flow) {
        let sum = TrafficSum { up: gain(&flow.up), down: gain(&flow.down) };
        self.flows = self.flows.saturating_sub(1);
        self.active.subtract(&sum);
        self.ended.add(&sum);
    }

    /// Adds packets that were in progress with a flow at its eviction.
    pub(crate) fn add_late(&mut self, late: &TrafficSum) {
        self.ended.add(late);
    }

    /// Sets the counts of the overflow map.
    pub(crate) fn set_overflow(&mut self, sources: &[SourceOverflow]) {
        self.sources = 0;
        self.overflow = TrafficSum::default();
        for source in sources {
            let sum = TrafficSum { up: gain(&source.up), down: gain(&source.down) };
            if source.is_final {
                self.evicted_overflow.add(&sum);
            } else {
                self.sources += 1;
                self.overflow.add(&sum);
            }
        }
        self.overflow.add(&self.evicted_overflow);
    }

    /// Adds an evicted source.
    pub(crate) fn evicted_overflow(&self) -> &TrafficSum {
        &self.evicted_overflow
    }

    /// Continues from the counts of an earlier agent.
    pub(crate) fn restore(&mut self, ended: TrafficSum, evicted_overflow: TrafficSum) {
        *self = Self { ended, overflow: evicted_overflow, evicted_overflow, ..Self::default() };
    }

    /// Adds a flow that is in no table any more.
    pub(crate) fn add_ended(&mut self, flow: &Flow) {
        self.ended.add(&TrafficSum { up: gain(&flow.up), down: gain(&flow.down) });
    }

    /// Adds a source that is in no table any more.
    pub(crate) fn add_ended_source(&mut self, source: &SourceOverflow) {
        let sum = TrafficSum { up: gain(&source.up), down: gain(&source.down) };
        self.evicted_overflow.add(&sum);
        self.overflow.add(&sum);
    }

    /// Returns the difference between the counts of the program and their locations. Packets are counted
    /// during the scan: `before` are the totals before it, `after` those after it, and counts between the two
    /// are no difference.
    pub fn difference(&self, before: &Totals, after: &Totals) -> ConservationDifference {
        let mut sum = self.active;
        sum.add(&self.ended);
        sum.add(&self.overflow);
        let up = outside_bounds(sum.up, [&before.up, &after.up], &after.unattributed_up);
        let down = outside_bounds(sum.down, [&before.down, &after.down], &after.unattributed_down);
        ConservationDifference { packets: [up.0, down.0], bytes: [up.1, down.1] }
    }
}

/// Returns by how many packets and bytes `located` and `unattributed` are outside of the bounds.
fn outside_bounds(
    located: CounterDelta,
    counted: [&DirectionTotals; 2],
    unattributed: &DirectionTotals,
) -> (i64, i64) {
    let distance_outside = |located: u64, [lower, upper]: [u64; 2]| {
        let distance = |from: u64, to: u64| i64::try_from(from.abs_diff(to)).unwrap_or(i64::MAX);
        if located < lower {
            distance(located, lower)
        } else if located > upper {
            -distance(located, upper)
        } else {
            0
        }
    };
    let packets = located.packets.wrapping_add(unattributed.packets);
    let bytes = located.bytes.wrapping_add(unattributed.bytes);
    (
        distance_outside(packets, counted.map(|total| total.packets)),
        distance_outside(bytes, counted.map(|total| total.bytes)),
    )
}

impl TrafficSum {
    /// Returns the counts of an entry.
    pub(crate) fn of(counters: &FlowCounters) -> Self {
        let [up, down] = [&counters.up, &counters.down]
            .map(|direction| CounterDelta { packets: direction.packets(), bytes: direction.bytes() });
        Self { up, down }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (own, added) in [(&mut self.up, other.up), (&mut self.down, other.down)] {
            own.packets = own.packets.wrapping_add(added.packets);
            own.bytes = own.bytes.wrapping_add(added.bytes);
        }
    }

    pub(super) fn subtract(&mut self, other: &Self) {
        for (own, subtracted) in [(&mut self.up, other.up), (&mut self.down, other.down)] {
            own.packets = own.packets.wrapping_sub(subtracted.packets);
            own.bytes = own.bytes.wrapping_sub(subtracted.bytes);
        }
    }
}

fn gain(direction: &DirectionStats) -> CounterDelta {
    CounterDelta { packets: direction.packets, bytes: direction.bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(packets: u64, unattributed: u64) -> Totals {
        let of = |packets| DirectionTotals { buffers: packets, packets, bytes: packets * 100 };
        Totals { up: of(packets), unattributed_up: of(unattributed), ..Totals::default() }
    }

    #[test]
    fn counts_outside_of_the_bounds_are_a_difference() {
        let up = CounterDelta { packets: 10, bytes: 1_000 };
        let located =
            PacketAudit { active: TrafficSum { up, ..TrafficSum::default() }, ..PacketAudit::default() };
        let packets = |before, after| located.difference(&counted(before, 0), &counted(after, 0)).packets[0];
        assert_eq!((packets(10, 10), packets(8, 12)), (0, 0));
        assert_eq!((packets(11, 12), packets(8, 9)), (1, -1));
        assert_eq!(located.difference(&counted(12, 2), &counted(12, 2)), ConservationDifference::default());
        assert_eq!(located.difference(&counted(13, 2), &counted(13, 2)).bytes, [100, 0]);
    }
}
