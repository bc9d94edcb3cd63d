//! Range table: prefixes flattened into disjoint ranges, for a lookup by search.
//!
//! Measured against the `prefix-trie` crate (`cargo bench -p mailflow-system-tests --bench assets`); docs/understand/performance.md
//! has the numbers.

use std::{cmp::Reverse, num::NonZeroU32};

/// Addresses of one line, as numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddressSpan {
    /// First address.
    pub(super) first: u128,
    /// Last address.
    pub(super) last: u128,
    /// Index of the line, or `None` if the line excludes its addresses.
    pub(super) line: Option<usize>,
}

/// Keys of which the level above holds one: a cache line of IPv4 addresses.
const KEYS_PER_NODE: usize = 16;

/// Start of each range, ascending, and the line that decides from there on.
///
/// Prefixes nest and never cross, so n of them make at most 2n + 1 ranges, and one search answers for any n. A
/// binary search of 100,000 starts waits for memory at each of its 17 steps. So the starts are the lowest of
/// several levels, and each level holds every 16th key of the one below. A step reads one cache line. There are
/// five steps, and the upper levels stay in the cache.
#[derive(Clone, Debug, Default)]
pub(super) struct RangeTable<A> {
    /// Levels of keys, the uppermost first. The last one holds the starts.
    levels: Vec<Vec<A>>,
    /// Line of each range, plus one; `None` if the range is in no network.
    lines: Vec<Option<NonZeroU32>>,
}

impl<A: Copy + Ord> RangeTable<A> {
    /// Returns the table of these spans, given in the order of their lines. `address` converts a number to an
    /// address, and returns `None` behind the last address.
    pub(super) fn new(mut spans: Vec<AddressSpan>, address: impl Fn(u128) -> Option<A>) -> Self {
        // Outer before inner. The sort is stable, so of equal spans the later one is the inner one.
        spans.sort_by_key(|span| (span.first, Reverse(span.last)));
        let mut builder = RangeBuilder(Vec::with_capacity(2 * spans.len() + 1));
        let mut open_spans: Vec<AddressSpan> = Vec::new();
        for span in spans {
            builder.close(&mut open_spans, Some(span.first));
            builder.begin(span.first, span.line);
            open_spans.push(span);
        }
        builder.close(&mut open_spans, None);
        let index = |line: usize| u32::try_from(line + 1).ok().and_then(NonZeroU32::new);
        let ranges = builder.0.into_iter();
        let (starts, lines) =
            ranges.filter_map(|(start, line)| Some((address(start)?, line.and_then(index)))).unzip();
        let mut levels: Vec<Vec<A>> = vec![starts];
        while let Some(lower) = levels.last().filter(|level| level.len() > KEYS_PER_NODE) {
            levels.push(lower.iter().step_by(KEYS_PER_NODE).copied().collect());
        }
        levels.reverse();
        Self { levels, lines }
    }

    /// Returns the index of the line that decides about `ip`.
    pub(super) fn find(&self, ip: A) -> Option<usize> {
        let mut at = 0;
        for level in &self.levels {
            // The key found above is the first key of this node.
            let first = at * KEYS_PER_NODE;
            let keys = level.get(first..level.len().min(first + KEYS_PER_NODE))?;
            at = first + keys.partition_point(|start| *start <= ip).checked_sub(1)?;
        }
        let line = (*self.lines.get(at)?)?;
        Some(line.get() as usize - 1)
    }
}

/// Ranges under construction.
struct RangeBuilder(Vec<(u128, Option<usize>)>);

impl RangeBuilder {
    /// Closes the open spans that end before `until`. The enclosing span decides again behind each.
    fn close(&mut self, open_spans: &mut Vec<AddressSpan>, until: Option<u128>) {
        while let Some(inner) = open_spans.pop_if(|span| until.is_none_or(|until| span.last < until)) {
            if let Some(next) = inner.last.checked_add(1) {
                self.begin(next, open_spans.last().and_then(|outer| outer.line));
            }
        }
    }

    fn begin(&mut self, at: u128, line: Option<usize>) {
        // A range that begins here too would be empty: the new one replaces it.
        self.0.pop_if(|(start, _)| *start == at);
        self.0.push((at, line));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns spans as prefixes have them: 2^n addresses, aligned to their length.
    fn spans() -> impl Strategy<Value = Vec<AddressSpan>> {
        let span = (0u128..1 << 16, 0u32..10, prop::bool::weighted(0.9));
        prop::collection::vec(span, 0..2_000).prop_map(|spans| {
            let span = |(line, (at, bits, put_in)): (usize, (u128, u32, bool))| {
                let first = at >> bits << bits;
                AddressSpan { first, last: first + (1 << bits) - 1, line: put_in.then_some(line) }
            };
            spans.into_iter().enumerate().map(span).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_search_through_all_levels_equals_a_linear_search(spans in spans()) {
            let ranges = RangeTable::new(spans.clone(), |start| u32::try_from(start).ok());
            prop_assert!(ranges.levels.iter().rev().skip(1).all(|level| level.len() < ranges.lines.len()));
            let edges = spans.iter().flat_map(|span| [span.first.saturating_sub(1), span.first, span.last, span.last + 1]);
            for ip in edges.step_by(7).chain([0, 1 << 17]) {
                let holding = spans.iter().enumerate().filter(|(_, span)| (span.first..=span.last).contains(&ip));
                // The shortest span; of equal ones the later.
                let walked = holding.min_by_key(|(at, span)| (span.last - span.first, Reverse(*at)));
                let found = ranges.find(ip as u32);
                prop_assert_eq!(found, walked.and_then(|(_, span)| span.line), "{}", ip);
            }
        }
    }

    #[test]
    fn an_empty_table_finds_nothing() {
        let none = RangeTable::new(Vec::new(), Some);
        assert_eq!((none.find(0), none.find(u128::MAX)), (None, None));
        let all = RangeTable::new(vec![AddressSpan { first: 0, last: u128::MAX, line: Some(0) }], Some);
        assert_eq!((all.find(0), all.find(u128::MAX)), (Some(0), Some(0)));
    }
}
