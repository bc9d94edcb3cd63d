//! What is remembered of every live flow between two readings: enough to tell its gains, no more.

use std::{collections::HashMap, hash::BuildHasher};

use foldhash::{fast, quality};

use super::{
    evaluate::Counted,
    event::{Delta, Gain},
    flow::{Direction, Flow},
    time::Time,
};

/// Readings that may miss a living flow one after the other, at least; twice as many at most.
const PATIENCE: u8 = 8;
/// Readings told apart.
const READINGS: usize = 4 * PATIENCE as usize;

/// The live flows.
///
/// They go by a 128-bit hash of their keys and beginnings, with seeds of this process: less than half of
/// a key's size, which is what a look-up that misses the caches costs, and among 2^30 flows two share one
/// with a probability of 2^-69. Another beginning on the same key is another flow.
#[derive(Debug, Default)]
pub(super) struct Table {
    flows: HashMap<u128, Tracked, fast::RandomState>,
    seeds: [quality::RandomState; 2],
    /// The rules that have counted a living flow; few live long enough for that.
    marks: HashMap<u128, Counted, fast::RandomState>,
    /// The moments of the last readings; a flow knows at which it was seen.
    readings: [Time; READINGS],
    reading: u8,
    vanished: u64,
}

/// A live flow, as last seen.
#[derive(Clone, Copy, Debug)]
struct Tracked {
    up: Gain,
    down: Gain,
    messages: u32,
    reading: u8,
}

/// What a look at a flow showed.
#[derive(Debug)]
pub(super) struct Seen {
    /// What it gained, if anything.
    pub(super) delta: Option<Delta>,
    /// The reading that showed it last, if one did.
    pub(super) before: Option<Time>,
}

impl Table {
    /// A reading begins. Flows that the last ones did not show are forgotten.
    pub(super) fn begin(&mut self, now: Time) {
        self.reading = (self.reading + 1) % READINGS as u8;
        self.readings[usize::from(self.reading)] = now;
        if self.reading.is_multiple_of(PATIENCE) {
            self.forget();
        }
    }

    /// Brings the memory of `flows` into the caches.
    ///
    /// Looked at one by one, each flow waits for main memory alone; nothing here depends on what is
    /// read, so the waits overlap.
    pub(super) fn warm(&self, flows: &[Flow]) {
        let reading = |flow: &Flow| self.flows.get(&self.name(flow)).map_or(0, |seen| seen.reading);
        std::hint::black_box(flows.iter().map(reading).fold(0, u8::wrapping_add));
    }

    /// Looks at a flow.
    pub(super) fn see(&mut self, flow: &Flow) -> Seen {
        let (name, reading) = (self.name(flow), self.reading);
        match self.flows.get_mut(&name) {
            Some(tracked) => {
                let before = std::mem::replace(&mut tracked.reading, reading);
                Seen { delta: tracked.gain(flow), before: Some(self.readings[usize::from(before)]) }
            }
            None => {
                self.flows.insert(name, Tracked::new(flow, reading));
                Seen { delta: Some(all(flow)), before: None }
            }
        }
    }

    /// Looks at a flow for the last time and forgets it.
    pub(super) fn take(&mut self, flow: &Flow) -> Option<Delta> {
        match self.flows.remove(&self.name(flow)) {
            Some(mut tracked) => tracked.gain(flow),
            None => Some(all(flow)),
        }
    }

    /// Takes a flow back, with all its gains told.
    pub(super) fn put(&mut self, flow: &Flow) {
        self.flows.insert(self.name(flow), Tracked::new(flow, self.reading));
    }

    /// The rules that have counted a flow.
    pub(super) fn counted(&self, flow: &Flow) -> Counted {
        if self.marks.is_empty() {
            return Counted::default();
        }
        self.marks.get(&self.name(flow)).copied().unwrap_or_default()
    }

    /// Notes the rules that have counted a flow.
    pub(super) fn mark(&mut self, flow: &Flow, counted: Counted) {
        if counted != Counted::default() {
            self.marks.insert(self.name(flow), counted);
        }
    }

    /// After a flow's last record.
    pub(super) fn unmark(&mut self, flow: &Flow) {
        if !self.marks.is_empty() {
            self.marks.remove(&self.name(flow));
        }
    }

    /// Flows held.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Flows that were forgotten without having been taken.
    pub(super) fn vanished(&self) -> u64 {
        self.vanished
    }

    /// Forgets every flow.
    pub(super) fn clear(&mut self) {
        self.flows = HashMap::default();
    }

