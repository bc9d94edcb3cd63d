//! Contribution of a flow to each rule: a long-lived flow has many records, and each rule counts it once.

use crate::flow::{
    class::FlowClasses,
    quantity::{Quantities, Quantity},
};

/// Part of a flow that one rule has already counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) classes: FlowClasses,
    pub(crate) quantities: Quantities,
}

/// Part of a flow that each rule has already counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlowContribution {
    /// Counted part by rule number. Few rules count a given flow, so a list is enough.
    by_rule: Vec<(usize, Counted)>,
    /// Quantities of the flow at its last live update.
    last_offered: Quantities,
}

/// Gain of an open flow that triggers a live update, in IP bytes of one direction.
pub(crate) const LIVE_BYTES: u64 = 64 << 10;
/// Gain of an open flow that triggers a live update, in estimated messages.
pub(crate) const LIVE_MESSAGES: u64 = 4;

impl FlowContribution {
    /// Returns the part that `rule` has counted.
    pub(crate) fn of(&self, rule: usize) -> Counted {
        self.by_rule.iter().find(|(of, _)| *of == rule).map(|(_, counted)| *counted).unwrap_or_default()
    }

    /// Sets the part that `rule` has counted.
    pub(crate) fn set(&mut self, rule: usize, counted: Counted) {
        match self.by_rule.iter_mut().find(|(of, _)| *of == rule) {
            Some((_, entry)) => *entry = counted,
            None => self.by_rule.push((rule, counted)),
        }
    }

    /// Returns true if no rule has counted any part.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_rule.is_empty()
    }

    /// Returns true if the open flow has gained enough since its last live update. Then `now` becomes the state of
    /// the last one.
    pub(crate) fn take_live_update(&mut self, now: &Quantities) -> bool {
        let increase = now.since(&self.last_offered);
        let is_enough = increase.get(Quantity::BytesUp) >= LIVE_BYTES
            || increase.get(Quantity::BytesDown) >= LIVE_BYTES
            || increase.get(Quantity::Messages) >= LIVE_MESSAGES;
        if is_enough {
            self.last_offered = *now;
        }
        is_enough
    }

    /// Changes the rule numbers, and removes the parts of rules without a new number.
    pub(crate) fn renumber_rules(&mut self, number: impl Fn(usize) -> Option<usize>) {
        self.by_rule.retain_mut(|(rule, _)| match number(*rule) {
            Some(now) => {
                *rule = now;
                true
            }
            None => false,
        });
    }

    /// Returns the rule number and the counted part of each rule.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (usize, Counted)> + '_ {
        self.by_rule.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_large_gain_is_a_live_update() {
        let mut contribution = FlowContribution::default();
        let mut flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
        let mut last_offered = |bytes, messages| {
            (flow.up.bytes, flow.messages) = (bytes, messages);
            contribution.take_live_update(&Quantities::of(&flow))
        };
        assert!(!last_offered(LIVE_BYTES - 1, 1));
        assert!(last_offered(LIVE_BYTES, 1));
        assert!(!last_offered(LIVE_BYTES + 5, 4));
        assert!(last_offered(LIVE_BYTES + 5, 5));
    }

    #[test]
    fn counted_parts_stay_with_their_rule() {
        let mut contribution = FlowContribution::default();
        let counted = Counted { classes: FlowClasses::FLOWS, quantities: Quantities::default() };
        contribution.set(3, counted);
        assert_eq!((contribution.of(3), contribution.of(2)), (counted, Counted::default()));
        contribution.set(5, counted);
        contribution.renumber_rules(|rule| (rule == 3).then_some(0));
        assert_eq!(
            (contribution.of(0), contribution.of(3), contribution.of(5)),
            (counted, Counted::default(), Counted::default())
        );
    }
}
