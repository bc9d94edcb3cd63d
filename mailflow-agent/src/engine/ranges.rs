//! Prefixes laid flat, for a look-up by binary search.
//!
//! Measured with 100,000 prefixes against the `prefix-trie` crate, whose set answers the same question
//! (`cargo bench -p mailflow-tests --bench assets`): see docs/performance.md. The trie walks a node a
//! bit and finds each in another cache line; here the starts lie side by side.

use std::cmp::Reverse;

/// The addresses of one line; IPv4 ones as numbers too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// The first address.
    pub(super) first: u128,
    /// The last address.
    pub(super) last: u128,
    /// The index of the line.
    pub(super) line: usize,
}

/// Where each range begins, ascending, and the line that decides from there on.
///
/// Prefixes nest and never cross, so n of them make at most 2n + 1 ranges, and one binary search
/// answers for any n. The starts stand apart from the lines: a search touches only them.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges<A> {
    starts: Vec<A>,
    lines: Vec<Option<usize>>,
}

impl<A: Copy + Ord> Ranges<A> {
    /// The ranges of these spans; `address` makes an address of a number, unless it lies behind the last.
    pub(super) fn new(mut spans: Vec<Span>, address: impl Fn(u128) -> Option<A>) -> Self {
        // Outer before inner; of equal ones the later line lies on top.
        spans.sort_by_key(|span| (span.first, Reverse(span.last), span.line));
        let mut flat = Flat(Vec::with_capacity(2 * spans.len() + 1));
        let mut open: Vec<Span> = Vec::new();
        for span in spans {
            flat.close(&mut open, Some(span.first));
            flat.begin(span.first, Some(span.line));
            open.push(span);
        }
        flat.close(&mut open, None);
        let (starts, lines) =
            flat.0.into_iter().filter_map(|(start, line)| Some((address(start)?, line))).unzip();
        Self { starts, lines }
    }

    /// The index of the line that decides about `ip`.
    pub(super) fn find(&self, ip: A) -> Option<usize> {
        let behind = self.starts.partition_point(|start| *start <= ip);
        *self.lines.get(behind.checked_sub(1)?)?
    }
}

/// Ranges in the making.
struct Flat(Vec<(u128, Option<usize>)>);

impl Flat {
    /// Ends the open spans that lie before `until`; what encloses each decides again behind it.
    fn close(&mut self, open: &mut Vec<Span>, until: Option<u128>) {
        while let Some(inner) = open.pop_if(|span| until.is_none_or(|until| span.last < until)) {
            if let Some(next) = inner.last.checked_add(1) {
                self.begin(next, open.last().map(|outer| outer.line));
            }
        }
    }

    fn begin(&mut self, at: u128, line: Option<usize>) {
        // A range that would be empty is replaced.
        self.0.pop_if(|(start, _)| *start == at);
        self.0.push((at, line));
    }
}
