//! The records that contributed to what the rules hold, for as long as there is room.
//!
//! Rules remember numbers; the flows behind them are kept here, the newest of all subjects together, so
//! that a million sources that raise no alert cost nothing but this bound. A subject knows the last of its notes,
//! and each note leads to the one before.

use super::flow::FlowRecord;

/// Most flows shown with an alert.
pub(super) const SHOWN: usize = 20;

/// Most records kept, about 200 B each.
pub(super) const KEPT: usize = 1 << 17;

/// Most notes kept, 8 B each: some records are noted under several rules.
const NOTES: usize = 1 << 18;

/// Names a record that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Handle(u32);

/// What a subject noted: the number of its last note, from 1; 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trail(u64);

/// The newest records.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// A ring, once it is full.
    records: Vec<FlowRecord>,
    /// The handle that the next record gets.
    next: u32,
    /// Records that others took the places of, since the start.
    dropped: u64,
    /// A ring, once it is full.
    notes: Vec<Note>,
    /// Notes made since the start.
    noted: u64,
}

/// A record noted by a subject.
#[derive(Clone, Copy, Debug)]
struct Note {
    handle: Handle,
    /// How many notes ago the subject made the one before; 0 where there is none.
    back: u32,
}

/// What a trail leads to.
#[derive(Debug, Default)]
pub(super) struct Found<'a> {
    /// The flows noted last, at most [`SHOWN`], each with its last record.
    pub(super) records: Vec<(Handle, &'a FlowRecord)>,
    /// Whether there were more that are not kept any more.
    pub(super) cut: bool,
}

/// A record that is kept once somebody needs it, however many do.
pub(super) struct Exhibit<'a> {
    record: &'a FlowRecord,
    handle: Option<Handle>,
}

impl<'a> Exhibit<'a> {
    pub(super) fn new(record: &'a FlowRecord) -> Self {
        Self { record, handle: None }
    }

    /// Its handle.
    pub(super) fn handle(&mut self, evidence: &mut Evidence) -> Handle {
        *self.handle.get_or_insert_with(|| evidence.keep(self.record))
    }
}

impl Evidence {
    /// Keeps a record, in the place of the oldest where there is no other.
    pub(super) fn keep(&mut self, record: &FlowRecord) -> Handle {
        let handle = Handle(self.next);
        match self.records.get_mut(self.next as usize % KEPT) {
            Some(oldest) => {
                oldest.clone_from(record);
                self.dropped += 1;
            }
            None => self.records.push(record.clone()),
        }
        self.next = self.next.wrapping_add(1);
        handle
    }

    /// Notes a record for the subject whose trail this is.
    pub(super) fn note(&mut self, trail: &mut Trail, handle: Handle) {
        let number = self.noted + 1;
        let back = if trail.0 == 0 { 0 } else { number - trail.0 };
        let note = Note { handle, back: u32::try_from(back).unwrap_or(u32::MAX) };
        match self.notes.get_mut(self.noted as usize % NOTES) {
            Some(oldest) => *oldest = note,
            None => self.notes.push(note),
        }
        (self.noted, trail.0) = (number, number);
    }

