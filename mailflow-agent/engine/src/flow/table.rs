//! Table of live flows: the state between polls from which deltas are computed.

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

/// Consecutive polls that may miss a live flow before it is dropped. The table checks at each eighth poll, so it
/// may miss twice as many.
const MAX_MISSED_POLLS: u8 = 8;
/// Margin of the rounding of flow times: a flow that began later than this after the previous poll was not in that
/// poll.
const NEW_FLOW_MARGIN: Duration = Duration::from_secs(1);
/// Number of distinct poll numbers; the first is 1.
const POLL_NUMBERS: u8 = 4 * MAX_MISSED_POLLS;

/// Table of live flows.
#[derive(Debug)]
pub(crate) struct LiveFlowTable {
    slots: CompactTable,
    hasher: FingerprintHasher,
    /// Contributions of flows with several records, which are few. The fingerprint is a keyed hash already.
    contributions: HashMap<FlowFingerprint, KeyedContribution, BuildHasherDefault<DefaultHasher>>,
    /// Times of the last polls, by poll number.
    poll_times: [Time; POLL_NUMBERS as usize],
    poll: u8,
    /// Flows with a later first packet are new in this poll.
    new_after: Time,
    /// Most flows at once since the last release of memory.
    peak_flows: usize,
    lost: u64,
}

/// Contribution with the identity of its flow, as another process has other fingerprints.
#[derive(Debug)]
struct KeyedContribution {
    key: FlowKey,
    first: Time,
    contribution: FlowContribution,
}

/// Result of updating a flow.
#[derive(Debug)]
pub(crate) struct FlowUpdate {
    /// Delta of the flow; `None` without a change.
    pub(crate) delta: Option<Delta>,
    /// Time of the last poll that showed the flow.
    pub(crate) previous: Option<Time>,
}

impl Default for LiveFlowTable {
    fn default() -> Self {
        Self {
            slots: CompactTable::default(),
            hasher: FingerprintHasher::default(),
            contributions: HashMap::default(),
            poll_times: [Time::ZERO; POLL_NUMBERS as usize],
            poll: 1,
            new_after: Time::END,
            peak_flows: 0,
            lost: 0,
        }
    }
}

impl LiveFlowTable {
    /// Returns the seeds of the fingerprints, and fingerprint and packed counters of each flow.
    pub(crate) fn save(&self) -> ([u64; 2], Vec<[u64; 5]>) {
        let words = |(fingerprint, slot): (FlowFingerprint, &PackedCounters)| {
            let [up, down, upper_packets, low_and_messages] = slot.words();
            [fingerprint.high, up, down, upper_packets, low_and_messages]
        };
        (self.hasher.seeds(), self.slots.iter().map(words).collect())
    }

    /// Restores a checkpoint with the last poll at `now`.
    pub(crate) fn restore(&mut self, now: Time, seeds: [u64; 2], flows: &[[u64; 5]]) {
        *self = Self { hasher: FingerprintHasher::of_seeds(seeds), ..Self::default() };
        self.poll_times[usize::from(self.poll - 1)] = now;
        for [high, up, down, upper_packets, low_and_messages] in flows {
            let slot = PackedCounters::from_words([*up, *down, *upper_packets, *low_and_messages], self.poll);
            self.slots.insert(FlowFingerprint { high: *high, low: slot.low() }, slot);
        }
    }

    /// Begins a poll that the previous process made after the checkpoint. These polls use at most
    /// [`MAX_MISSED_POLLS`] numbers, so that flows are not dropped for being missed by them: when the numbers are
    /// used up, the two oldest polls are merged.
    pub(crate) fn begin_recovered_poll(&mut self, now: Time) {
        if self.poll + 1 < MAX_MISSED_POLLS {
            self.poll += 1;
        } else {
            for slot in self.slots.iter_mut().filter(|slot| slot.poll() > 1) {
                *slot = PackedCounters::from_words(slot.words(), slot.poll() - 1);
            }
            self.poll_times.copy_within(1..usize::from(self.poll), 0);
        }
        self.poll_times[usize::from(self.poll - 1)] = now;
    }

    /// Begins a poll. Drops flows that the last polls missed.
    pub(crate) fn begin_poll(&mut self, now: Time) {
        self.new_after = self.poll_times[usize::from(self.poll - 1)] + NEW_FLOW_MARGIN;
        self.poll = self.poll % POLL_NUMBERS + 1;
        self.poll_times[usize::from(self.poll - 1)] = now;
        self.peak_flows = self.peak_flows.max(self.slots.len());
        if self.poll.is_multiple_of(MAX_MISSED_POLLS) {
            self.remove_missed();
            self.slots.shrink(std::mem::take(&mut self.peak_flows));
        }
    }

