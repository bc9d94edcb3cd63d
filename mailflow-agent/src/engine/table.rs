//! What is remembered of every live flow between two snapshots: enough to tell its gains, no more.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::BuildHasher,
};

use foldhash::{fast, quality};
use mailflow_common::{App, FlowKey};

use super::{
    evaluate::Counted,
    event::{Delta, Gain},
    flow::{Direction, Flow},
    lifetime,
    settings::Services,
    time::Time,
};

/// The live flows.
///
/// They go by a 128-bit hash of their keys, with seeds of this process: less than half of a key's size,
/// which is what a look-up that misses the caches costs, and among 2^30 flows two share one with a
/// probability of 2^-69.
#[derive(Debug, Default)]
pub(super) struct Table {
    flows: HashMap<u128, Tracked, fast::RandomState>,
    seeds: [quality::RandomState; 2],
    /// Changes with every snapshot.
    snapshot: u8,
}

/// A live flow, as last seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tracked {
    up: Gain,
    down: Gain,
    first: Time,
    last: Time,
    /// The rules that have counted it.
    pub(super) counted: Counted,
    messages: u32,
    /// How many active intervals of its life had passed at its last record; wraps.
    intervals: u16,
    app: App,
    snapshot: u8,
}

const _: () = assert!(size_of::<Tracked>() <= 64, "1,000,000 of these are held");

/// What the last look at a flow showed.
#[derive(Debug)]
pub(super) struct Taken {
    /// What it gained, if anything.
    pub(super) delta: Option<Delta>,
    /// The rules that have counted it.
    pub(super) counted: Counted,
    /// The flow that had this key before.
    pub(super) replaced: Option<Tracked>,
}

/// What a look at a flow showed.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    /// The flow's memory.
    pub(super) tracked: &'a mut Tracked,
    /// What it gained, if anything.
    pub(super) delta: Option<Delta>,
    /// The flow that had this key before.
    pub(super) replaced: Option<Tracked>,
}

impl Table {
    /// Before the flows of a snapshot are looked at.
    pub(super) fn begin(&mut self, expected: usize) {
        self.snapshot = self.snapshot.wrapping_add(1);
        self.flows.reserve(expected.saturating_sub(self.flows.len()));
    }

    fn name(&self, key: &FlowKey) -> u128 {
        let [high, low] = self.seeds.each_ref().map(|seed| u128::from(seed.hash_one(key)));
        high << 64 | low
    }

    /// Brings the memory of `flows` into the caches.
    ///
    /// Looked at one by one, each flow waits for main memory alone; nothing here depends on what is
    /// read, so the waits overlap.
    pub(super) fn warm(&self, flows: &[Flow]) {
        let snapshot = |flow: &Flow| self.flows.get(&self.name(&flow.key)).map_or(0, |seen| seen.snapshot);
        std::hint::black_box(flows.iter().map(snapshot).fold(0, u8::wrapping_add));
    }

