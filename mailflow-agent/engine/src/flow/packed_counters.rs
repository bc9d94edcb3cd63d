//! A live flow as it was last seen, in 32 bytes beside half of its name.

use super::{
    delta::{CounterDelta, Delta},
    fingerprint::FlowFingerprint,
    record::{DirectionStats, Flow},
};

/// What tells a flow's gains: its counters as they were, modulo what there is room for.
///
/// A gain is the difference modulo the same, which is right as long as nothing gains that much between
/// two readings that show the flow. Those are at most 17 polls of 60 s apart (`table.rs`): at 400 Gb/s
/// 2^45.6 bytes of 2^48, and at 84 bytes of the wire for the shortest packet 2^39.2 of 2^40. Messages
/// have all the bits that the kernel gives them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct PackedCounters {
    /// Bytes in the lower 48 bits, and the lower 16 of the packets.
    up: u64,
    down: u64,
    /// The upper 24 bits of the packets up and down, and the reading.
    rest: u64,
    /// The lower part of the flow's name.
    low: u32,
    messages: u32,
}

const _: () = assert!(size_of::<PackedCounters>() == 32, "millions of these are held");

const BYTES: u64 = (1 << 48) - 1;
const PACKETS: u64 = (1 << 40) - 1;
const READING: u32 = 48;

impl PackedCounters {
    /// `flow` as it is now, seen in this reading.
    #[inline]
    pub(crate) fn new(name: FlowFingerprint, flow: &Flow, reading: u8) -> Self {
        let way = |way: &DirectionStats| way.bytes & BYTES | way.packets << 48;
        let rest = |way: &DirectionStats| (way.packets & PACKETS) >> 16;
        Self {
            low: name.low,
            messages: flow.messages,
            up: way(&flow.up),
            down: way(&flow.down),
            rest: rest(&flow.up) | rest(&flow.down) << 24 | u64::from(reading) << READING,
        }
    }

    /// Itself in words, without the reading.
    pub(crate) fn words(&self) -> [u64; 4] {
        let rest = self.rest & ((1 << READING) - 1);
        [self.up, self.down, rest, u64::from(self.low) << 32 | u64::from(self.messages)]
    }

    /// From its words, seen in this reading.
    pub(crate) fn from_words([up, down, rest, ends]: [u64; 4], reading: u8) -> Self {
        let rest = rest & ((1 << READING) - 1) | u64::from(reading) << READING;
        Self { up, down, rest, low: (ends >> 32) as u32, messages: ends as u32 }
    }

    #[inline]
    pub(crate) fn low(&self) -> u32 {
        self.low
    }

    /// Something of both its ends, which may lie in two cache lines.
    #[inline]
    pub(crate) fn touch(&self) -> u64 {
        self.up ^ u64::from(self.messages)
    }

    /// The last reading that showed it.
    #[inline]
    pub(crate) fn reading(&self) -> u8 {
        (self.rest >> READING) as u8
    }

    /// Returns true if no reading shows it any more.
    #[inline]
    pub(crate) fn is_gone(&self) -> bool {
        self.reading() == 0
    }

    /// No reading shows it any more; it keeps its name.
    #[inline]
    pub(crate) fn go(&mut self) {
        self.rest &= (1 << READING) - 1;
    }

    /// What `flow` gained from `self` to `now`, if anything.
    #[inline]
    pub(crate) fn gain(&self, now: &PackedCounters, flow: &Flow) -> Option<Delta> {
        let same = (self.up, self.down, self.messages) == (now.up, now.down, now.messages)
            && (self.rest ^ now.rest) << (64 - READING) == 0;
        if same {
            return None;
        }
        let gain = |from: (u64, u64), to: (u64, u64)| CounterDelta {
            packets: to.0.wrapping_sub(from.0) & PACKETS,
            bytes: to.1.wrapping_sub(from.1) & BYTES,
        };
        Some(Delta {
            key: flow.key,
            up: gain(self.up(), now.up()),
            down: gain(self.down(), now.down()),
            messages: u64::from(now.messages.wrapping_sub(self.messages)),
            new_flow: false,
        })
    }

    fn up(&self) -> (u64, u64) {
        (self.up >> 48 | self.rest << 40 >> 24, self.up & BYTES)
    }

    fn down(&self) -> (u64, u64) {
        (self.down >> 48 | self.rest << 16 >> 40 << 16, self.down & BYTES)
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
        /// From anywhere, and past the end of what there is room for.
        #[test]
        fn gains_are_what_was_added(
            begin in prop::array::uniform4(any::<u64>()),
            gains in (0..PACKETS, 0..BYTES, 0..PACKETS, 0..BYTES),
            messages in any::<[u32; 2]>(),
            readings in any::<[u8; 2]>(),
        ) {
            let gains = [gains.0, gains.1, gains.2, gains.3];
            let mut now = begin;
            now.iter_mut().zip(gains).for_each(|(counter, gain)| *counter = counter.wrapping_add(gain));
            let (past, now) = (flow(begin, messages[0]), flow(now, messages[0].wrapping_add(messages[1])));
            let name = FlowFingerprint { high: 7, low: 9 };
            let [before, after] = [PackedCounters::new(name, &past, readings[0]), PackedCounters::new(name, &now, readings[1])];
            prop_assert_eq!((before.low(), before.reading()), (name.low, readings[0]));
            let delta = before.gain(&after, &now).unwrap();
            prop_assert_eq!([delta.up.packets, delta.up.bytes, delta.down.packets, delta.down.bytes], gains);
            prop_assert_eq!((delta.messages, delta.new_flow), (u64::from(messages[1]), false));
            prop_assert_eq!(after.gain(&PackedCounters::new(name, &now, readings[0]), &now), None);
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
                assert!(zero.gain(&slot(counters, 0), &flow(counters, 0)).is_some(), "{n} {bit}");
            }
        }
        assert!(zero.gain(&slot([0; 4], 1), &flow([0; 4], 1)).is_some());
    }
}
