//! Counters by source, limited in number.

use std::{
    collections::{
        HashMap,
        hash_map::Entry::{Occupied, Vacant},
    },
    net::IpAddr,
    time::Duration,
};

use super::rows::CounterRow;
use mailflow_engine::{event::Source, time::Time};

/// Counters by source. Their sum is always the sum of all deltas.
#[derive(Clone, Debug)]
pub(crate) struct SourceRows {
    limit: usize,
    idle: Duration,
    active: HashMap<u128, SourceRow>,
    /// Counters of sources above the limit.
    other: CounterRow,
    /// Counters of idle sources.
    retired: CounterRow,
    /// Time before which no source becomes idle.
    next_sweep: Time,
}

/// Counters of one source.
#[derive(Clone, Debug)]
struct SourceRow {
    source: Source,
    /// Label, formatted once for all scrapes.
    label: Box<str>,
    row: CounterRow,
    last: Time,
}

impl SourceRows {
    /// Creates a table of at most `limit` sources. A source without traffic for `idle` loses its row.
    pub(crate) fn new(limit: usize, idle: Duration) -> Self {
        Self {
            limit,
            idle,
            active: HashMap::default(),
            other: CounterRow::default(),
            retired: CounterRow::default(),
            next_sweep: Time::ZERO,
        }
    }

    /// Returns the row of a source. A new source gets its own row below the limit, and the row `other` above
    /// it.
    pub(crate) fn row(&mut self, source: Source, now: Time) -> &mut CounterRow {
        let full = self.active.len() >= self.limit;
        let entry = match self.active.entry(key(source)) {
            Occupied(occupied) => occupied.into_mut(),
            Vacant(_) if full => return &mut self.other,
            Vacant(vacant) => {
                let label = source.to_string().into();
                vacant.insert(SourceRow { source, label, row: CounterRow::default(), last: now })
            }
        };
        entry.last = entry.last.max(now);
        &mut entry.row
    }

    /// Moves the counters of idle sources to `retired`. Must follow the deltas of a poll, so that a returning
    /// source keeps its row.
    pub(crate) fn fold_idle(&mut self, now: Time) {
        if now < self.next_sweep {
            return;
        }
        let mut oldest = now;
        self.active.retain(|_, entry| {
            let is_active = now.since(entry.last) < self.idle;
            if is_active {
                oldest = oldest.min(entry.last);
            } else {
                self.retired.merge(&entry.row);
            }
            is_active
        });
        self.next_sweep = oldest + self.idle;
    }

    /// Returns the number of sources with a row of their own.
    pub(crate) fn len(&self) -> usize {
        self.active.len()
    }

    /// Returns every row with its label: `other` and `retired`, then by source.
    pub(crate) fn rows(&self) -> Vec<(&str, &CounterRow)> {
        let mut active: Vec<_> = self.active.values().collect();
        active.sort_unstable_by_key(|entry| entry.source);
        [("other", &self.other), ("retired", &self.retired)]
            .into_iter()
            .chain(active.into_iter().map(|entry| (&*entry.label, &entry.row)))
            .collect()
    }
}

/// Returns the key of a source. The prefix length is the same for all sources of a family.
fn key(source: Source) -> u128 {
    match source.network().addr() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}
