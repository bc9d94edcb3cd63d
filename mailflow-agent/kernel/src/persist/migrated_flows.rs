//! Flows that were open at a change of the maps: each continues here with its earlier counts.
//!
//! The program begins with empty maps, so a migrated flow has an entry from its next packet on, which begins
//! in the middle of its connection. The flow is the sum of both. Until that packet it has its earlier counts.

use std::{collections::HashMap, time::Duration};

use mailflow_common::{Facts, FlowKey};

use mailflow_engine::{
    flow::{Direction, Flow},
    settings::Timeouts,
};

/// Migrated flows: the newest of each 5-tuple.
#[derive(Default)]
pub(crate) struct Carried {
    flows: HashMap<FlowKey, Carry>,
}

struct Carry {
    /// The flow at the migration.
    flow: Flow,
    standing: Standing,
    /// True if the current scan has found its 5-tuple.
    seen: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Pending: no packet of its 5-tuple has come since.
    Waits,
    /// Continued: the entry of its 5-tuple is the same flow.
    GoesOn,
    /// Ended: the entry of its 5-tuple is another flow.
    Over,
}

impl Carried {
    /// Returns true if there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Adds a flow. Of two flows on a 5-tuple the later may continue the earlier. If it does not, the earlier
    /// is returned: it has ended.
    pub(crate) fn add(&mut self, flow: Flow, timeouts: &Timeouts) -> Option<Flow> {
        let fresh = |flow| Carry { flow, standing: Standing::Waits, seen: false };
        let Some(before) = self.flows.remove(&flow.key) else {
            self.flows.insert(flow.key, fresh(flow));
            return None;
        };
        let (earlier, later) =
            if before.flow.first <= flow.first { (before.flow, flow) } else { (flow, before.flow) };
        let goes_on = goes_on(&earlier, &later, timeouts);
        let (newest, over) = if goes_on { (sum(&earlier, later), None) } else { (later, Some(earlier)) };
        self.flows.insert(newest.key, fresh(newest));
        over
    }

    /// Begins a scan.
    pub(crate) fn begin(&mut self) {
        self.flows.values_mut().for_each(|carry| carry.seen = false);
    }

    /// Records that the scan has found an entry of this 5-tuple that cannot be visited yet.
    pub(crate) fn pass(&mut self, key: &FlowKey) {
        if let Some(carry) = self.flows.get_mut(key) {
            carry.seen = true;
        }
    }

    /// Returns the first flow of an entry, with the migrated counts if it is the same flow.
    pub(crate) fn join(&mut self, flow: Flow, timeouts: &Timeouts) -> Flow {
        let Some(carry) = self.flows.get_mut(&flow.key) else { return flow };
        carry.seen = true;
        if carry.standing == Standing::Waits {
            let goes_on = goes_on(&carry.flow, &flow, timeouts);
            carry.standing = if goes_on { Standing::GoesOn } else { Standing::Over };
        }
        if carry.standing == Standing::GoesOn { sum(&carry.flow, flow) } else { flow }
    }

    /// Returns the flows without an entry, after a scan.
    pub(crate) fn alone(&self) -> impl Iterator<Item = &Flow> {
        let alone = |carry: &&Carry| match carry.standing {
            Standing::Waits => !carry.seen,
            Standing::GoesOn => false,
            Standing::Over => true,
        };
        self.flows.values().filter(alone).map(|carry| &carry.flow)
    }

    /// Returns all flows at the migration.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Flow> {
        self.flows.values().map(|carry| &carry.flow)
    }

    /// Returns the migrated counts of this flow.
    pub(crate) fn part(&self, flow: &Flow) -> Option<&Flow> {
        let carry = self.flows.get(&flow.key)?;
        (carry.flow.first == flow.first).then_some(&carry.flow)
    }

    /// Returns true if this flow was migrated and has no entry any more, although its 5-tuple may have one.
    pub(crate) fn is_over(&self, flow: &Flow) -> bool {
        let standing = self.flows.get(&flow.key).map(|carry| carry.standing);
        standing == Some(Standing::Over) && self.part(flow).is_some()
    }

    /// Removes this flow, and returns its counts at the migration.
    pub(crate) fn take(&mut self, flow: &Flow) -> Option<Flow> {
        self.part(flow)?;
        self.flows.remove(&flow.key).map(|carry| carry.flow)
    }
}

