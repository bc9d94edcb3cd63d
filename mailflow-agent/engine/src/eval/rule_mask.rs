//! Bit mask of the rules that match a flow.

/// Rules that match a flow. Computed when the record is made, and used when it is evaluated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuleMask(u64);

/// Result for one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MaskMatch {
    /// The rule matches.
    Match,
    /// The rule does not match.
    NoMatch,
    /// At least one of the rules that share the bit matches.
    Recheck,
}

impl RuleMask {
    /// Bit of all rules with this number or a higher one.
    const SHARED_BIT: u32 = u64::BITS - 1;

    /// Adds the rule of this number.
    pub(super) fn insert(&mut self, rule: usize) {
        self.0 |= 1 << Self::bit(rule);
    }

    /// Returns true if no rule matches.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the result for the rule of this number.
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
    fn rules_that_share_a_bit_are_rechecked() {
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
