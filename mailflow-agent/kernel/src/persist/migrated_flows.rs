//! Flows that were open at a change of the maps: each continues here with its earlier counts.
//!
//! The program begins with empty maps, so a migrated flow has an entry from its next packet on, which begins
//! in the middle of its connection. The flow is the sum of both. Until that packet it has its earlier counts.

use std::{collections::HashMap, time::Duration};

use mailflow_common::{Facts, FlowKey};

use mailflow_engine::{
    flow::{DirectionStats, Flow},
    settings::Timeouts,
};

/// Migrated flows: the newest of each 5-tuple.
#[derive(Default)]
pub(crate) struct MigratedFlows {
    flows: HashMap<FlowKey, MigratedFlow>,
}

struct MigratedFlow {
    /// The flow at the migration.
    flow: Flow,
    state: MigrationState,
    /// True if the current scan has found its 5-tuple.
    found: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum MigrationState {
    /// Pending: no packet of its 5-tuple has come since.
    Pending,
    /// Continued: the entry of its 5-tuple is the same flow.
    Continued,
    /// Ended: the entry of its 5-tuple is another flow.
    Ended,
}

impl MigratedFlows {
    /// Returns true if there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Adds a flow. Of two flows on a 5-tuple the later may continue the earlier. If it does not, the earlier
    /// is returned: it has ended.
    pub(crate) fn add(&mut self, flow: Flow, timeouts: &Timeouts) -> Option<Flow> {
        let pending = |flow| MigratedFlow { flow, state: MigrationState::Pending, found: false };
        let Some(before) = self.flows.remove(&flow.key) else {
            self.flows.insert(flow.key, pending(flow));
            return None;
        };
        let (earlier, later) =
            if before.flow.first <= flow.first { (before.flow, flow) } else { (flow, before.flow) };
        let continued = continues(&earlier, &later, timeouts);
        let (newest, ended) = if continued { (merge(&earlier, later), None) } else { (later, Some(earlier)) };
        self.flows.insert(newest.key, pending(newest));
        ended
    }

    /// Begins a scan.
    pub(crate) fn begin_scan(&mut self) {
        self.flows.values_mut().for_each(|migrated| migrated.found = false);
    }

    /// Records that the scan has found an entry of this 5-tuple that cannot be visited yet.
    pub(crate) fn mark_found(&mut self, key: &FlowKey) {
        if let Some(migrated) = self.flows.get_mut(key) {
            migrated.found = true;
        }
    }

    /// Returns the first flow of an entry, with the migrated counts if it is the same flow.
    pub(crate) fn merge_entry(&mut self, flow: Flow, timeouts: &Timeouts) -> Flow {
        let Some(migrated) = self.flows.get_mut(&flow.key) else { return flow };
        migrated.found = true;
        if migrated.state == MigrationState::Pending {
            let continued = continues(&migrated.flow, &flow, timeouts);
            migrated.state = if continued { MigrationState::Continued } else { MigrationState::Ended };
        }
        if migrated.state == MigrationState::Continued { merge(&migrated.flow, flow) } else { flow }
    }

    /// Returns the flows without an entry, after a scan.
    pub(crate) fn without_entry(&self) -> impl Iterator<Item = &Flow> {
        let is_without_entry = |migrated: &&MigratedFlow| match migrated.state {
            MigrationState::Pending => !migrated.found,
            MigrationState::Continued => false,
            MigrationState::Ended => true,
        };
        self.flows.values().filter(is_without_entry).map(|migrated| &migrated.flow)
    }

    /// Returns all flows at the migration.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Flow> {
        self.flows.values().map(|migrated| &migrated.flow)
    }

    /// Returns the migrated counts of this flow.
    pub(crate) fn migrated_part(&self, flow: &Flow) -> Option<&Flow> {
        let migrated = self.flows.get(&flow.key)?;
        (migrated.flow.first == flow.first).then_some(&migrated.flow)
    }

    /// Returns true if this flow was migrated and has no entry any more, although its 5-tuple may have one.
    pub(crate) fn has_ended(&self, flow: &Flow) -> bool {
        let state = self.flows.get(&flow.key).map(|migrated| migrated.state);
        state == Some(MigrationState::Ended) && self.migrated_part(flow).is_some()
    }

    /// Removes this flow, and returns its counts at the migration.
    pub(crate) fn remove(&mut self, flow: &Flow) -> Option<Flow> {
        self.migrated_part(flow)?;
        self.flows.remove(&flow.key).map(|migrated| migrated.flow)
    }
}

/// Returns true if an entry that began later is the same flow, by the rules of the program.
fn continues(migrated: &Flow, later: &Flow, timeouts: &Timeouts) -> bool {
    let facts = &migrated.facts;
    // A SYN begins a new flow, unless it is a retransmission.
    later.first < migrated.last() + idle_timeout(timeouts, facts)
        && (later.facts.syn == 0 || facts.unanswered())
}

/// Returns the idle timeout of a flow with these facts.
fn idle_timeout(timeouts: &Timeouts, facts: &Facts) -> Duration {
    let open = if facts.unanswered() { timeouts.unanswered.min(timeouts.idle) } else { timeouts.idle };
    if facts.closed() { timeouts.closed.min(open) } else { open }
}

