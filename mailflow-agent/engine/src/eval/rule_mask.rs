//! Which rules count a flow.

/// Rules that count a flow, by number: found when its record is made, used when its turn comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuleMask(u64);

/// What is known of one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MaskMatch {
    /// It counts the flow.
    Match,
    /// It does not.
    NoMatch,
    /// It shares its place with others, one of which counts it.
    Recheck,
}

impl RuleMask {
    /// The place of all rules that have none of their own.
    const SHARED_BIT: u32 = u64::BITS - 1;

    /// The rule of this number counts it.
    pub(super) fn insert(&mut self, rule: usize) {
        self.0 |= 1 << Self::bit(rule);
    }

    /// Returns true if no rule counts it.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns if the rule of this number counts the flow.
    pub(super) fn get(self, rule: usize) -> MaskMatch {
        let bit = Self::bit(rule);
        match self.0 & 1 << bit {
            0 => MaskMatch::NoMatch,
            _ if bit < Self::SHARED_BIT => MaskMatch::Match,
            _ => MaskMatch::Recheck,
        }
    }

    fn bit(rule: usize) -> u32 {
        u32::try_from(rule).map_or(Self::SHARED_BIT, |rule| rule.min(Self::SHARED_BIT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_without_a_place_of_their_own_are_asked_again() {
        let mut fit = RuleMask::default();
        assert!(fit.is_empty());
        for rule in [0, 7, 62, 70] {
            fit.insert(rule);
        }
        assert_eq!([0, 7, 62].map(|rule| fit.get(rule)), [MaskMatch::Match; 3]);
        assert_eq!([1, 61].map(|rule| fit.get(rule)), [MaskMatch::NoMatch; 2]);
        assert_eq!([63, 70, usize::MAX].map(|rule| fit.get(rule)), [MaskMatch::Recheck; 3]);
    }
}
