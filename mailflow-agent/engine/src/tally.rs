//! What the rules have taken of a flow so far: a flow that lives long has many records, and counts once.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use crate::{
    flow::{Flow, FlowRecord, RecordReason},
    settings::{Kind, Quantity},
};

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

/// How final what is known of a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The flow is open, and was looked at because of what it gained. Not a record.
    Live,
    /// A record of an open flow.
    Open,
    /// The flow's last record.
    Ended,
}

impl Stage {
    /// Of a record made for `reason`. A flow that is open when the agent stops has not ended.
    pub(crate) fn of(reason: RecordReason) -> Self {
        match reason {
            RecordReason::Active | RecordReason::Shutdown => Stage::Open,
            RecordReason::Closed | RecordReason::Idle => Stage::Ended,
        }
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

    /// Whether it is of `kind`.
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

/// Everything that can be summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Quantities([u64; 7]);

impl Quantities {
    /// What `flow` has.
    pub(crate) fn of(flow: &Flow) -> Self {
        let (up, down) = (&flow.up, &flow.down);
        let messages = u64::from(flow.messages);
        Self([up.payload, down.payload, up.bytes, down.bytes, up.packets, down.packets, messages])
    }

    /// One of them.
    pub(crate) fn get(&self, quantity: Quantity) -> u64 {
        let [payload_up, payload_down, bytes_up, bytes_down, packets_up, packets_down, messages] = self.0;
        match quantity {
            Quantity::PayloadUp => payload_up,
            Quantity::PayloadDown => payload_down,
            Quantity::BytesUp => bytes_up,
            Quantity::BytesDown => bytes_down,
            Quantity::PacketsUp => packets_up,
            Quantity::PacketsDown => packets_down,
            Quantity::Messages => messages,
        }
    }

    /// What there is more of than in `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut gains = self.0;
        for (gain, before) in gains.iter_mut().zip(before.0) {
            *gain = gain.saturating_sub(before);
        }
        Self(gains)
    }
}

/// What one rule has taken of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) kinds: Kinds,
    pub(crate) given: Quantities,
}

/// What the rules have taken of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// By rule; few rules take anything of a flow.
    taken: Vec<(usize, Taken)>,
    /// What the flow had when it was last looked at while open.
    shown: Quantities,
}

/// An open flow is looked at again when it has gained this much payload or IP bytes ...
pub(crate) const LIVE_BYTES: u64 = 64 << 10;
/// ... or this many messages.
pub(crate) const LIVE_MESSAGES: u64 = 4;

impl Tally {
    /// What `rule` has taken.
    pub(crate) fn of(&self, rule: usize) -> Taken {
        self.taken.iter().find(|(of, _)| *of == rule).map(|(_, taken)| *taken).unwrap_or_default()
    }

    /// From now on `rule` has taken this.
    pub(crate) fn set(&mut self, rule: usize, taken: Taken) {
        match self.taken.iter_mut().find(|(of, _)| *of == rule) {
            Some((_, known)) => *known = taken,
            None => self.taken.push((rule, taken)),
        }
    }

    /// Whether nothing has been taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Whether the open flow has enough more than when it was last looked at; if so, it is looked at now.
    pub(crate) fn show(&mut self, now: &Quantities) -> bool {
        let gains = now.since(&self.shown);
        let worth = gains.get(Quantity::BytesUp) >= LIVE_BYTES
            || gains.get(Quantity::BytesDown) >= LIVE_BYTES
            || gains.get(Quantity::Messages) >= LIVE_MESSAGES;
        if worth {
            self.shown = *now;
        }
        worth
    }

    /// The rules have other numbers now; those without one are gone.
    pub(crate) fn renumber(&mut self, number: impl Fn(usize) -> Option<usize>) {
        self.taken.retain_mut(|(rule, _)| match number(*rule) {
            Some(now) => {
                *rule = now;
                true
            }
            None => false,
        });
    }

    /// What was taken, as rule, kinds and quantities.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (usize, Taken)> + '_ {
        self.taken.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use mailflow_common::answered;

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
        record.flow.facts.answered |= answered::JOINS | answered::JOINED;
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

    #[test]
    fn an_open_flow_is_shown_when_it_has_gained_enough() {
        let mut tally = Tally::default();
        let mut flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
        let mut shown = |bytes, messages| {
            (flow.up.bytes, flow.messages) = (bytes, messages);
            tally.show(&Quantities::of(&flow))
        };
        assert!(!shown(LIVE_BYTES - 1, 1));
        assert!(shown(LIVE_BYTES, 1));
        assert!(!shown(LIVE_BYTES + 5, 4));
        assert!(shown(LIVE_BYTES + 5, 5));
    }

    #[test]
    fn what_is_taken_stays_with_its_rule() {
        let mut tally = Tally::default();
        let taken = Taken { kinds: Kinds::FLOWS, given: Quantities::default() };
        tally.set(3, taken);
        assert_eq!((tally.of(3), tally.of(2)), (taken, Taken::default()));
        tally.set(5, taken);
        tally.renumber(|rule| (rule == 3).then_some(0));
        assert_eq!((tally.of(0), tally.of(3), tally.of(5)), (taken, Taken::default(), Taken::default()));
    }
}
