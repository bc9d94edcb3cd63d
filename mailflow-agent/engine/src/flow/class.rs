//! Classes of flows: attempt, session, failed, delivering.

use bitflags::bitflags;

use super::{
    phase::Stage,
    record::{Flow, FlowRecord},
};

/// Kinds of flows, by what their records tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
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

impl Kind {
    /// Every one.
    pub const ALL: [Kind; 5] = [Kind::Flows, Kind::Attempts, Kind::Sessions, Kind::Failed, Kind::Delivering];

    /// The name in configuration, alerts and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Flows => "flows",
            Kind::Attempts => "attempts",
            Kind::Sessions => "sessions",
            Kind::Failed => "failed",
            Kind::Delivering => "delivering",
        }
    }
}

bitflags! {
    /// The kinds of flow that a record shows its flow to be.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub(crate) struct Kinds: u8 {
        /// The rule matches.
        const FLOWS = 1;
        /// A SYN.
        const ATTEMPTS = 1 << 1;
        /// A SYN that was answered.
        const SESSIONS = 1 << 2;
        /// An attempt that ended without a session or without a message.
        const FAILED = 1 << 3;
        /// A session with a message.
        const DELIVERING = 1 << 4;
    }
}

impl Kinds {
    /// What `record` shows. While a flow is open, it may still become a session and deliver.
    ///
    /// A subflow of a multipath connection is none of these: that connection counts. What it carries is summed.
    pub(crate) fn of(record: &FlowRecord, stage: Stage) -> Self {
        let Flow { facts, messages, .. } = &record.flow;
        if facts.subflow() {
            return Kinds::empty();
        }
        let attempt = facts.syn != 0;
        let session = attempt && facts.syn_ack != 0;
        let delivering = session && *messages > 0;
        let mut kinds = Kinds::empty();
        kinds.set(Kinds::DELIVERING, delivering);
        if stage != Stage::Live {
            kinds.insert(Kinds::FLOWS);
            kinds.set(Kinds::ATTEMPTS, attempt);
            kinds.set(Kinds::SESSIONS, session);
        }
        kinds.set(Kinds::FAILED, stage == Stage::Ended && attempt && !delivering);
        kinds
    }

    /// Returns true if it is of `kind`.
    pub(crate) fn are(self, kind: Kind) -> bool {
        self.contains(kind.into())
    }
}

impl From<Kind> for Kinds {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Flows => Kinds::FLOWS,
            Kind::Attempts => Kinds::ATTEMPTS,
            Kind::Sessions => Kinds::SESSIONS,
            Kind::Failed => Kinds::FAILED,
            Kind::Delivering => Kinds::DELIVERING,
        }
    }
}

#[cfg(test)]
mod tests {
    use mailflow_common::seen;

    use super::*;
    use crate::fixture;

    fn kinds(stage: Stage, syn: u8, syn_ack: u8, messages: u32) -> Kinds {
        let mut record = (*fixture::record(fixture::at(100))).clone();
        (record.flow.facts.syn, record.flow.facts.syn_ack, record.flow.messages) = (syn, syn_ack, messages);
        Kinds::of(&record, stage)
    }

    #[test]
    fn a_subflow_is_no_flow_of_its_own() {
        let mut record = (*fixture::record(fixture::at(100))).clone();
        assert!(!Kinds::of(&record, Stage::Ended).is_empty());
        record.flow.facts.seen |= seen::MPTCP_JOIN | seen::MPTCP_JOINED;
        assert_eq!(Kinds::of(&record, Stage::Ended), Kinds::empty());
    }

    #[test]
    fn an_attempt_has_failed_only_when_it_is_over() {
        assert_eq!(kinds(Stage::Open, 1, 0, 0), Kinds::FLOWS | Kinds::ATTEMPTS);
        assert_eq!(kinds(Stage::Ended, 1, 0, 0), Kinds::FLOWS | Kinds::ATTEMPTS | Kinds::FAILED);
        let session = Kinds::FLOWS | Kinds::ATTEMPTS | Kinds::SESSIONS;
        assert_eq!(kinds(Stage::Open, 1, 1, 0), session);
        assert_eq!(kinds(Stage::Ended, 1, 1, 0), session | Kinds::FAILED, "a session without a message");
        assert_eq!(kinds(Stage::Ended, 1, 1, 2), session | Kinds::DELIVERING);
        assert_eq!(kinds(Stage::Ended, 0, 1, 2), Kinds::FLOWS, "its beginning was not seen");
        assert_eq!(kinds(Stage::Live, 1, 1, 2), Kinds::DELIVERING, "not a record");
    }
}