    /// Returns true if no earlier poll can have shown the flow.
    pub(crate) fn is_new(&self, flow: &Flow) -> bool {
        flow.first > self.new_after
    }

    /// Returns the fingerprint of a flow.
    pub(crate) fn fingerprint(&self, flow: &Flow) -> FlowFingerprint {
        self.hasher.of(flow)
    }

    /// Returns the fingerprints of at most `N` flows, except those to `skip`, and prefetches their slots.
    pub(crate) fn fingerprints<const N: usize>(
        &self,
        flows: &[Flow],
        skip: impl Fn(&Flow) -> bool,
    ) -> [Option<FlowFingerprint>; N] {
        let mut fingerprints = [None; N];
        for (fingerprint, flow) in fingerprints.iter_mut().zip(flows).filter(|(_, flow)| !skip(flow)) {
            *fingerprint = Some(self.hasher.of(flow));
        }
        self.slots.prefetch(&fingerprints);
        fingerprints
    }

    /// Updates the counters of a flow.
    pub(crate) fn update(&mut self, fingerprint: FlowFingerprint, flow: &Flow) -> FlowUpdate {
        let now = PackedCounters::new(fingerprint, flow, self.poll);
        match self.slots.get_mut(fingerprint) {
            Some(slot) => {
                let previous = std::mem::replace(slot, now);
                let poll = usize::from(previous.poll() - 1);
                FlowUpdate { delta: previous.delta_to(&now, flow), previous: Some(self.poll_times[poll]) }
            }
            None => {
                self.slots.insert(fingerprint, now);
                FlowUpdate { delta: Some(first_delta(flow)), previous: None }
            }
        }
    }

    /// Removes a flow, and returns its last delta.
    pub(crate) fn remove(&mut self, fingerprint: FlowFingerprint, flow: &Flow) -> Option<Delta> {
        match self.slots.remove(fingerprint) {
            Some(previous) => previous.delta_to(&PackedCounters::new(fingerprint, flow, self.poll), flow),
            None => Some(first_delta(flow)),
        }
    }

    /// Inserts a flow whose delta is already emitted.
    pub(crate) fn insert(&mut self, flow: &Flow) {
        let fingerprint = self.hasher.of(flow);
        self.slots.insert(fingerprint, PackedCounters::new(fingerprint, flow, self.poll));
    }

    /// Returns the contribution of a flow.
    pub(crate) fn contribution(&self, flow: &Flow) -> FlowContribution {
        if self.contributions.is_empty() {
            return FlowContribution::default();
        }
        self.contributions
            .get(&self.hasher.of(flow))
            .map(|keyed| keyed.contribution.clone())
            .unwrap_or_default()
    }

    /// Returns true if an open flow has gained enough for a live update.
    pub(crate) fn has_live_update(&mut self, flow: &Flow) -> bool {
        // Most flows never reach these limits.
        if flow.up.bytes < LIVE_BYTES
            && flow.down.bytes < LIVE_BYTES
            && u64::from(flow.messages) < LIVE_MESSAGES
        {
            return false;
        }
        let keyed = || KeyedContribution {
            key: flow.key,
            first: flow.first,
            contribution: FlowContribution::default(),
        };
        self.contributions
            .entry(self.hasher.of(flow))
            .or_insert_with(keyed)
            .contribution
            .take_live_update(&Quantities::of(flow))
    }

    /// Stores the contribution of a flow.
    pub(crate) fn set_contribution(&mut self, flow: &Flow, contribution: FlowContribution) {
        if !contribution.is_empty() {
            self.contributions.insert(
                self.hasher.of(flow),
                KeyedContribution { key: flow.key, first: flow.first, contribution },
            );
        }
    }

    /// Changes the rule numbers of all contributions.
    pub(crate) fn renumber_rules(&mut self, number: impl Fn(usize) -> Option<usize>) {
        self.contributions.values_mut().for_each(|keyed| keyed.contribution.renumber_rules(&number));
    }

    /// Returns the contribution of each flow.
    pub(crate) fn all_contributions(&self) -> impl Iterator<Item = (FlowKey, Time, &FlowContribution)> {
        self.contributions.values().map(|keyed| (keyed.key, keyed.first, &keyed.contribution))
    }

    /// Removes the contribution of a flow after its last record.
    pub(crate) fn remove_contribution(&mut self, flow: &Flow) {
        if !self.contributions.is_empty() {
            self.contributions.remove(&self.hasher.of(flow));
        }
    }

    /// Returns the number of flows.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns the number of flows that were dropped without having been removed.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Removes all flows.
    pub(crate) fn clear(&mut self) {
        self.slots = CompactTable::default();
    }

