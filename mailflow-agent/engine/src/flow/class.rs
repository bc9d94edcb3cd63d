//! Flow classes: attempt, session, failed, delivering.

use bitflags::bitflags;
use serde::Serialize;

use super::{
    phase::RecordPhase,
    record::{Flow, FlowRecord},
};

/// Class of a flow, as its records show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum FlowClass {
    /// Every flow that the rule matches.
    Flows,
    /// Flows with a SYN.
    Attempts,
    /// Attempts with a SYN-ACK.
    Sessions,
    /// Attempts that ended without a session, or without a message.
    Failed,
    /// Sessions with at least one estimated message.
    Delivering,
}

impl FlowClass {
    /// All classes.
    pub const ALL: [FlowClass; 5] = [
        FlowClass::Flows,
        FlowClass::Attempts,
        FlowClass::Sessions,
        FlowClass::Failed,
        FlowClass::Delivering,
    ];

    /// Returns the name in configuration, alerts and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            FlowClass::Flows => "flows",
            FlowClass::Attempts => "attempts",
            FlowClass::Sessions => "sessions",
            FlowClass::Failed => "failed",
            FlowClass::Delivering => "delivering",
        }
    }
}

bitflags! {
    /// Set of flow classes.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub(crate) struct FlowClasses: u8 {
        /// Flow that the rule matches.
        const FLOWS = 1;
        /// Flow with a SYN.
        const ATTEMPTS = 1 << 1;
        /// Attempt with a SYN-ACK.
        const SESSIONS = 1 << 2;
        /// Attempt that ended without a session or without a message.
        const FAILED = 1 << 3;
        /// Session with a message.
        const DELIVERING = 1 << 4;
    }
}

impl FlowClasses {
    /// Returns the classes that `record` shows. An open flow may still become a session, and deliver.
    ///
    /// A subflow of a multipath TCP connection has no class, as its connection counts (RFC 8684). Its quantities
    /// are summed.
    pub(crate) fn of(record: &FlowRecord, phase: RecordPhase) -> Self {
        let Flow { facts, messages, .. } = &record.flow;
        if facts.subflow() {
            return FlowClasses::empty();
        }
        let attempt = facts.syn != 0;
        let session = attempt && facts.syn_ack != 0;
        let delivering = session && *messages > 0;
        let mut classes = FlowClasses::empty();
        classes.set(FlowClasses::DELIVERING, delivering);
        if phase != RecordPhase::Live {
            classes.insert(FlowClasses::FLOWS);
            classes.set(FlowClasses::ATTEMPTS, attempt);
            classes.set(FlowClasses::SESSIONS, session);
        }
        classes.set(FlowClasses::FAILED, phase == RecordPhase::Final && attempt && !delivering);
        classes
    }

    /// Returns true if the set contains `class`.
    pub(crate) fn contains_class(self, class: FlowClass) -> bool {
        self.contains(class.into())
    }
}

impl From<FlowClass> for FlowClasses {
    fn from(class: FlowClass) -> Self {
        match class {
            FlowClass::Flows => FlowClasses::FLOWS,
            FlowClass::Attempts => FlowClasses::ATTEMPTS,
            FlowClass::Sessions => FlowClasses::SESSIONS,
            FlowClass::Failed => FlowClasses::FAILED,
            FlowClass::Delivering => FlowClasses::DELIVERING,
        }
    }
}

#[cfg(test)]
mod tests {
    use mailflow_common::seen;

    use super::*;
    use crate::fixture;

    fn classes(phase: RecordPhase, syn: u8, syn_ack: u8, messages: u32) -> FlowClasses {
        let mut record = (*fixture::record(fixture::at(100))).clone();
        (record.flow.facts.syn, record.flow.facts.syn_ack, record.flow.messages) = (syn, syn_ack, messages);
        FlowClasses::of(&record, phase)
    }

    #[test]
    fn a_subflow_has_no_class() {
        let mut record = (*fixture::record(fixture::at(100))).clone();
        assert!(!FlowClasses::of(&record, RecordPhase::Final).is_empty());
        record.flow.facts.seen |= seen::MPTCP_JOIN | seen::MPTCP_JOINED;
        assert_eq!(FlowClasses::of(&record, RecordPhase::Final), FlowClasses::empty());
    }

    #[test]
    fn an_attempt_fails_only_at_its_end() {
        assert_eq!(classes(RecordPhase::Interim, 1, 0, 0), FlowClasses::FLOWS | FlowClasses::ATTEMPTS);
        assert_eq!(
            classes(RecordPhase::Final, 1, 0, 0),
            FlowClasses::FLOWS | FlowClasses::ATTEMPTS | FlowClasses::FAILED
        );
        let session = FlowClasses::FLOWS | FlowClasses::ATTEMPTS | FlowClasses::SESSIONS;
        assert_eq!(classes(RecordPhase::Interim, 1, 1, 0), session);
        assert_eq!(
            classes(RecordPhase::Final, 1, 1, 0),
            session | FlowClasses::FAILED,
            "a session without a message"
        );
        assert_eq!(classes(RecordPhase::Final, 1, 1, 2), session | FlowClasses::DELIVERING);
        assert_eq!(classes(RecordPhase::Final, 0, 1, 2), FlowClasses::FLOWS, "its beginning was not seen");
        assert_eq!(classes(RecordPhase::Live, 1, 1, 2), FlowClasses::DELIVERING, "not a record");
    }
}
