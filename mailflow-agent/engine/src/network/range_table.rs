//! Prefixes laid flat, for a look-up by search.
//!
//! Measured against the `prefix-trie` crate, which answers the same question
//! (`cargo bench -p mailflow-tests --bench assets`); docs/understand/performance.md has the numbers.

use std::{cmp::Reverse, num::NonZeroU32};

/// The addresses of one line; IPv4 ones as numbers too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// The first address.
    pub(super) first: u128,
    /// The last address.
    pub(super) last: u128,
    /// The index of the line that decides here; `None` where it takes its addresses out.
    pub(super) line: Option<usize>,
}

/// Keys of which each has one on the level above: a cache line of IPv4 addresses.
const FAN: usize = 16;

/// Where each range begins, ascending, and the line that decides from there on.
///
/// Prefixes nest and never cross, so n of them make at most 2n + 1 ranges, and one search answers for
/// any n. A plain binary search of 100,000 waits for memory at each of its 17 steps. So above the
/// starts lie levels that hold each 16th of the one below: a step reads one cache line and there are
/// five, of which the upper ones stay in the cache.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges<A> {
    /// The uppermost level first; the last one is the starts.
    levels: Vec<Vec<A>>,
    /// The line of each range, plus one; `None` where none decides.
    lines: Vec<Option<NonZeroU32>>,
}

impl<A: Copy + Ord> Ranges<A> {
    /// The ranges of these spans, in the order of their lines; `address` makes an address of a number, unless it lies behind the last.
    pub(super) fn new(mut spans: Vec<Span>, address: impl Fn(u128) -> Option<A>) -> Self {
        // Outer before inner; of equal ones the later one lies on top, as the order of equals is kept.
        spans.sort_by_key(|span| (span.first, Reverse(span.last)));
        let mut flat = Flat(Vec::with_capacity(2 * spans.len() + 1));
        let mut open: Vec<Span> = Vec::new();
        for span in spans {
            flat.close(&mut open, Some(span.first));
            flat.begin(span.first, span.line);
            open.push(span);
        }
        flat.close(&mut open, None);
        let index = |line: usize| u32::try_from(line + 1).ok().and_then(NonZeroU32::new);
        let ranges = flat.0.into_iter();
        let (starts, lines) =
            ranges.filter_map(|(start, line)| Some((address(start)?, line.and_then(index)))).unzip();
        let mut levels: Vec<Vec<A>> = vec![starts];
        while let Some(below) = levels.last().filter(|level| level.len() > FAN) {
            levels.push(below.iter().step_by(FAN).copied().collect());
        }
        levels.reverse();
        Self { levels, lines }
    }

    /// The index of the line that decides about `ip`.
    pub(super) fn find(&self, ip: A) -> Option<usize> {
        let mut at = 0;
        for level in &self.levels {
            // The key found above is the first one here.
            let first = at * FAN;
            let keys = level.get(first..level.len().min(first + FAN))?;
            at = first + keys.partition_point(|start| *start <= ip).checked_sub(1)?;
        }
        let line = (*self.lines.get(at)?)?;
        Some(line.get() as usize - 1)
    }
}

/// Ranges in the making.
struct Flat(Vec<(u128, Option<usize>)>);

impl Flat {
    /// Ends the open spans that lie before `until`; what encloses each decides again behind it.
    fn close(&mut self, open: &mut Vec<Span>, until: Option<u128>) {
        while let Some(inner) = open.pop_if(|span| until.is_none_or(|until| span.last < until)) {
            if let Some(next) = inner.last.checked_add(1) {
                self.begin(next, open.last().and_then(|outer| outer.line));
            }
        }
    }

    fn begin(&mut self, at: u128, line: Option<usize>) {
        // A range that would be empty is replaced.
        self.0.pop_if(|(start, _)| *start == at);
        self.0.push((at, line));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Spans as prefixes make them: each of 2^n addresses, at a multiple of its length.
    fn spans() -> impl Strategy<Value = Vec<Span>> {
        let span = (0u128..1 << 16, 0u32..10, prop::bool::weighted(0.9));
        prop::collection::vec(span, 0..2_000).prop_map(|spans| {
            let span = |(line, (at, bits, put_in)): (usize, (u128, u32, bool))| {
                let first = at >> bits << bits;
                Span { first, last: first + (1 << bits) - 1, line: put_in.then_some(line) }
            };
            spans.into_iter().enumerate().map(span).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_search_through_all_levels_finds_what_a_walk_finds(spans in spans()) {
            let ranges = Ranges::new(spans.clone(), |start| u32::try_from(start).ok());
            prop_assert!(ranges.levels.iter().rev().skip(1).all(|level| level.len() < ranges.lines.len()));
            let edges = spans.iter().flat_map(|span| [span.first.saturating_sub(1), span.first, span.last, span.last + 1]);
            for ip in edges.step_by(7).chain([0, 1 << 17]) {
                let holding = spans.iter().enumerate().filter(|(_, span)| (span.first..=span.last).contains(&ip));
                // The shortest; of equal ones the later.
                let walked = holding.min_by_key(|(at, span)| (span.last - span.first, Reverse(*at)));
                let found = ranges.find(ip as u32);
                prop_assert_eq!(found, walked.and_then(|(_, span)| span.line), "{}", ip);
            }
        }
    }

    #[test]
    fn nothing_holds_nothing() {
        let none = Ranges::new(Vec::new(), Some);
        assert_eq!((none.find(0), none.find(u128::MAX)), (None, None));
        let all = Ranges::new(vec![Span { first: 0, last: u128::MAX, line: Some(0) }], Some);
        assert_eq!((all.find(0), all.find(u128::MAX)), (Some(0), Some(0)));
    }
}