    /// What a trail leads to, by time, and of equal times in the order in which it was noted.
    pub(super) fn find(&self, trail: Trail) -> Found<'_> {
        let mut found = self.noted(trail);
        found.records.sort_by_key(|(_, record)| record.time());
        found
    }

    /// What a trail leads to, in the order in which it was noted: noted so again, it leads to the same, and makes
    /// room for others in the same order.
    pub(super) fn noted(&self, trail: Trail) -> Found<'_> {
        let mut found = Found::default();
        let of = |record: &FlowRecord| (record.flow.key, record.flow.first);
        let mut number = trail.0;
        while number > 0 && found.records.len() < SHOWN {
            let Some((note, record)) = self.read(number) else {
                found.cut = true;
                break;
            };
            // A later record of a flow stands for the earlier ones.
            if !found.records.iter().any(|(_, known)| of(known) == of(record)) {
                found.records.push((note.handle, record));
            }
            number = if note.back == 0 { 0 } else { number.saturating_sub(u64::from(note.back)) };
        }
        found.records.reverse();
        found
    }

    /// Records kept.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Records that others took the places of, since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// A note with its record, if both are still there.
    fn read(&self, number: u64) -> Option<(Note, &FlowRecord)> {
        if self.noted - number >= self.notes.len() as u64 {
            return None;
        }
        let note = *self.notes.get((number - 1) as usize % NOTES)?;
        Some((note, self.get(note.handle)?))
    }

    pub(super) fn get(&self, handle: Handle) -> Option<&FlowRecord> {
        let age = self.next.wrapping_sub(handle.0) as usize;
        if (1..=self.records.len()).contains(&age) {
            self.records.get(handle.0 as usize % KEPT)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::fixture::{self, at},
        *,
    };

    /// A record of a flow of its own, by number; its time.
    fn record(number: u16, seconds: u64) -> FlowRecord {
        let mut record = (*fixture::record(at(seconds))).clone();
        record.flow.key.client_port = number;
        record.flow.first = at(1);
        record
    }

    fn note(evidence: &mut Evidence, trail: &mut Trail, number: u16, seconds: u64) {
        let handle = evidence.keep(&record(number, seconds));
        evidence.note(trail, handle);
    }

    fn ports(found: &Found<'_>) -> Vec<u16> {
        found.records.iter().map(|(_, record)| record.flow.key.client_port).collect()
    }

    #[test]
    fn the_newest_are_kept() {
        let mut evidence = Evidence::default();
        let first = record(1, 1);
        let handle = evidence.keep(&first);
        assert_eq!(evidence.get(handle), Some(&first));
        let other = record(2, 2);
        for _ in 1..KEPT {
            evidence.keep(&other);
        }
        assert_eq!((evidence.get(handle), evidence.dropped()), (Some(&first), 0), "just so");
        let last = evidence.keep(&other);
        assert_eq!((evidence.get(handle), evidence.get(last)), (None, Some(&other)));
        assert_eq!((evidence.len(), evidence.dropped()), (KEPT, 1));
        assert_eq!(evidence.get(Handle(evidence.next)), None, "not kept yet");
    }

    #[test]
    fn each_finds_its_own_by_time_and_of_a_flow_the_last() {
        let (mut evidence, mut mine, mut other) = (Evidence::default(), Trail::default(), Trail::default());
        assert!(evidence.find(mine).records.is_empty());
        for (number, seconds) in [(1, 10), (2, 30), (3, 20), (1, 25), (4, 30)] {
            note(&mut evidence, &mut mine, number, seconds);
            note(&mut evidence, &mut other, 100 + number, seconds);
        }
        let found = evidence.find(mine);
        assert_eq!((ports(&found), found.cut), (vec![3, 1, 2, 4], false));
        assert_eq!(ports(&evidence.find(other)), [103, 101, 102, 104]);
    }

    #[test]
    fn only_so_many_are_shown_and_that_some_are_gone_is_told() {
        let (mut evidence, mut many, mut few) = (Evidence::default(), Trail::default(), Trail::default());
        (0..30).for_each(|number| note(&mut evidence, &mut many, number, 100 + u64::from(number)));
        note(&mut evidence, &mut few, 50, 100);
        let found = evidence.find(many);
        assert_eq!((ports(&found), found.cut), ((10..30).collect(), false));
        // Others take the places of all records but the last of these.
        let mut rest = Trail::default();
        (0..KEPT - 1).for_each(|_| note(&mut evidence, &mut rest, 60, 200));
        assert_eq!((ports(&evidence.find(few)), evidence.find(few).cut), (vec![50], false));
        let found = evidence.find(many);
        assert_eq!((ports(&found), found.cut), (vec![], true));
        // A record that many note is there, but their notes are not.
        let handle = evidence.keep(&record(70, 300));
        evidence.note(&mut few, handle);
        (0..NOTES - 1).for_each(|_| evidence.note(&mut rest, handle));
        assert_eq!((ports(&evidence.find(few)), evidence.find(few).cut), (vec![70], true));
        evidence.note(&mut rest, handle);
        assert_eq!((ports(&evidence.find(few)), evidence.find(few).cut), (vec![], true));
    }
}
