//! What the rules have taken of a flow so far: a flow that lives long has many records, and counts once.

use crate::flow::{
    class::FlowClasses,
    quantity::{Quantities, Quantity},
};

/// What one rule has taken of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) kinds: FlowClasses,
    pub(crate) given: Quantities,
}

/// What the rules have taken of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlowContribution {
    /// By rule; few rules take anything of a flow.
    taken: Vec<(usize, Counted)>,
    /// What the flow had when it was last looked at while open.
    shown: Quantities,
}

/// An open flow is looked at again when it has gained this much payload or IP bytes ...
pub(crate) const LIVE_BYTES: u64 = 64 << 10;
/// ... or this many messages.
pub(crate) const LIVE_MESSAGES: u64 = 4;

impl FlowContribution {
    /// What `rule` has taken.
    pub(crate) fn of(&self, rule: usize) -> Counted {
        self.taken.iter().find(|(of, _)| *of == rule).map(|(_, taken)| *taken).unwrap_or_default()
    }

    /// From now on `rule` has taken this.
    pub(crate) fn set(&mut self, rule: usize, taken: Counted) {
        match self.taken.iter_mut().find(|(of, _)| *of == rule) {
            Some((_, known)) => *known = taken,
            None => self.taken.push((rule, taken)),
        }
    }

    /// Returns true if nothing has been taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Returns true if the open flow has enough more than when it was last looked at; if so, it is looked at now.
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
    pub(crate) fn entries(&self) -> impl Iterator<Item = (usize, Counted)> + '_ {
        self.taken.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn an_open_flow_is_shown_when_it_has_gained_enough() {
        let mut tally = FlowContribution::default();
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
        let mut tally = FlowContribution::default();
        let taken = Counted { kinds: FlowClasses::FLOWS, given: Quantities::default() };
        tally.set(3, taken);
        assert_eq!((tally.of(3), tally.of(2)), (taken, Counted::default()));
        tally.set(5, taken);
        tally.renumber(|rule| (rule == 3).then_some(0));
        assert_eq!((tally.of(0), tally.of(3), tally.of(5)), (taken, Counted::default(), Counted::default()));
    }
}