    fn name(&self, flow: &Flow) -> u128 {
        let [high, low] = self.seeds.each_ref().map(|seed| u128::from(seed.hash_one((flow.key, flow.first))));
        high << 64 | low
    }

    fn forget(&mut self) {
        let (held, reading) = (self.flows.len(), self.reading);
        let Self { flows, marks, .. } = self;
        flows.retain(|name, tracked| {
            // The reading that begins has not shown it yet.
            let missed = (READINGS as u8 + reading - tracked.reading) % READINGS as u8 > PATIENCE + 1;
            if missed {
                marks.remove(name);
            }
            !missed
        });
        self.vanished += (held - flows.len()) as u64;
    }
}

impl Tracked {
    fn new(flow: &Flow, reading: u8) -> Self {
        Self { up: reached(&flow.up), down: reached(&flow.down), messages: flow.messages, reading }
    }

    fn gain(&mut self, flow: &Flow) -> Option<Delta> {
        let (up, down) = (reached(&flow.up), reached(&flow.down));
        if (up, down, flow.messages) == (self.up, self.down, self.messages) {
            return None;
        }
        let delta = Delta {
            key: flow.key,
            up: difference(self.up, up),
            down: difference(self.down, down),
            messages: u64::from(flow.messages.wrapping_sub(self.messages)),
            new_flow: false,
        };
        (self.up, self.down, self.messages) = (up, down, flow.messages);
        Some(delta)
    }
}

fn all(flow: &Flow) -> Delta {
    let messages = u64::from(flow.messages);
    Delta { key: flow.key, up: reached(&flow.up), down: reached(&flow.down), messages, new_flow: true }
}

fn reached(direction: &Direction) -> Gain {
    Gain { packets: direction.packets, bytes: direction.bytes }
}

fn difference(from: Gain, to: Gain) -> Gain {
    Gain { packets: to.packets.wrapping_sub(from.packets), bytes: to.bytes.wrapping_sub(from.bytes) }
}

#[cfg(test)]
mod tests {
    use super::{
        super::fixture::{self, at},
        *,
    };

    fn flow() -> Flow {
        fixture::flow("10.0.0.1:4000", "9.9.9.9:25")
    }

    #[test]
    fn only_gains_are_told() {
        let mut table = Table::default();
        let mut flow = flow();
        let first = table.see(&flow).delta.unwrap();
        assert_eq!((first.up, first.messages, first.new_flow), (Gain { packets: 10, bytes: 2_000 }, 1, true));
        assert_eq!(table.see(&flow).delta, None);
        (flow.down.packets, flow.down.bytes) = (11, 2_052);
        let second = table.see(&flow).delta.unwrap();
        assert_eq!((second.up, second.down), (Gain::default(), Gain { packets: 1, bytes: 52 }));
        assert_eq!((second.messages, second.new_flow), (0, false));
        flow.up.packets += 1;
        assert_eq!(table.take(&flow).unwrap().up, Gain { packets: 1, bytes: 0 });
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn another_beginning_is_another_flow() {
        let mut table = Table::default();
        table.see(&flow());
        let new = Flow { first: at(101), ..flow() };
        assert!(table.see(&new).delta.unwrap().new_flow);
        assert_eq!((table.take(&flow()), table.take(&new)), (None, None), "both were booked");
    }

    #[test]
    fn a_flow_is_forgotten_only_when_many_readings_missed_it() {
        for misses in 0..3 * PATIENCE {
            let mut table = Table::default();
            table.begin(at(1));
            table.see(&flow());
            for reading in 0..misses {
                table.begin(at(2 + u64::from(reading)));
            }
            table.begin(at(100));
            let seen = table.see(&flow());
            match seen.before {
                Some(before) => assert_eq!((before, seen.delta, table.vanished()), (at(1), None, 0)),
                None => assert_eq!((seen.delta.unwrap().new_flow, table.vanished()), (true, 1)),
            }
            assert!(misses > PATIENCE || seen.before.is_some(), "{misses}");
            assert!(misses <= 2 * PATIENCE || seen.before.is_none(), "{misses}");
        }
    }

    #[test]
    fn marks_stay_with_the_flow_they_were_made_for() {
        let mut table = Table::default();
        let mut counted = Counted::default();
        counted.set(3);
        table.mark(&flow(), counted);
        let other = Flow { first: at(99), ..flow() };
        assert_eq!([table.counted(&flow()), table.counted(&other)], [counted, Counted::default()]);
        table.unmark(&other);
        assert_eq!(table.counted(&flow()), counted);
        table.unmark(&flow());
        assert_eq!(table.counted(&flow()), Counted::default());
    }
}