/// Returns true if an entry that began later is the same flow, by the rules of the program.
fn goes_on(carried: &Flow, later: &Flow, timeouts: &Timeouts) -> bool {
    let facts = &carried.facts;
    // A SYN begins a new flow, unless it is a retransmission.
    later.first < carried.last() + idle_timeout(timeouts, facts)
        && (later.facts.syn == 0 || facts.unanswered())
}

/// Returns the idle timeout of a flow with these facts.
fn idle_timeout(timeouts: &Timeouts, facts: &Facts) -> Duration {
    let open = if facts.unanswered() { timeouts.unanswered.min(timeouts.idle) } else { timeouts.idle };
    if facts.closed() { timeouts.closed.min(open) } else { open }
}

/// Returns the sum of a migrated flow and its entry.
fn sum(carried: &Flow, entry: Flow) -> Flow {
    let way = |one: &Direction, other: &Direction| Direction {
        packets: one.packets + other.packets,
        bytes: one.bytes + other.bytes,
        payload: one.payload + other.payload,
        data_packets: one.data_packets + other.data_packets,
        data_bytes: one.data_bytes + other.data_bytes,
        last: one.last.max(other.last),
    };
    let (before, after) = (carried.facts, entry.facts);
    // What was recognised at the beginning stays.
    let opening = |before: u8, after: u8| if before == 0 { after } else { before };
    let facts = Facts {
        syn: before.syn | after.syn,
        syn_ack: before.syn_ack | after.syn_ack,
        fin_up: before.fin_up | after.fin_up,
        fin_down: before.fin_down | after.fin_down,
        reset: before.reset | after.reset,
        seen: before.seen | after.seen,
        first_payload_up: opening(before.first_payload_up, after.first_payload_up),
        first_payload_down: opening(before.first_payload_down, after.first_payload_down),
        upgrade: before.upgrade.max(after.upgrade),
        inspected: before.inspected.max(after.inspected),
    };
    Flow {
        key: entry.key,
        up: way(&carried.up, &entry.up),
        down: way(&carried.down, &entry.down),
        first: carried.first,
        messages: carried.messages.wrapping_add(entry.messages),
        rejected: carried.rejected.wrapping_add(entry.rejected),
        mac: carried.mac.or(entry.mac),
        interface: carried.interface.or(entry.interface),
        facts,
    }
}