    /// Looks at a flow.
    pub(super) fn see(&mut self, flow: &Flow, services: &Services) -> Seen<'_> {
        let (name, snapshot) = (self.name(&flow.key), self.snapshot);
        match self.flows.entry(name) {
            Entry::Vacant(vacant) => {
                let tracked = vacant.insert(Tracked::new(flow, services, snapshot));
                Seen { delta: Some(tracked.first_delta(flow)), tracked, replaced: None }
            }
            Entry::Occupied(occupied) => {
                let tracked = occupied.into_mut();
                if tracked.continues(flow) {
                    tracked.snapshot = snapshot;
                    Seen { delta: tracked.gain(flow, services), tracked, replaced: None }
                } else {
                    let replaced = std::mem::replace(tracked, Tracked::new(flow, services, snapshot));
                    Seen { delta: Some(tracked.first_delta(flow)), tracked, replaced: Some(replaced) }
                }
            }
        }
    }

    /// After the flows of a snapshot were looked at: forgets those it lacked for which `over` holds
    /// of the last packet. The others may come back, and their gains must not be booked twice.
    pub(super) fn finish(&mut self, shown: usize, over: impl Fn(Time) -> bool) {
        if self.flows.len() > shown {
            let snapshot = self.snapshot;
            self.flows.retain(|_, tracked| tracked.snapshot == snapshot || !over(tracked.last));
        }
        if self.flows.len() < self.flows.capacity() / 8 {
            self.flows.shrink_to(self.flows.len() * 2);
        }
    }

    /// Looks at a flow for the last time and forgets it.
    pub(super) fn take(&mut self, flow: &Flow, services: &Services) -> Taken {
        match self.flows.remove(&self.name(&flow.key)) {
            Some(mut tracked) if tracked.continues(flow) => {
                let delta = tracked.gain(flow, services);
                Taken { delta, counted: tracked.counted, replaced: None }
            }
            replaced => {
                let tracked = Tracked::new(flow, services, self.snapshot);
                Taken { delta: Some(tracked.first_delta(flow)), counted: Counted::default(), replaced }
            }
        }
    }

    /// Whether this flow, not another one under its key, is held.
    pub(super) fn holds(&self, flow: &Flow) -> bool {
        self.get(flow).is_some()
    }

    /// Whether this flow is held, but the last snapshot did not show it.
    pub(super) fn lacks(&self, flow: &Flow) -> bool {
        self.get(flow).is_some_and(|tracked| tracked.snapshot != self.snapshot)
    }

    fn get(&self, flow: &Flow) -> Option<&Tracked> {
        self.flows.get(&self.name(&flow.key)).filter(|tracked| tracked.first == flow.first)
    }

    /// Notes the rules that have counted a flow; one that is not in the table any more had its final
    /// record.
    pub(super) fn mark(&mut self, flow: &Flow, counted: Counted) {
        let name = self.name(&flow.key);
        if let Some(tracked) = self.flows.get_mut(&name).filter(|tracked| tracked.first == flow.first) {
            tracked.counted = counted;
        }
    }

    /// Flows held.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Tracked {
    fn new(flow: &Flow, services: &Services, snapshot: u8) -> Self {
        Self {
            up: reached(&flow.up),
            down: reached(&flow.down),
            first: flow.first,
            last: flow.last(),
            counted: Counted::default(),
            messages: flow.messages,
            intervals: 0,
            app: lifetime::app(flow, services),
            snapshot,
        }
    }

    /// Whether a further active interval has passed when `intervals` have.
    pub(super) fn lived(&mut self, intervals: u64) -> bool {
        // Only whether it changed matters, and nobody misses exactly 65,536 intervals.
        let intervals = intervals as u16;
        std::mem::replace(&mut self.intervals, intervals) != intervals
    }

    /// The class it was last seen with.
    pub(super) fn app(&self) -> App {
        self.app
    }

    /// The flow as far as it is remembered: packets, bytes, messages, first and last packet.
    pub(super) fn remembered(&self, key: FlowKey) -> Flow {
        let way = |gain: Gain| Direction {
            packets: gain.packets,
            bytes: gain.bytes,
            last: (gain.packets > 0).then_some(self.last),
            ..Direction::default()
        };
        Flow {
            key,
            up: way(self.up),
            down: way(self.down),
            first: self.first,
            messages: self.messages,
            mac: None,
            facts: mailflow_common::Facts::default(),
        }
    }

    /// Whether `flow` is this one, later: the same beginning, and no counter fell.
    fn continues(&self, flow: &Flow) -> bool {
        let grew = |past: Gain, now: &Direction| past.packets <= now.packets && past.bytes <= now.bytes;
        self.first == flow.first
            && grew(self.up, &flow.up)
            && grew(self.down, &flow.down)
            && self.messages <= flow.messages
    }

    fn first_delta(&self, flow: &Flow) -> Delta {
        Delta {
            key: flow.key,
            up: self.up,
            down: self.down,
            messages: u64::from(self.messages),
            new_flow: true,
        }
    }

    fn gain(&mut self, flow: &Flow, services: &Services) -> Option<Delta> {
        let (up, down) = (reached(&flow.up), reached(&flow.down));
        if (up, down, flow.messages) == (self.up, self.down, self.messages) {
            return None;
        }
        let delta = Delta {
            key: flow.key,
            up: difference(self.up, up),
            down: difference(self.down, down),
            messages: u64::from(flow.messages - self.messages),
            new_flow: false,
        };
        (self.up, self.down, self.messages) = (up, down, flow.messages);
        (self.last, self.app) = (flow.last(), lifetime::app(flow, services));
        Some(delta)
    }
}

