//! Audit of the counters: every packet that the program counted is in a flow, in the overflow, or was
//! evicted.

use mailflow_common::{DirectionTotals, FlowCounters, Totals};

use mailflow_engine::{
    event::CounterDelta,
    flow::SourceOverflow,
    flow::{DirectionStats, Flow},
};

/// Packets and bytes of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Client to server.
    pub up: CounterDelta,
    /// Server to client.
    pub down: CounterDelta,
}

/// Location of the packets that the program has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Number of flows in the table.
    pub flows: u64,
    /// Counts of those flows.
    pub live: Sum,
    /// Counts of superseded and evicted flows.
    pub retired: Sum,
    /// Number of sources in the overflow map.
    pub sources: u64,
    /// Counts of those sources, with evicted ones.
    pub overflow: Sum,
    /// Counts of evicted sources.
    overflow_taken: Sum,
}

/// Packets and bytes that are missing (positive) or too many (negative).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Packets, for each direction.
    pub packets: [i64; 2],
    /// IP bytes, for each direction.
    pub bytes: [i64; 2],
}

impl Held {
    /// Begins a scan of the table.
    pub(crate) fn begin(&mut self) {
        (self.flows, self.live) = (0, Sum::default());
    }

    /// Adds an entry of the table, and its part that belongs to superseded flows.
    pub(crate) fn live(&mut self, counters: &FlowCounters, base: Option<&FlowCounters>) {
        self.flows += 1;
        self.live.add(&Sum::of(counters));
        if let Some(base) = base {
            self.live.subtract(&Sum::of(base));
        }
    }

    /// Adds a superseded flow, and the part of its entry that belongs to flows before it.
    pub(super) fn finish(&mut self, counters: &FlowCounters, base: Option<&FlowCounters>) {
        self.retired.add(&Sum::of(counters));
        if let Some(base) = base {
            self.retired.subtract(&Sum::of(base));
        }
    }

    /// Adds an evicted flow.
    pub(crate) fn remove(&mut self, flow: &Flow) {
        let sum = Sum { up: gain(&flow.up), down: gain(&flow.down) };
        self.flows = self.flows.saturating_sub(1);
        self.live.subtract(&sum);
        self.retired.add(&sum);
    }

    /// Adds packets that were in progress with a flow at its eviction.
    pub(crate) fn late(&mut self, late: &Sum) {
        self.retired.add(late);
    }

    /// Sets the counts of the overflow map.
    pub(crate) fn spilled(&mut self, spilled: &[SourceOverflow]) {
        self.sources = 0;
        self.overflow = Sum::default();
        for spill in spilled {
            let sum = Sum { up: gain(&spill.up), down: gain(&spill.down) };
            if spill.is_final {
                self.overflow_taken.add(&sum);
            } else {
                self.sources += 1;
                self.overflow.add(&sum);
            }
        }
        self.overflow.add(&self.overflow_taken);
    }

    /// Adds an evicted source.
    pub(crate) fn overflow_taken(&self) -> &Sum {
        &self.overflow_taken
    }

    /// Continues from the counts of an earlier agent.
    pub(crate) fn resume(&mut self, retired: Sum, overflow_taken: Sum) {
        *self = Self { retired, overflow: overflow_taken, overflow_taken, ..Self::default() };
    }

    /// Adds a flow that is in no table any more.
    pub(crate) fn retire(&mut self, flow: &Flow) {
        self.retired.add(&Sum { up: gain(&flow.up), down: gain(&flow.down) });
    }

    /// Adds a source that is in no table any more.
    pub(crate) fn retire_spill(&mut self, spill: &SourceOverflow) {
        let sum = Sum { up: gain(&spill.up), down: gain(&spill.down) };
        self.overflow_taken.add(&sum);
        self.overflow.add(&sum);
    }

    /// Returns the difference between the counts of the program and their locations. Packets are counted
    /// during the scan: `before` are the totals before it, `after` those after it, and counts between the two
    /// are no difference.
    pub fn difference(&self, before: &Totals, after: &Totals) -> Difference {
        let mut sum = self.live;
        sum.add(&self.retired);
        sum.add(&self.overflow);
        let up = beyond(sum.up, [&before.up, &after.up], &after.unattributed_up);
        let down = beyond(sum.down, [&before.down, &after.down], &after.unattributed_down);
        Difference { packets: [up.0, down.0], bytes: [up.1, down.1] }
    }
}

/// Returns by how many packets and bytes `held` and `unattributed` are outside of the bounds.
fn beyond(held: CounterDelta, counted: [&DirectionTotals; 2], unattributed: &DirectionTotals) -> (i64, i64) {
    let outside = |held: u64, [least, most]: [u64; 2]| {
        let distance = |from: u64, to: u64| i64::try_from(from.abs_diff(to)).unwrap_or(i64::MAX);
        if held < least {
            distance(held, least)
        } else if held > most {
            -distance(held, most)
        } else {
            0
        }
    };
    let packets = held.packets.wrapping_add(unattributed.packets);
    let bytes = held.bytes.wrapping_add(unattributed.bytes);
    (outside(packets, counted.map(|total| total.packets)), outside(bytes, counted.map(|total| total.bytes)))
}

impl Sum {
    /// Returns the counts of an entry.
    pub(crate) fn of(counters: &FlowCounters) -> Self {
        let [up, down] = [&counters.up, &counters.down]
            .map(|direction| CounterDelta { packets: direction.packets(), bytes: direction.bytes() });
        Self { up, down }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in [(&mut self.up, other.up), (&mut self.down, other.down)] {
            mine.packets = mine.packets.wrapping_add(theirs.packets);
            mine.bytes = mine.bytes.wrapping_add(theirs.bytes);
        }
    }

    pub(super) fn subtract(&mut self, other: &Self) {
        for (mine, theirs) in [(&mut self.up, other.up), (&mut self.down, other.down)] {
            mine.packets = mine.packets.wrapping_sub(theirs.packets);
            mine.bytes = mine.bytes.wrapping_sub(theirs.bytes);
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
    fn only_what_lies_outside_of_what_was_counted_is_a_difference() {
        let up = CounterDelta { packets: 10, bytes: 1_000 };
        let held = Held { live: Sum { up, ..Sum::default() }, ..Held::default() };
        let packets = |before, after| held.difference(&counted(before, 0), &counted(after, 0)).packets[0];
        assert_eq!((packets(10, 10), packets(8, 12)), (0, 0));
        assert_eq!((packets(11, 12), packets(8, 9)), (1, -1));
        assert_eq!(held.difference(&counted(12, 2), &counted(12, 2)), Difference::default());
        assert_eq!(held.difference(&counted(13, 2), &counted(13, 2)).bytes, [100, 0]);
    }
}
