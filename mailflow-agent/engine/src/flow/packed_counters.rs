//! Last observed counters of a live flow, packed into 32 bytes.

use super::{
    delta::{CounterDelta, Delta},
    fingerprint::FlowFingerprint,
    record::{DirectionStats, Flow},
};

/// Last observed counters of a live flow, modulo their bit widths.
///
/// A delta is a difference modulo the bit width, which is right while no counter gains as much between two polls
/// that show the flow. These are at most 17 polls of 60 s apart (`table.rs`). At 400 Gb/s that is 2^45.6 bytes of
/// 2^48, and with the shortest packets (84 bytes on the wire) 2^39.2 packets of 2^40. Messages have the full width
/// of the kernel's counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct PackedCounters {
    /// Bytes in the lower 48 bits, and the lower 16 bits of the packets above.
    up: u64,
    down: u64,
    /// Upper 24 bits of the packets up and down, and the poll number.
    upper_packets: u64,
    /// Low part of the fingerprint.
    low: u32,
    messages: u32,
}

const _: () = assert!(size_of::<PackedCounters>() == 32, "millions of these are held");

const BYTES_MASK: u64 = (1 << 48) - 1;
const PACKETS_MASK: u64 = (1 << 40) - 1;
const POLL_SHIFT: u32 = 48;

impl PackedCounters {
    /// Packs the counters of `flow` at this poll.
    #[inline]
    pub(crate) fn new(fingerprint: FlowFingerprint, flow: &Flow, poll: u8) -> Self {
        let packed = |packed: &DirectionStats| packed.bytes & BYTES_MASK | packed.packets << 48;
        let upper_packets = |packed: &DirectionStats| (packed.packets & PACKETS_MASK) >> 16;
        Self {
            low: fingerprint.low,
            messages: flow.messages,
            up: packed(&flow.up),
            down: packed(&flow.down),
            upper_packets: upper_packets(&flow.up)
                | upper_packets(&flow.down) << 24
                | u64::from(poll) << POLL_SHIFT,
        }
    }

    /// Returns the words for a checkpoint, without the poll number.
    pub(crate) fn words(&self) -> [u64; 4] {
        let upper_packets = self.upper_packets & ((1 << POLL_SHIFT) - 1);
        [self.up, self.down, upper_packets, u64::from(self.low) << 32 | u64::from(self.messages)]
    }

    /// Returns the counters of a checkpoint, observed at this poll.
    pub(crate) fn from_words([up, down, upper_packets, low_and_messages]: [u64; 4], poll: u8) -> Self {
        let upper_packets = upper_packets & ((1 << POLL_SHIFT) - 1) | u64::from(poll) << POLL_SHIFT;
        Self {
            up,
            down,
            upper_packets,
            low: (low_and_messages >> 32) as u32,
            messages: low_and_messages as u32,
        }
    }

    #[inline]
    pub(crate) fn low(&self) -> u32 {
        self.low
    }

    /// Returns bits of both ends of the struct, which may lie in two cache lines.
    #[inline]
    pub(crate) fn prefetch(&self) -> u64 {
        self.up ^ u64::from(self.messages)
    }

    /// Returns the number of the last poll that showed the flow.
    #[inline]
    pub(crate) fn poll(&self) -> u8 {
        (self.upper_packets >> POLL_SHIFT) as u8
    }

    /// Returns true if the slot is removed.
    #[inline]
    pub(crate) fn is_removed(&self) -> bool {
        self.poll() == 0
    }

    /// Marks the slot as removed; the fingerprint stays.
    #[inline]
    pub(crate) fn mark_removed(&mut self) {
        self.upper_packets &= (1 << POLL_SHIFT) - 1;
    }

    /// Returns the delta of `flow` from `self` to `now`, or `None` if no counter changed.
    #[inline]
    pub(crate) fn delta_to(&self, now: &PackedCounters, flow: &Flow) -> Option<Delta> {
        let same = (self.up, self.down, self.messages) == (now.up, now.down, now.messages)
            && (self.upper_packets ^ now.upper_packets) << (64 - POLL_SHIFT) == 0;
        if same {
            return None;
        }
        let counter_delta = |from: (u64, u64), to: (u64, u64)| CounterDelta {
            packets: to.0.wrapping_sub(from.0) & PACKETS_MASK,
            bytes: to.1.wrapping_sub(from.1) & BYTES_MASK,
        };
        Some(Delta {
            key: flow.key,
            up: counter_delta(self.up(), now.up()),
            down: counter_delta(self.down(), now.down()),
            messages: u64::from(now.messages.wrapping_sub(self.messages)),
            new_flow: false,
        })
    }

    fn up(&self) -> (u64, u64) {
        (self.up >> 48 | self.upper_packets << 40 >> 24, self.up & BYTES_MASK)
    }

    fn down(&self) -> (u64, u64) {
        (self.down >> 48 | self.upper_packets << 16 >> 40 << 16, self.down & BYTES_MASK)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixture;

    fn flow(counters: [u64; 4], messages: u32) -> Flow {
        let mut flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
        [flow.up.packets, flow.up.bytes, flow.down.packets, flow.down.bytes] = counters;
        Flow { messages, ..flow }
    }

    proptest! {
        /// Deltas are right from any start, also across an overflow of the bit width.
        #[test]
        fn gains_are_what_was_added(
            begin in prop::array::uniform4(any::<u64>()),
            increments in (0..PACKETS_MASK, 0..BYTES_MASK, 0..PACKETS_MASK, 0..BYTES_MASK),
            messages in any::<[u32; 2]>(),
            polls in any::<[u8; 2]>(),
        ) {
            let increments = [increments.0, increments.1, increments.2, increments.3];
            let mut now = begin;
            now.iter_mut().zip(increments).for_each(|(counter, counter_delta)| *counter = counter.wrapping_add(counter_delta));
            let (past, now) = (flow(begin, messages[0]), flow(now, messages[0].wrapping_add(messages[1])));
            let fingerprint = FlowFingerprint { high: 7, low: 9 };
            let [before, after] = [PackedCounters::new(fingerprint, &past, polls[0]), PackedCounters::new(fingerprint, &now, polls[1])];
            prop_assert_eq!((before.low(), before.poll()), (fingerprint.low, polls[0]));
            let delta = before.delta_to(&after, &now).unwrap();
            prop_assert_eq!([delta.up.packets, delta.up.bytes, delta.down.packets, delta.down.bytes], increments);
            prop_assert_eq!((delta.messages, delta.new_flow), (u64::from(messages[1]), false));
            prop_assert_eq!(after.delta_to(&PackedCounters::new(fingerprint, &now, polls[0]), &now), None);
        }
    }

    #[test]
    fn each_counter_alone_is_a_gain() {
        let slot = |counters, messages| {
            PackedCounters::new(FlowFingerprint::default(), &flow(counters, messages), 1)
        };
        let zero = slot([0; 4], 0);
        for n in 0..4 {
            let high = if n % 2 == 0 { 39 } else { 47 };
            for bit in [0, 15, 16, high] {
                let mut counters = [0; 4];
                counters[n] = 1 << bit;
                assert!(zero.delta_to(&slot(counters, 0), &flow(counters, 0)).is_some(), "{n} {bit}");
            }
        }
        assert!(zero.delta_to(&slot([0; 4], 1), &flow([0; 4], 1)).is_some());
    }
}
