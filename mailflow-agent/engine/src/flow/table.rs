//! What is remembered of every live flow between two readings: enough to tell its gains, no more.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, DefaultHasher},
    time::Duration,
};

use mailflow_common::FlowKey;

use super::{
    compact_table::CompactTable,
    delta::{CounterDelta, Delta},
    fingerprint::{FingerprintHasher, FlowFingerprint},
    packed_counters::PackedCounters,
    quantity::Quantities,
    record::{DirectionStats, Flow},
};
use crate::{
    eval::contribution::{FlowContribution, LIVE_BYTES, LIVE_MESSAGES},
    time::Time,
};

/// Readings that may miss a living flow one after the other, at least; twice as many at most.
const PATIENCE: u8 = 8;
/// A flow that began so long after the last reading was not in it, however its time was rounded.
const AFTER: Duration = Duration::from_secs(1);
/// Readings told apart; the first is 1.
const READINGS: u8 = 4 * PATIENCE;

/// The live flows.
#[derive(Debug)]
pub(crate) struct LiveFlowTable {
    slots: CompactTable,
    names: FingerprintHasher,
    /// What the rules have taken of living flows; few live long enough for that. A name is a keyed hash already.
    marks: HashMap<FlowFingerprint, KeyedContribution, BuildHasherDefault<DefaultHasher>>,
    /// The moments of the last readings; a flow knows at which it was seen.
    readings: [Time; READINGS as usize],
    reading: u8,
    /// What began later than this is new in this reading.
    new_from: Time,
    /// Most flows at once since unused memory was last given back.
    most: usize,
    vanished: u64,
}

/// A tally with its flow: a name alone says nothing to another process.
#[derive(Debug)]
struct KeyedContribution {
    key: FlowKey,
    first: Time,
    tally: FlowContribution,
}

/// What a look at a flow showed.
#[derive(Debug)]
pub(crate) struct FlowUpdate {
    /// What it gained, if anything.
    pub(crate) delta: Option<Delta>,
    /// The reading that showed it last, if one did.
    pub(crate) before: Option<Time>,
}

impl Default for LiveFlowTable {
    fn default() -> Self {
        Self {
            slots: CompactTable::default(),
            names: FingerprintHasher::default(),
            marks: HashMap::default(),
            readings: [Time::ZERO; READINGS as usize],
            reading: 1,
            new_from: Time::END,
            most: 0,
            vanished: 0,
        }
    }
}

impl LiveFlowTable {
    /// What tells the flows' gains: seeds of their names, and each with its name.
    pub(crate) fn save(&self) -> ([u64; 2], Vec<[u64; 5]>) {
        let words = |(name, slot): (FlowFingerprint, &PackedCounters)| {
            let [up, down, rest, ends] = slot.words();
            [name.high, up, down, rest, ends]
        };
        (self.names.seeds(), self.slots.iter().map(words).collect())
    }

    /// Goes on where another stopped, as of a reading at `now`.
    pub(crate) fn restore(&mut self, now: Time, seeds: [u64; 2], flows: &[[u64; 5]]) {
        *self = Self { names: FingerprintHasher::of_seeds(seeds), ..Self::default() };
        self.readings[usize::from(self.reading - 1)] = now;
        for [high, up, down, rest, ends] in flows {
            let slot = PackedCounters::from_words([*up, *down, *rest, *ends], self.reading);
            self.slots.put(FlowFingerprint { high: *high, low: slot.low() }, slot);
        }
    }

    /// A reading that another process made since. They have few numbers, so that for not having been shown in them
    /// nothing is forgotten: when those are used up, the two oldest are one.
    pub(crate) fn again(&mut self, now: Time) {
        if self.reading + 1 < PATIENCE {
            self.reading += 1;
        } else {
            for slot in self.slots.iter_mut().filter(|slot| slot.reading() > 1) {
                *slot = PackedCounters::from_words(slot.words(), slot.reading() - 1);
            }
            self.readings.copy_within(1..usize::from(self.reading), 0);
        }
        self.readings[usize::from(self.reading - 1)] = now;
    }

    /// A reading begins. Flows that the last ones did not show are forgotten.
    pub(crate) fn begin(&mut self, now: Time) {
        self.new_from = self.readings[usize::from(self.reading - 1)] + AFTER;
        self.reading = self.reading % READINGS + 1;
        self.readings[usize::from(self.reading - 1)] = now;
        self.most = self.most.max(self.slots.len());
        if self.reading.is_multiple_of(PATIENCE) {
            self.forget();
            self.slots.shrink(std::mem::take(&mut self.most));
        }
    }

