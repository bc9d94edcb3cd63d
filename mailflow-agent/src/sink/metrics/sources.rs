//! Rows by source, with a hard cap.

use std::{collections::BTreeMap, time::Duration};

use super::row::Row;
use crate::engine::{event::Source, time::Time};

/// Rows by source. Their sum is always the sum of everything booked.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    limit: usize,
    idle: Duration,
    live: BTreeMap<Source, Entry>,
    /// Of sources for which there was no room.
    other: Row,
    /// Of sources that left.
    retired: Row,
    /// No source is idle before this.
    next_look: Time,
}

#[derive(Clone, Debug)]
struct Entry {
    /// Written once, shown at every scrape.
    label: Box<str>,
    row: Row,
    last: Time,
}

impl Sources {
    /// At most `limit` sources have rows of their own; one that had nothing for `idle` loses it.
    pub(super) fn new(limit: usize, idle: Duration) -> Self {
        Self {
            limit,
            idle,
            live: BTreeMap::new(),
            other: Row::default(),
            retired: Row::default(),
            next_look: Time::ZERO,
        }
    }

    /// The row to book to. A source begins when there is room for it, else it is one of the others.
    pub(super) fn row(&mut self, source: Source, now: Time) -> &mut Row {
        if self.live.len() >= self.limit && !self.live.contains_key(&source) {
            return &mut self.other;
        }
        let entry = self.live.entry(source).or_insert_with(|| Entry {
            label: source.to_string().into(),
            row: Row::default(),
            last: now,
        });
        entry.last = entry.last.max(now);
        &mut entry.row
    }

    /// Moves idle sources' numbers to the retired ones. To be called after booking, so that a
    /// source that is back just now keeps its row.
    pub(super) fn retire(&mut self, now: Time) {
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
    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    /// Every row with its label, the two collective ones first.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&str, &Row)> + Clone {
        [("other", &self.other), ("retired", &self.retired)]
            .into_iter()
            .chain(self.live.values().map(|entry| (&*entry.label, &entry.row)))
    }
}
