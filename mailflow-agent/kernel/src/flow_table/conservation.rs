//! Conservation: every packet the program counted is held somewhere, or was taken out with its flow.

use mailflow_common::{DirectionTotals, FlowCounters, Totals};

use mailflow_engine::{
    event::Gain,
    flow::{Direction, Flow},
    spill::Spill,
};

/// Packets and bytes of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Client to server.
    pub up: Gain,
    /// Server to client.
    pub down: Gain,
}

/// Where the packets are that the program counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// In flows of the table: their number ...
    pub flows: u64,
    /// ... and their sum.
    pub live: Sum,
    /// In flows that were finished or taken out.
    pub retired: Sum,
    /// In the overflow of sources: their number ...
    pub sources: u64,
    /// ... and their sum, with those that were taken out.
    pub overflow: Sum,
    /// The part of `overflow` that was taken out.
    overflow_taken: Sum,
}

/// Packets and bytes of both directions that are missing (above zero) or too many (below).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Packets, client to server and back.
    pub packets: [i64; 2],
    /// IP bytes, client to server and back.
    pub bytes: [i64; 2],
}

impl Held {
    /// A reading of the table begins.
    pub(crate) fn begin(&mut self) {
        (self.flows, self.live) = (0, Sum::default());
    }

    /// An entry of the table, and what of it belongs to finished flows.
    pub(crate) fn live(&mut self, counters: &FlowCounters, base: Option<&FlowCounters>) {
        self.flows += 1;
        self.live.add(&Sum::of(counters));
        if let Some(base) = base {
            self.live.subtract(&Sum::of(base));
        }
    }

    /// A finished flow, and what of its entry belongs to those before it.
    pub(super) fn finish(&mut self, counters: &FlowCounters, base: Option<&FlowCounters>) {
        self.retired.add(&Sum::of(counters));
        if let Some(base) = base {
            self.retired.subtract(&Sum::of(base));
        }
    }

    /// A flow was taken out of the table.
    pub(crate) fn remove(&mut self, flow: &Flow) {
        let sum = Sum { up: gain(&flow.up), down: gain(&flow.down) };
        self.flows = self.flows.saturating_sub(1);
        self.live.subtract(&sum);
        self.retired.add(&sum);
    }

    /// Packets that were under way to flows when they were taken out.
    pub(crate) fn late(&mut self, late: &Sum) {
        self.retired.add(late);
    }

    /// The sources that overflow.
    pub(crate) fn spilled(&mut self, spilled: &[Spill]) {
        self.sources = 0;
        self.overflow = Sum::default();
        for spill in spilled {
            let sum = Sum { up: gain(&spill.up), down: gain(&spill.down) };
            if spill.over {
                self.overflow_taken.add(&sum);
            } else {
                self.sources += 1;
                self.overflow.add(&sum);
            }
        }
        self.overflow.add(&self.overflow_taken);
    }

    /// Of the overflow, what was taken out.
    pub(crate) fn overflow_taken(&self) -> &Sum {
        &self.overflow_taken
    }

    /// Goes on from what another agent held in flows and sources that it took out.
    pub(crate) fn resume(&mut self, retired: Sum, overflow_taken: Sum) {
        *self = Self { retired, overflow: overflow_taken, overflow_taken, ..Self::default() };
    }

    /// A flow that is in no table any more.
    pub(crate) fn retire(&mut self, flow: &Flow) {
        self.retired.add(&Sum { up: gain(&flow.up), down: gain(&flow.down) });
    }

    /// A source that is in no table any more.
    pub(crate) fn retire_spill(&mut self, spill: &Spill) {
        let sum = Sum { up: gain(&spill.up), down: gain(&spill.down) };
        self.overflow_taken.add(&sum);
        self.overflow.add(&sum);
    }

    /// What the program counted less what is held. Packets go on being counted meanwhile: `before` are
    /// the totals from before the reading, `after` those from after it, and what lies between them is
    /// no difference.
    pub fn difference(&self, before: &Totals, after: &Totals) -> Difference {
        let mut sum = self.live;
        sum.add(&self.retired);
        sum.add(&self.overflow);
        let up = beyond(sum.up, [&before.up, &after.up], &after.unattributed_up);
        let down = beyond(sum.down, [&before.down, &after.down], &after.unattributed_down);
        Difference { packets: [up.0, down.0], bytes: [up.1, down.1] }
    }
}

/// By how many packets and bytes `held` and `unattributed` lie outside of what was counted.
fn beyond(held: Gain, counted: [&DirectionTotals; 2], unattributed: &DirectionTotals) -> (i64, i64) {
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
    /// What an entry holds.
    pub(crate) fn of(counters: &FlowCounters) -> Self {
        let [up, down] = [&counters.up, &counters.down]
            .map(|direction| Gain { packets: direction.packets(), bytes: direction.bytes() });
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

fn gain(direction: &Direction) -> Gain {
    Gain { packets: direction.packets, bytes: direction.bytes }
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
        let up = Gain { packets: 10, bytes: 1_000 };
        let held = Held { live: Sum { up, ..Sum::default() }, ..Held::default() };
        let packets = |before, after| held.difference(&counted(before, 0), &counted(after, 0)).packets[0];
        assert_eq!((packets(10, 10), packets(8, 12)), (0, 0));
        assert_eq!((packets(11, 12), packets(8, 9)), (1, -1));
        assert_eq!(held.difference(&counted(12, 2), &counted(12, 2)), Difference::default());
        assert_eq!(held.difference(&counted(13, 2), &counted(13, 2)).bytes, [100, 0]);
    }
}