    /// Returns true if no reading before this one can have shown a flow.
    pub(crate) fn is_new(&self, flow: &Flow) -> bool {
        flow.first > self.new_from
    }

    /// A flow's name.
    pub(crate) fn name(&self, flow: &Flow) -> FlowFingerprint {
        self.names.of(flow)
    }

    /// The names of `flows`, at most `N`, but for those to `skip`; their slots are in the caches then.
    pub(crate) fn names<const N: usize>(
        &self,
        flows: &[Flow],
        skip: impl Fn(&Flow) -> bool,
    ) -> [Option<FlowFingerprint>; N] {
        let mut names = [None; N];
        for (name, flow) in names.iter_mut().zip(flows).filter(|(_, flow)| !skip(flow)) {
            *name = Some(self.names.of(flow));
        }
        self.slots.warm(&names);
        names
    }

    /// Looks at a flow.
    pub(crate) fn see(&mut self, name: FlowFingerprint, flow: &Flow) -> FlowUpdate {
        let now = PackedCounters::new(name, flow, self.reading);
        match self.slots.get_mut(name) {
            Some(slot) => {
                let before = std::mem::replace(slot, now);
                let reading = usize::from(before.reading() - 1);
                FlowUpdate { delta: before.gain(&now, flow), before: Some(self.readings[reading]) }
            }
            None => {
                self.slots.put(name, now);
                FlowUpdate { delta: Some(all(flow)), before: None }
            }
        }
    }

    /// Looks at a flow for the last time and forgets it.
    pub(crate) fn take(&mut self, name: FlowFingerprint, flow: &Flow) -> Option<Delta> {
        match self.slots.remove(name) {
            Some(before) => before.gain(&PackedCounters::new(name, flow, self.reading), flow),
            None => Some(all(flow)),
        }
    }

    /// Takes a flow back, with all its gains told.
    pub(crate) fn put(&mut self, flow: &Flow) {
        let name = self.names.of(flow);
        self.slots.put(name, PackedCounters::new(name, flow, self.reading));
    }

    /// What the rules have taken of a flow.
    pub(crate) fn tally(&self, flow: &Flow) -> FlowContribution {
        if self.marks.is_empty() {
            return FlowContribution::default();
        }
        self.marks.get(&self.names.of(flow)).map(|mark| mark.tally.clone()).unwrap_or_default()
    }

    /// Returns true if an open flow has gained enough to be shown to the rules between its records.
    pub(crate) fn show(&mut self, flow: &Flow) -> bool {
        // Most flows never get that far.
        if flow.up.bytes < LIVE_BYTES
            && flow.down.bytes < LIVE_BYTES
            && u64::from(flow.messages) < LIVE_MESSAGES
        {
            return false;
        }
        let mark =
            || KeyedContribution { key: flow.key, first: flow.first, tally: FlowContribution::default() };
        self.marks.entry(self.names.of(flow)).or_insert_with(mark).tally.show(&Quantities::of(flow))
    }

    /// Notes what the rules have taken of a flow.
    pub(crate) fn mark(&mut self, flow: &Flow, tally: FlowContribution) {
        if !tally.is_empty() {
            self.marks
                .insert(self.names.of(flow), KeyedContribution { key: flow.key, first: flow.first, tally });
        }
    }

    /// The rules have other numbers now.
    pub(crate) fn renumber(&mut self, number: impl Fn(usize) -> Option<usize>) {
        self.marks.values_mut().for_each(|mark| mark.tally.renumber(&number));
    }

    /// What the rules have taken of which flow.
    pub(crate) fn tallies(&self) -> impl Iterator<Item = (FlowKey, Time, &FlowContribution)> {
        self.marks.values().map(|mark| (mark.key, mark.first, &mark.tally))
    }

    /// After a flow's last record.
    pub(crate) fn unmark(&mut self, flow: &Flow) {
        if !self.marks.is_empty() {
            self.marks.remove(&self.names.of(flow));
        }
    }

    /// Flows held.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Flows that were forgotten without having been taken.
    pub(crate) fn vanished(&self) -> u64 {
        self.vanished
    }

    /// Forgets every flow.
    pub(crate) fn clear(&mut self) {
        self.slots = CompactTable::default();
    }

    fn forget(&mut self) {
        let (held, current) = (self.slots.len(), self.reading);
        let Self { slots, marks, .. } = self;
        slots.retain(|name, slot| {
            // The reading that begins has not shown it yet.
            let missed = (READINGS + current - slot.reading()) % READINGS > PATIENCE + 1;
            if missed {
                marks.remove(&name);
            }
            !missed
        });
        self.vanished += (held - slots.len()) as u64;
    }
}