/// Returns the sum of a migrated flow and its entry.
fn merge(migrated: &Flow, entry: Flow) -> Flow {
    let direction = |one: &DirectionStats, other: &DirectionStats| DirectionStats {
        packets: one.packets + other.packets,
        bytes: one.bytes + other.bytes,
        payload: one.payload + other.payload,
        data_packets: one.data_packets + other.data_packets,
        data_bytes: one.data_bytes + other.data_bytes,
        last: one.last.max(other.last),
    };
    let (before, after) = (migrated.facts, entry.facts);
    // The class of the first payload stays.
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
        up: direction(&migrated.up, &entry.up),
        down: direction(&migrated.down, &entry.down),
        first: migrated.first,
        messages: migrated.messages.wrapping_add(entry.messages),
        rejected: migrated.rejected.wrapping_add(entry.rejected),
        mac: migrated.mac.or(entry.mac),
        interface: migrated.interface.or(entry.interface),
        facts,
    }
}

/// Returns the difference of a flow and a part of it.
pub(crate) fn subtract(flow: &Flow, part: &Flow) -> Flow {
    let direction = |one: &DirectionStats, other: &DirectionStats| DirectionStats {
        packets: one.packets.saturating_sub(other.packets),
        bytes: one.bytes.saturating_sub(other.bytes),
        payload: one.payload.saturating_sub(other.payload),
        data_packets: one.data_packets.saturating_sub(other.data_packets),
        data_bytes: one.data_bytes.saturating_sub(other.data_bytes),
        last: one.last,
    };
    Flow { up: direction(&flow.up, &part.up), down: direction(&flow.down, &part.down), ..flow.clone() }
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
        let direction = DirectionStats {
            packets,
            bytes: packets * 60,
            last: Some(at(last)),
            ..DirectionStats::default()
        };
        let key = FlowKey { client_port: 4_000, server_port: 25, ..FlowKey::default() };
        Flow {
            key,
            up: direction,
            down: DirectionStats::default(),
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
    fn an_entry_without_a_syn_continues_a_migrated_flow() {
        let mut migrated = MigratedFlows::default();
        assert_eq!(migrated.add(flow(10, 20, 7, OPEN), &TIMEOUTS), None);
        migrated.begin_scan();
        assert_eq!(migrated.without_entry().count(), 1, "until a packet comes it is shown as it was");
        let joined = migrated.merge_entry(flow(30, 40, 3, MIDDLE), &TIMEOUTS);
        assert_eq!((joined.first, joined.up.packets, joined.facts.syn), (flow(10, 0, 0, OPEN).first, 10, 1));
        assert_eq!(migrated.without_entry().count(), 0);
        assert_eq!(subtract(&joined, migrated.migrated_part(&joined).unwrap()).up.packets, 3);
        // The entry still belongs to the flow when the flow has ended, until it is evicted.
        let again = migrated.merge_entry(flow(30, 500, 4, Facts { syn: 1, ..MIDDLE }), &TIMEOUTS);
        assert_eq!(again.up.packets, 11);
        assert!(!migrated.has_ended(&again) && migrated.remove(&again).is_some() && migrated.is_empty());
    }

    #[test]
    fn a_syn_or_a_timeout_ends_a_migrated_flow() {
        for (before, later) in [
            // A SYN on a connection that was answered.
            (flow(10, 20, 7, OPEN), flow(30, 30, 1, Facts { syn: 1, ..Facts::NONE })),
            // A packet long after the end.
            (flow(10, 20, 7, Facts { reset: 1, ..OPEN }), flow(25, 25, 1, MIDDLE)),
            (flow(10, 20, 7, OPEN), flow(320, 320, 1, MIDDLE)),
        ] {
            let mut migrated = MigratedFlows::default();
            migrated.add(before.clone(), &TIMEOUTS);
            migrated.begin_scan();
            assert_eq!(migrated.merge_entry(later.clone(), &TIMEOUTS), later);
            assert!(migrated.has_ended(&before) && !migrated.has_ended(&later));
            assert_eq!(migrated.without_entry().collect::<Vec<_>>(), [&before], "it gets its own end");
            assert_eq!(migrated.remove(&later), None);
        }
        // A SYN that is sent again, and the last packet of an end.
        let syn = Facts { syn: 1, ..Facts::NONE };
        for (before, later) in [
            (flow(10, 20, 1, syn), flow(21, 21, 1, syn)),
            (flow(10, 20, 7, Facts { fin_up: 1, fin_down: 1, ..OPEN }), flow(21, 21, 1, MIDDLE)),
        ] {
            let mut migrated = MigratedFlows::default();
            migrated.add(before.clone(), &TIMEOUTS);
            assert_eq!(migrated.merge_entry(later, &TIMEOUTS).first, before.first);
        }
    }

    #[test]
    fn a_closed_flow_ends_at_the_idle_timeout_at_the_latest() {
        let timeouts = Timeouts { closed: Duration::from_secs(600), ..TIMEOUTS };
        let closed = flow(10, 20, 7, Facts { reset: 1, ..OPEN });
        for (later, continued) in [(319, true), (320, false)] {
            let mut migrated = MigratedFlows::default();
            migrated.add(closed.clone(), &timeouts);
            let joined = migrated.merge_entry(flow(later, later, 1, MIDDLE), &timeouts);
            assert_eq!(joined.first == closed.first, continued, "after {later} s");
        }
    }

    #[test]
    fn of_two_flows_on_a_5_tuple_the_later_continues() {
        let (one, other) = (flow(10, 20, 7, OPEN), flow(30, 40, 3, MIDDLE));
        for order in [[&one, &other], [&other, &one]] {
            let mut migrated = MigratedFlows::default();
            assert!(order.into_iter().all(|flow| migrated.add(flow.clone(), &TIMEOUTS).is_none()));
            assert_eq!(migrated.all().next().unwrap().up.packets, 10);
        }
        let mut migrated = MigratedFlows::default();
        migrated.add(one.clone(), &TIMEOUTS);
        let next = flow(30, 40, 3, Facts { syn: 1, ..MIDDLE });
        assert_eq!(migrated.add(next, &TIMEOUTS), Some(one));
    }
}