fn reached(direction: &Direction) -> Gain {
    Gain { packets: direction.packets, bytes: direction.bytes }
}

fn difference(from: Gain, to: Gain) -> Gain {
    Gain { packets: to.packets - from.packets, bytes: to.bytes - from.bytes }
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
        let (mut table, services) = (Table::default(), Services::new());
        let mut flow = flow();
        let first = table.see(&flow, &services).delta.unwrap();
        assert_eq!((first.up, first.messages, first.new_flow), (Gain { packets: 10, bytes: 2_000 }, 1, true));
        assert_eq!(table.see(&flow, &services).delta, None);
        (flow.down.packets, flow.down.bytes) = (11, 2_052);
        let second = table.see(&flow, &services).delta.unwrap();
        assert_eq!((second.up, second.down), (Gain::default(), Gain { packets: 1, bytes: 52 }));
        assert_eq!((second.messages, second.new_flow), (0, false));
    }

    #[test]
    fn another_beginning_or_a_fallen_counter_is_another_flow() {
        let (mut table, services) = (Table::default(), Services::new());
        let old = flow();
        table.see(&old, &services);
        let mut new = flow();
        (new.first, new.up.bytes, new.up.packets) = (at(101), 60, 1);
        let seen = table.see(&new, &services);
        assert_eq!(seen.delta.unwrap().up, Gain { packets: 1, bytes: 60 });
        assert_eq!(seen.replaced.unwrap().remembered(old.key).up.bytes, 2_000);
        new.down.packets -= 1;
        assert!(table.see(&new, &services).replaced.is_some());
    }

    #[test]
    fn a_flow_a_snapshot_lacks_is_forgotten_only_when_it_is_over() {
        let (mut table, services) = (Table::default(), Services::new());
        table.begin(1);
        table.see(&flow(), &services);
        table.finish(1, |_| true);
        for (over, left) in [(false, 1), (true, 0)] {
            table.begin(0);
            table.finish(0, |_| over);
            assert_eq!(table.len(), left);
        }
    }

    #[test]
    fn marks_stay_with_the_flow_they_were_made_for() {
        let (mut table, services) = (Table::default(), Services::new());
        let mut counted = Counted::default();
        counted.set(3);
        table.see(&flow(), &services);
        let other = Flow { first: at(99), ..flow() };
        assert!(table.holds(&flow()) && !table.holds(&other));
        table.mark(&other, counted);
        assert_eq!(table.see(&flow(), &services).tracked.counted, Counted::default());
        table.mark(&flow(), counted);
        assert_eq!(table.take(&flow(), &services).counted, counted);
        assert_eq!(table.take(&flow(), &services).counted, Counted::default(), "once taken, it is new");
    }

    #[test]
    fn an_interval_is_told_once() {
        let (mut table, services) = (Table::default(), Services::new());
        let flow = flow();
        let seen = table.see(&flow, &services);
        assert_eq!([0, 1, 1, 4, 65_536].map(|n| seen.tracked.lived(n)), [false, true, false, true, true]);
    }
}