    fn remove_missed(&mut self) {
        let (flows_before, poll) = (self.slots.len(), self.poll);
        let Self { slots, contributions, .. } = self;
        slots.retain(|fingerprint, slot| {
            // The poll that begins has not shown the flow yet.
            let is_missed = (POLL_NUMBERS + poll - slot.poll()) % POLL_NUMBERS > MAX_MISSED_POLLS + 1;
            if is_missed {
                contributions.remove(&fingerprint);
            }
            !is_missed
        });
        self.lost += (flows_before - slots.len()) as u64;
    }
}

/// Returns the first delta of a flow: all of its counters.
pub(crate) fn first_delta(flow: &Flow) -> Delta {
    let messages = u64::from(flow.messages);
    Delta { key: flow.key, up: totals(&flow.up), down: totals(&flow.down), messages, new_flow: true }
}

fn totals(direction: &DirectionStats) -> CounterDelta {
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

    fn update(table: &mut LiveFlowTable, flow: &Flow) -> FlowUpdate {
        table.update(table.fingerprint(flow), flow)
    }

    fn remove(table: &mut LiveFlowTable, flow: &Flow) -> Option<Delta> {
        table.remove(table.fingerprint(flow), flow)
    }

    /// Returns one of 300 flows: 20 clients, 3 ports, 5 start times of each.
    fn numbered(n: u64) -> Flow {
        let flow = fixture::flow(&format!("10.0.0.{}:{}", n % 20, 4_000 + n / 20 % 3), "9.9.9.9:25");
        Flow { first: at(n / 60), ..flow }
    }

    /// Operation on a flow, by its number. The increments are added to its counters before.
    #[derive(Clone, Debug)]
    enum Step {
        Begin,
        See(u64, [u64; 4], u32),
        Take(u64, [u64; 4], u32),
        /// The flow ended and was not evicted.
        TakeAndPut(u64, [u64; 4], u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let number = || 0..300u64;
        let gain = |peak_flows: u64| prop_oneof![3 => Just(0), 3 => 0..2_000u64, 1 => 0..peak_flows];
        let increments = move || (gain(1 << 40), gain(1 << 48), gain(1 << 40), gain(1 << 48));
        let increments = move || increments().prop_map(|(a, b, c, d)| [a, b, c, d]);
        let messages = || prop_oneof![Just(0), any::<u32>()];
        let step = prop_oneof![
            1 => Just(Step::Begin),
            30 => (number(), increments(), messages()).prop_map(|(n, increments, more)| Step::See(n, increments, more)),
            5 => (number(), increments(), messages()).prop_map(|(n, increments, more)| Step::Take(n, increments, more)),
            2 => (number(), increments(), messages()).prop_map(|(n, increments, more)| Step::TakeAndPut(n, increments, more)),
        ];
        prop::collection::vec(step, 1..2_000)
    }

    /// Flow of the reference model.
    #[derive(Clone, Copy, Default)]
    struct ModelFlow {
        counters: [u64; 4],
        messages: u32,
        /// Number of its last poll; `None` while the table does not hold it.
        poll: Option<u64>,
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        /// Each delta equals that of a reference model with full-width counters.
        #[test]
        fn deltas_equal_those_of_a_model(steps in steps()) {
            let (mut table, mut model) = (LiveFlowTable::default(), HashMap::<u64, ModelFlow>::new());
            let mut poll = 0;
            for step in steps {
                let (Step::See(n, increments, more) | Step::Take(n, increments, more) | Step::TakeAndPut(n, increments, more)) = step
                else {
                    poll += 1;
                    table.begin_poll(at(poll));
                    if poll % u64::from(MAX_MISSED_POLLS) == u64::from(MAX_MISSED_POLLS) - 1 {
                        let patience = u64::from(MAX_MISSED_POLLS) + 1;
                        let old = |model: &ModelFlow| model.poll.is_some_and(|last| poll - last > patience);
                        model.values_mut().filter(|model| old(model)).for_each(|model| model.poll = None);
                    }
                    continue;
                };
                let past = model.entry(n).or_default();
                let now = ModelFlow {
                    counters: std::array::from_fn(|way| past.counters[way].wrapping_add(increments[way])),
                    messages: past.messages.wrapping_add(more),
                    poll: if matches!(step, Step::Take(..)) { None } else { Some(poll) },
                };
                let previous = std::mem::replace(past, now);
                let mut flow = Flow { messages: now.messages, ..numbered(n) };
                [flow.up.packets, flow.up.bytes, flow.down.packets, flow.down.bytes] = now.counters;
                let delta = match step {
                    Step::See(..) => {
                        let update = update(&mut table, &flow);
                        prop_assert_eq!(update.previous, previous.poll.map(at));
                        update.delta
                    }
                    _ => remove(&mut table, &flow),
                };
                if matches!(step, Step::TakeAndPut(..)) {
                    table.insert(&flow);
                }
                let (increments, more) = if previous.poll.is_some() { (increments, more) } else { (now.counters, now.messages) };
                let has_delta = previous.poll.is_none() || increments != [0; 4] || more != 0;
                prop_assert_eq!(delta.is_some(), has_delta);
                if let Some(delta) = delta {
                    prop_assert_eq!([delta.up.packets, delta.up.bytes, delta.down.packets, delta.down.bytes], increments);
                    prop_assert_eq!((delta.messages, delta.new_flow), (u64::from(more), previous.poll.is_none()));
                }
                prop_assert_eq!(table.len(), model.values().filter(|model| model.poll.is_some()).count());
            }
        }
    }

    #[test]
    fn unchanged_counters_give_no_delta() {
        let mut table = LiveFlowTable::default();
        let mut flow = flow();
        let first = update(&mut table, &flow).delta.unwrap();
        assert_eq!(
            (first.up, first.messages, first.new_flow),
            (CounterDelta { packets: 10, bytes: 2_000 }, 1, true)
        );
        assert_eq!(update(&mut table, &flow).delta, None);
        (flow.down.packets, flow.down.bytes) = (11, 2_052);
        let second = update(&mut table, &flow).delta.unwrap();
        assert_eq!(
            (second.up, second.down),
            (CounterDelta::default(), CounterDelta { packets: 1, bytes: 52 })
        );
        assert_eq!((second.messages, second.new_flow), (0, false));
        flow.up.packets += 1;
        assert_eq!(remove(&mut table, &flow).unwrap().up, CounterDelta { packets: 1, bytes: 0 });
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn another_start_time_is_another_flow() {
        let mut table = LiveFlowTable::default();
        update(&mut table, &flow());
        let new = Flow { first: at(101), ..flow() };
        assert!(update(&mut table, &new).delta.unwrap().new_flow);
        assert_eq!((remove(&mut table, &flow()), remove(&mut table, &new)), (None, None), "both were booked");
    }

    #[test]
    fn a_flow_is_dropped_after_many_missed_polls() {
        for misses in 0..3 * MAX_MISSED_POLLS {
            let mut table = LiveFlowTable::default();
            table.begin_poll(at(1));
            update(&mut table, &flow());
            for poll in 0..misses {
                table.begin_poll(at(2 + u64::from(poll)));
            }
            table.begin_poll(at(100));
            let update = update(&mut table, &flow());
            match update.previous {
                Some(previous) => assert_eq!((previous, update.delta, table.lost()), (at(1), None, 0)),
                None => assert_eq!((update.delta.unwrap().new_flow, table.lost()), (true, 1)),
            }
            assert!(misses > MAX_MISSED_POLLS || update.previous.is_some(), "{misses}");
            assert!(misses <= 2 * MAX_MISSED_POLLS || update.previous.is_none(), "{misses}");
        }
    }

    #[test]
    fn flows_after_the_last_poll_and_its_margin_are_new() {
        let begun = |table: &LiveFlowTable, second| table.is_new(&Flow { first: at(second), ..flow() });
        let mut table = LiveFlowTable::default();
        assert!(!begun(&table, 1), "no reading is on");
        table.begin_poll(at(100));
        assert!(begun(&table, 99), "it is the first");
        table.begin_poll(at(110));
        assert_eq!([100, 101, 102, 110].map(|second| begun(&table, second)), [false, false, true, true]);
        // After a restore, the last poll of the previous process counts.
        let mut table = LiveFlowTable::default();
        table.restore(at(100), [1, 2], &[]);
        table.begin_recovered_poll(at(105));
        table.begin_poll(at(110));
        assert_eq!([102, 106, 107].map(|second| begun(&table, second)), [false, false, true]);
    }

    #[test]
    fn contributions_belong_to_one_flow() {
        let mut table = LiveFlowTable::default();
        let mut contribution = FlowContribution::default();
        contribution.set(3, Counted { classes: FlowClasses::FLOWS, ..Counted::default() });
        table.set_contribution(&flow(), contribution.clone());
        let other = Flow { first: at(99), ..flow() };
        assert_eq!(
            [table.contribution(&flow()), table.contribution(&other)],
            [contribution.clone(), FlowContribution::default()]
        );
        table.remove_contribution(&other);
        assert_eq!(table.contribution(&flow()), contribution);
        table.remove_contribution(&flow());
        assert_eq!(table.contribution(&flow()), FlowContribution::default());
    }

    #[test]
    fn each_large_gain_is_a_live_update() {
        let mut table = LiveFlowTable::default();
        let mut flow = flow();
        assert!(!table.has_live_update(&flow));
        flow.up.bytes = LIVE_BYTES;
        assert!(table.has_live_update(&flow) && !table.has_live_update(&flow));
        flow.messages = 100;
        assert!(table.has_live_update(&flow) && !table.has_live_update(&flow));
    }
}