/// All that a flow has is its gain.
pub(crate) fn all(flow: &Flow) -> Delta {
    let messages = u64::from(flow.messages);
    Delta { key: flow.key, up: reached(&flow.up), down: reached(&flow.down), messages, new_flow: true }
}

fn reached(direction: &DirectionStats) -> CounterDelta {
    CounterDelta { packets: direction.packets, bytes: direction.bytes }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        eval::contribution::Counted,
        fixture::{self, at},
        flow::class::FlowClasses,
    };

    fn flow() -> Flow {
        fixture::flow("10.0.0.1:4000", "9.9.9.9:25")
    }

    fn see(table: &mut LiveFlowTable, flow: &Flow) -> FlowUpdate {
        table.see(table.name(flow), flow)
    }

    fn take(table: &mut LiveFlowTable, flow: &Flow) -> Option<Delta> {
        table.take(table.name(flow), flow)
    }

    /// One of 300 flows: 20 clients, 5 beginnings of each of 3 ports.
    fn numbered(n: u64) -> Flow {
        let flow = fixture::flow(&format!("10.0.0.{}:{}", n % 20, 4_000 + n / 20 % 3), "9.9.9.9:25");
        Flow { first: at(n / 60), ..flow }
    }

    /// What may happen to a flow, by its number; gains are added to its counters before.
    #[derive(Clone, Debug)]
    enum Step {
        Begin,
        See(u64, [u64; 4], u32),
        Take(u64, [u64; 4], u32),
        /// As if it had ended and could not be taken out.
        TakeAndPut(u64, [u64; 4], u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let number = || 0..300u64;
        let gain = |most: u64| prop_oneof![3 => Just(0), 3 => 0..2_000u64, 1 => 0..most];
        let gains = move || (gain(1 << 40), gain(1 << 48), gain(1 << 40), gain(1 << 48));
        let gains = move || gains().prop_map(|(a, b, c, d)| [a, b, c, d]);
        let messages = || prop_oneof![Just(0), any::<u32>()];
        let step = prop_oneof![
            1 => Just(Step::Begin),
            30 => (number(), gains(), messages()).prop_map(|(n, gains, more)| Step::See(n, gains, more)),
            5 => (number(), gains(), messages()).prop_map(|(n, gains, more)| Step::Take(n, gains, more)),
            2 => (number(), gains(), messages()).prop_map(|(n, gains, more)| Step::TakeAndPut(n, gains, more)),
        ];
        prop::collection::vec(step, 1..2_000)
    }

    /// A flow as a plain map remembers it.
    #[derive(Clone, Copy, Default)]
    struct Plain {
        counters: [u64; 4],
        messages: u32,
        /// Its last reading; none while it is not held.
        reading: Option<u64>,
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        /// Every gain is what a plain map of whole counters says.
        #[test]
        fn it_tells_what_a_plain_map_tells(steps in steps()) {
            let (mut table, mut plain) = (LiveFlowTable::default(), HashMap::<u64, Plain>::new());
            let mut reading = 0;
            for step in steps {
                let (Step::See(n, gains, more) | Step::Take(n, gains, more) | Step::TakeAndPut(n, gains, more)) = step
                else {
                    reading += 1;
                    table.begin(at(reading));
                    if reading % u64::from(PATIENCE) == u64::from(PATIENCE) - 1 {
                        let patience = u64::from(PATIENCE) + 1;
                        let old = |plain: &Plain| plain.reading.is_some_and(|last| reading - last > patience);
                        plain.values_mut().filter(|plain| old(plain)).for_each(|plain| plain.reading = None);
                    }
                    continue;
                };
                let past = plain.entry(n).or_default();
                let now = Plain {
                    counters: std::array::from_fn(|way| past.counters[way].wrapping_add(gains[way])),
                    messages: past.messages.wrapping_add(more),
                    reading: if matches!(step, Step::Take(..)) { None } else { Some(reading) },
                };
                let before = std::mem::replace(past, now);
                let mut flow = Flow { messages: now.messages, ..numbered(n) };
                [flow.up.packets, flow.up.bytes, flow.down.packets, flow.down.bytes] = now.counters;
                let told = match step {
                    Step::See(..) => {
                        let seen = see(&mut table, &flow);
                        prop_assert_eq!(seen.before, before.reading.map(at));
                        seen.delta
                    }
                    _ => take(&mut table, &flow),
                };
                if matches!(step, Step::TakeAndPut(..)) {
                    table.put(&flow);
                }
                let (gains, more) = if before.reading.is_some() { (gains, more) } else { (now.counters, now.messages) };
                let gained = before.reading.is_none() || gains != [0; 4] || more != 0;
                prop_assert_eq!(told.is_some(), gained);
                if let Some(delta) = told {
                    prop_assert_eq!([delta.up.packets, delta.up.bytes, delta.down.packets, delta.down.bytes], gains);
                    prop_assert_eq!((delta.messages, delta.new_flow), (u64::from(more), before.reading.is_none()));
                }
                prop_assert_eq!(table.len(), plain.values().filter(|plain| plain.reading.is_some()).count());
            }
        }
    }

    #[test]
    fn only_gains_are_told() {
        let mut table = LiveFlowTable::default();
        let mut flow = flow();
        let first = see(&mut table, &flow).delta.unwrap();
        assert_eq!(
            (first.up, first.messages, first.new_flow),
            (CounterDelta { packets: 10, bytes: 2_000 }, 1, true)
        );
        assert_eq!(see(&mut table, &flow).delta, None);
        (flow.down.packets, flow.down.bytes) = (11, 2_052);
        let second = see(&mut table, &flow).delta.unwrap();
        assert_eq!(
            (second.up, second.down),
            (CounterDelta::default(), CounterDelta { packets: 1, bytes: 52 })
        );
        assert_eq!((second.messages, second.new_flow), (0, false));
        flow.up.packets += 1;
        assert_eq!(take(&mut table, &flow).unwrap().up, CounterDelta { packets: 1, bytes: 0 });
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn another_beginning_is_another_flow() {
        let mut table = LiveFlowTable::default();
        see(&mut table, &flow());
        let new = Flow { first: at(101), ..flow() };
        assert!(see(&mut table, &new).delta.unwrap().new_flow);
        assert_eq!((take(&mut table, &flow()), take(&mut table, &new)), (None, None), "both were booked");
    }

    #[test]
    fn a_flow_is_forgotten_only_when_many_readings_missed_it() {
        for misses in 0..3 * PATIENCE {
            let mut table = LiveFlowTable::default();
            table.begin(at(1));
            see(&mut table, &flow());
            for reading in 0..misses {
                table.begin(at(2 + u64::from(reading)));
            }
            table.begin(at(100));
            let seen = see(&mut table, &flow());
            match seen.before {
                Some(before) => assert_eq!((before, seen.delta, table.vanished()), (at(1), None, 0)),
                None => assert_eq!((seen.delta.unwrap().new_flow, table.vanished()), (true, 1)),
            }
            assert!(misses > PATIENCE || seen.before.is_some(), "{misses}");
            assert!(misses <= 2 * PATIENCE || seen.before.is_none(), "{misses}");
        }
    }

    #[test]
    fn new_is_what_began_well_after_the_last_reading() {
        let begun = |table: &LiveFlowTable, second| table.is_new(&Flow { first: at(second), ..flow() });
        let mut table = LiveFlowTable::default();
        assert!(!begun(&table, 1), "no reading is on");
        table.begin(at(100));
        assert!(begun(&table, 99), "it is the first");
        table.begin(at(110));
        assert_eq!([100, 101, 102, 110].map(|second| begun(&table, second)), [false, false, true, true]);
        // The last reading of another process is the last one.
        let mut table = LiveFlowTable::default();
        table.restore(at(100), [1, 2], &[]);
        table.again(at(105));
        table.begin(at(110));
        assert_eq!([102, 106, 107].map(|second| begun(&table, second)), [false, false, true]);
    }

    #[test]
    fn marks_stay_with_the_flow_they_were_made_for() {
        let mut table = LiveFlowTable::default();
        let mut tally = FlowContribution::default();
        tally.set(3, Counted { kinds: FlowClasses::FLOWS, ..Counted::default() });
        table.mark(&flow(), tally.clone());
        let other = Flow { first: at(99), ..flow() };
        assert_eq!([table.tally(&flow()), table.tally(&other)], [tally.clone(), FlowContribution::default()]);
        table.unmark(&other);
        assert_eq!(table.tally(&flow()), tally);
        table.unmark(&flow());
        assert_eq!(table.tally(&flow()), FlowContribution::default());
    }

    #[test]
    fn a_flow_is_shown_each_time_it_gained_enough() {
        let mut table = LiveFlowTable::default();
        let mut flow = flow();
        assert!(!table.show(&flow));
        flow.up.bytes = LIVE_BYTES;
        assert!(table.show(&flow) && !table.show(&flow));
        flow.messages = 100;
        assert!(table.show(&flow) && !table.show(&flow));
    }
}