/// Returns the difference of a flow and a part of it.
pub(crate) fn less(flow: &Flow, part: &Flow) -> Flow {
    let way = |one: &Direction, other: &Direction| Direction {
        packets: one.packets.saturating_sub(other.packets),
        bytes: one.bytes.saturating_sub(other.bytes),
        payload: one.payload.saturating_sub(other.payload),
        data_packets: one.data_packets.saturating_sub(other.data_packets),
        data_bytes: one.data_bytes.saturating_sub(other.data_bytes),
        last: one.last,
    };
    Flow { up: way(&flow.up, &part.up), down: way(&flow.down, &part.down), ..flow.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailflow_engine::time::Time;

    const TIMEOUTS: Timeouts = Timeouts {
        closed: Duration::from_secs(5),
        unanswered: Duration::from_secs(30),
        idle: Duration::from_secs(300),
        active: Duration::from_secs(300),
    };

    fn flow(first: u64, last: u64, packets: u64, facts: Facts) -> Flow {
        let at = |seconds: u64| Time::from_nanos(seconds * 1_000_000_000);
        let way = Direction { packets, bytes: packets * 60, last: Some(at(last)), ..Direction::default() };
        let key = FlowKey { client_port: 4_000, server_port: 25, ..FlowKey::default() };
        Flow {
            key,
            up: way,
            down: Direction::default(),
            first: at(first),
            messages: 0,
            rejected: 0,
            mac: None,
            interface: None,
            facts,
        }
    }

    const OPEN: Facts = Facts { syn: 1, syn_ack: 1, seen: 1, ..Facts::NONE };
    const MIDDLE: Facts = Facts { seen: 1, ..Facts::NONE };

    #[test]
    fn an_entry_that_begins_in_the_middle_goes_on_with_what_was_carried() {
        let mut carried = Carried::default();
        assert_eq!(carried.add(flow(10, 20, 7, OPEN), &TIMEOUTS), None);
        carried.begin();
        assert_eq!(carried.alone().count(), 1, "until a packet comes it is shown as it was");
        let joined = carried.join(flow(30, 40, 3, MIDDLE), &TIMEOUTS);
        assert_eq!((joined.first, joined.up.packets, joined.facts.syn), (flow(10, 0, 0, OPEN).first, 10, 1));
        assert_eq!(carried.alone().count(), 0);
        assert_eq!(less(&joined, carried.part(&joined).unwrap()).up.packets, 3);
        // Its end may come later; what the entry becomes then is still its.
        let again = carried.join(flow(30, 500, 4, Facts { syn: 1, ..MIDDLE }), &TIMEOUTS);
        assert_eq!(again.up.packets, 11);
        assert!(!carried.is_over(&again) && carried.take(&again).is_some() && carried.is_empty());
    }

    #[test]
    fn another_flow_on_the_tuple_is_another_one() {
        for (before, later) in [
            // A SYN on a connection that was answered.
            (flow(10, 20, 7, OPEN), flow(30, 30, 1, Facts { syn: 1, ..Facts::NONE })),
            // A packet long after the end.
            (flow(10, 20, 7, Facts { reset: 1, ..OPEN }), flow(25, 25, 1, MIDDLE)),
            (flow(10, 20, 7, OPEN), flow(320, 320, 1, MIDDLE)),
        ] {
            let mut carried = Carried::default();
            carried.add(before.clone(), &TIMEOUTS);
            carried.begin();
            assert_eq!(carried.join(later.clone(), &TIMEOUTS), later);
            assert!(carried.is_over(&before) && !carried.is_over(&later));
            assert_eq!(carried.alone().collect::<Vec<_>>(), [&before], "it gets its own end");
            assert_eq!(carried.take(&later), None);
        }
        // A SYN that is sent again, and the last packet of an end.
        let syn = Facts { syn: 1, ..Facts::NONE };
        for (before, later) in [
            (flow(10, 20, 1, syn), flow(21, 21, 1, syn)),
            (flow(10, 20, 7, Facts { fin_up: 1, fin_down: 1, ..OPEN }), flow(21, 21, 1, MIDDLE)),
        ] {
            let mut carried = Carried::default();
            carried.add(before.clone(), &TIMEOUTS);
            assert_eq!(carried.join(later, &TIMEOUTS).first, before.first);
        }
    }

    #[test]
    fn a_flow_that_closed_is_over_no_later_than_a_silent_one() {
        let timeouts = Timeouts { closed: Duration::from_secs(600), ..TIMEOUTS };
        let closed = flow(10, 20, 7, Facts { reset: 1, ..OPEN });
        for (later, goes_on) in [(319, true), (320, false)] {
            let mut carried = Carried::default();
            carried.add(closed.clone(), &timeouts);
            let joined = carried.join(flow(later, later, 1, MIDDLE), &timeouts);
            assert_eq!(joined.first == closed.first, goes_on, "after {later} s");
        }
    }

    #[test]
    fn of_two_on_a_tuple_the_later_goes_on() {
        let (one, other) = (flow(10, 20, 7, OPEN), flow(30, 40, 3, MIDDLE));
        for order in [[&one, &other], [&other, &one]] {
            let mut carried = Carried::default();
            assert!(order.into_iter().all(|flow| carried.add(flow.clone(), &TIMEOUTS).is_none()));
            assert_eq!(carried.all().next().unwrap().up.packets, 10);
        }
        let mut carried = Carried::default();
        carried.add(one.clone(), &TIMEOUTS);
        let next = flow(30, 40, 3, Facts { syn: 1, ..MIDDLE });
        assert_eq!(carried.add(next, &TIMEOUTS), Some(one));
    }
}
