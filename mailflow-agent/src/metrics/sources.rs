//! Rows by source, with a hard cap.

use std::{
    collections::{
        HashMap,
        hash_map::Entry::{Occupied, Vacant},
    },
    net::IpAddr,
    time::Duration,
};

use super::rows::Row;
use mailflow_engine::{event::Source, time::Time};

/// Rows by source. Their sum is always the sum of everything booked.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    limit: usize,
    idle: Duration,
    live: HashMap<u128, Entry>,
    /// Of sources for which there was no room.
    other: Row,
    /// Of sources that left.
    retired: Row,
    /// No source is idle before this.
    next_look: Time,
}

#[derive(Clone, Debug)]
struct Entry {
    source: Source,
    /// Written once, shown at every scrape.
    label: Box<str>,
    row: Row,
    last: Time,
}

impl Sources {
    /// At most `limit` sources have rows of their own; one that had nothing for `idle` loses it.
    pub(crate) fn new(limit: usize, idle: Duration) -> Self {
        Self {
            limit,
            idle,
            live: HashMap::default(),
            other: Row::default(),
            retired: Row::default(),
            next_look: Time::ZERO,
        }
    }

    /// The row to book to. A source begins when there is room for it, else it is one of the others.
    pub(crate) fn row(&mut self, source: Source, now: Time) -> &mut Row {
        let full = self.live.len() >= self.limit;
        let entry = match self.live.entry(key(source)) {
            Occupied(occupied) => occupied.into_mut(),
            Vacant(_) if full => return &mut self.other,
            Vacant(vacant) => {
                let label = source.to_string().into();
                vacant.insert(Entry { source, label, row: Row::default(), last: now })
            }
        };
        entry.last = entry.last.max(now);
        &mut entry.row
    }

    /// Moves idle sources' numbers to the retired ones. To be called after booking, so that a
    /// source that is back just now keeps its row.
    pub(crate) fn retire(&mut self, now: Time) {
        if now < self.next_look {
            return;
        }
        let mut oldest = now;
        self.live.retain(|_, entry| {
            let stays = now.since(entry.last) < self.idle;
            if stays {
                oldest = oldest.min(entry.last);
            } else {
                self.retired.merge(&entry.row);
            }
            stays
        });
        self.next_look = oldest + self.idle;
    }

    /// How many sources have rows of their own.
    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }

    /// Every row with its label: the two collective ones first, then by source.
    pub(crate) fn rows(&self) -> Vec<(&str, &Row)> {
        let mut live: Vec<_> = self.live.values().collect();
        live.sort_unstable_by_key(|entry| entry.source);
        [("other", &self.other), ("retired", &self.retired)]
            .into_iter()
            .chain(live.into_iter().map(|entry| (&*entry.label, &entry.row)))
            .collect()
    }
}

/// What tells sources apart: prefix lengths are the same for all of a family.
fn key(source: Source) -> u128 {
    match source.network().addr() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}
