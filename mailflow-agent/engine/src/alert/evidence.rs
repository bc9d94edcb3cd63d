//! The records that contributed to what the rules hold, for as long as there is room.
//!
//! Rules remember numbers; the flows behind them are kept here, the newest of all subjects together, so
//! that a million sources that raise no alert cost nothing but this bound. A subject knows the last of its notes,
//! and each note leads to the one before.
//!
//! Subjects that completed no handshake have a ring of their own: a flood of spoofed sources cannot push out the flows of
//! real ones.

use crate::flow::FlowRecord;

/// Most flows shown with an alert.
pub(crate) const SHOWN: usize = 20;

/// Most records kept, about 200 B each: of subjects that completed a handshake, and of others.
const ROOM: [usize; 2] = [1 << 17, 1 << 15];

/// Most records kept of all subjects.
pub(crate) const MAX_RECORDS: usize = ROOM[0] + ROOM[1];

/// Most notes kept for each record, 8 B each: some records are noted under several rules.
const NOTES_PER_RECORD: usize = 2;

/// Marks a handle of the second ring.
const SECOND_HANDLE: u32 = 1 << 31;
/// Marks a trail of the second ring.
const SECOND_TRAIL: u64 = 1 << 63;

/// Which subjects share a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeClass {
    /// Those that completed a handshake.
    Completed,
    /// Others, whose addresses may be spoofed.
    HalfOpen,
}

/// Names a record that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EvidenceHandle(u32);

/// What a subject noted: the number of its last note, from 1; 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EvidenceChain(u64);

/// The newest records.
#[derive(Debug)]
pub(crate) struct Evidence {
    rings: [EvidenceRing; 2],
}

/// The newest records of subjects of one class.
#[derive(Debug)]
struct EvidenceRing {
    /// Most records.
    room: usize,
    /// A ring, once it is full.
    records: Vec<FlowRecord>,
    /// The number of the next record.
    next: u32,
    /// Records that others took the places of, since the start.
    dropped: u64,
    /// A ring, once it is full.
    notes: Vec<EvidenceLink>,
    /// Notes made since the start.
    noted: u64,
}

/// A record noted by a subject.
#[derive(Clone, Copy, Debug)]
struct EvidenceLink {
    handle: EvidenceHandle,
    /// How many notes ago the subject made the one before; 0 where there is none.
    back: u32,
}

/// What a trail leads to.
#[derive(Debug, Default)]
pub(crate) struct EvidenceView<'a> {
    /// The flows noted last, at most [`SHOWN`], each with its last record.
    pub(crate) records: Vec<(EvidenceHandle, &'a FlowRecord)>,
    /// True if there were more that are not kept any more.
    pub(crate) cut: bool,
}

/// A record that is kept once in each ring in which somebody needs it, however many do.
pub(crate) struct LazyEvidence<'a> {
    record: &'a FlowRecord,
    handles: [Option<EvidenceHandle>; 2],
}

impl HandshakeClass {
    pub(crate) fn of(completed: bool) -> Self {
        if completed { Self::Completed } else { Self::HalfOpen }
    }
}

impl EvidenceHandle {
    fn class(self) -> HandshakeClass {
        HandshakeClass::of(self.0 & SECOND_HANDLE == 0)
    }

    fn number(self) -> u32 {
        self.0 & !SECOND_HANDLE
    }
}

impl EvidenceChain {
    fn of(class: HandshakeClass, number: u64) -> Self {
        match class {
            HandshakeClass::Completed => Self(number),
            HandshakeClass::HalfOpen => Self(number | SECOND_TRAIL),
        }
    }

    fn class(self) -> HandshakeClass {
        HandshakeClass::of(self.0 & SECOND_TRAIL == 0)
    }

    fn number(self) -> u64 {
        self.0 & !SECOND_TRAIL
    }
}

impl<'a> LazyEvidence<'a> {
    pub(crate) fn new(record: &'a FlowRecord) -> Self {
        Self { record, handles: [None; 2] }
    }

    /// Notes the record for the subject whose trail this is. The first one after it completed a handshake takes those
    /// before along.
    pub(crate) fn note(&mut self, evidence: &mut Evidence, trail: &mut EvidenceChain, class: HandshakeClass) {
        if class == HandshakeClass::Completed && trail.class() == HandshakeClass::HalfOpen {
            *trail = evidence.promote(*trail);
        }
        let [completed, half_open] = &mut self.handles;
        let known = if class == HandshakeClass::Completed { completed } else { half_open };
        let handle = *known.get_or_insert_with(|| evidence.keep(self.record, class));
        evidence.note(trail, handle);
    }
}

impl Default for Evidence {
    fn default() -> Self {
        Self { rings: ROOM.map(EvidenceRing::new) }
    }
}

impl Evidence {
    /// Keeps a record, in the place of the oldest of its class where there is no other.
    pub(crate) fn keep(&mut self, record: &FlowRecord, class: HandshakeClass) -> EvidenceHandle {
        let number = self.ring_mut(class).keep(record);
        EvidenceHandle(if class == HandshakeClass::Completed { number } else { number | SECOND_HANDLE })
    }

    /// Notes a record for the subject whose trail this is. A trail of the other class ends here.
    pub(crate) fn note(&mut self, trail: &mut EvidenceChain, handle: EvidenceHandle) {
        let class = handle.class();
        let before = if trail.class() == class { trail.number() } else { 0 };
        *trail = EvidenceChain::of(class, self.ring_mut(class).note(before, handle));
    }

    /// What a trail leads to, by time, and of equal times in the order in which it was noted.
    pub(crate) fn find(&self, trail: EvidenceChain) -> EvidenceView<'_> {
        let mut found = self.noted(trail);
        found.records.sort_by_key(|(_, record)| record.time());
        found
    }

    /// What a trail leads to, in the order in which it was noted: noted so again, it leads to the same, and makes
    /// room for others in the same order.
    pub(crate) fn noted(&self, trail: EvidenceChain) -> EvidenceView<'_> {
        self.ring(trail.class()).noted(trail.number())
    }

    /// Records kept.
    pub(crate) fn len(&self) -> usize {
        self.rings.iter().map(|ring| ring.records.len()).sum()
    }

    /// Records that others took the places of, since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.rings.iter().map(|ring| ring.dropped).sum()
    }

    /// The trail of a subject that has just completed a handshake, with what it noted before.
    fn promote(&mut self, trail: EvidenceChain) -> EvidenceChain {
        let records: Vec<_> =
            self.noted(trail).records.into_iter().map(|(_, record)| record.clone()).collect();
        let mut promoted = EvidenceChain::default();
        for record in records {
            let handle = self.keep(&record, HandshakeClass::Completed);
            self.note(&mut promoted, handle);
        }
        promoted
    }

    fn ring(&self, class: HandshakeClass) -> &EvidenceRing {
        let [completed, half_open] = &self.rings;
        if class == HandshakeClass::Completed { completed } else { half_open }
    }

    fn ring_mut(&mut self, class: HandshakeClass) -> &mut EvidenceRing {
        let [completed, half_open] = &mut self.rings;
        if class == HandshakeClass::Completed { completed } else { half_open }
    }
}

impl EvidenceRing {
    fn new(room: usize) -> Self {
        let (records, notes) = (Vec::new(), Vec::new());
        Self { room, records, next: 0, dropped: 0, notes, noted: 0 }
    }

    /// Keeps a record; returns its number.
    fn keep(&mut self, record: &FlowRecord) -> u32 {
        let number = self.next;
        match self.records.get_mut(number as usize % self.room) {
            Some(oldest) => {
                oldest.clone_from(record);
                self.dropped += 1;
            }
            None => self.records.push(record.clone()),
        }
        self.next = self.next.wrapping_add(1) & !SECOND_HANDLE;
        number
    }

    /// Notes a record after the note `before`; returns the number of the note.
    fn note(&mut self, before: u64, handle: EvidenceHandle) -> u64 {
        let number = self.noted + 1;
        let back = if before == 0 { 0 } else { number - before };
        let note = EvidenceLink { handle, back: u32::try_from(back).unwrap_or(u32::MAX) };
        match self.notes.get_mut(self.noted as usize % (self.room * NOTES_PER_RECORD)) {
            Some(oldest) => *oldest = note,
            None => self.notes.push(note),
        }
        self.noted = number;
        number
    }

    fn noted(&self, mut number: u64) -> EvidenceView<'_> {
        let mut found = EvidenceView::default();
        let of = |record: &FlowRecord| (record.flow.key, record.flow.first);
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

    /// A note with its record, if both are still there.
    fn read(&self, number: u64) -> Option<(EvidenceLink, &FlowRecord)> {
        if self.noted - number >= self.notes.len() as u64 {
            return None;
        }
        let note = *self.notes.get((number - 1) as usize % (self.room * NOTES_PER_RECORD))?;
        Some((note, self.get(note.handle.number())?))
    }

    fn get(&self, number: u32) -> Option<&FlowRecord> {
        let age = (self.next.wrapping_sub(number) & !SECOND_HANDLE) as usize;
        if (1..=self.records.len()).contains(&age) {
            self.records.get(number as usize % self.room)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, at};

    /// A record of a flow of its own, by number; its time.
    fn record(number: u16, seconds: u64) -> FlowRecord {
        let mut record = (*fixture::record(at(seconds))).clone();
        record.flow.key.client_port = number;
        record.flow.first = at(1);
        record
    }

    const KEPT: usize = ROOM[0];
    const NOTES: usize = KEPT * NOTES_PER_RECORD;

    fn note(evidence: &mut Evidence, trail: &mut EvidenceChain, number: u16, seconds: u64) {
        let handle = evidence.keep(&record(number, seconds), HandshakeClass::Completed);
        evidence.note(trail, handle);
    }

    fn get(evidence: &Evidence, handle: EvidenceHandle) -> Option<&FlowRecord> {
        evidence.ring(handle.class()).get(handle.number())
    }

    fn ports(found: &EvidenceView<'_>) -> Vec<u16> {
        found.records.iter().map(|(_, record)| record.flow.key.client_port).collect()
    }

    #[test]
    fn the_newest_are_kept() {
        for (class, room) in [(HandshakeClass::Completed, ROOM[0]), (HandshakeClass::HalfOpen, ROOM[1])] {
            let mut evidence = Evidence::default();
            let first = record(1, 1);
            let handle = evidence.keep(&first, class);
            assert_eq!(get(&evidence, handle), Some(&first));
            let other = record(2, 2);
            for _ in 1..room {
                evidence.keep(&other, class);
            }
            assert_eq!((get(&evidence, handle), evidence.dropped()), (Some(&first), 0), "just so");
            let last = evidence.keep(&other, class);
            assert_eq!((get(&evidence, handle), get(&evidence, last)), (None, Some(&other)));
            assert_eq!((evidence.len(), evidence.dropped()), (room, 1));
            assert_eq!(evidence.ring(class).get(last.number() + 1), None, "not kept yet");
        }
    }

    #[test]
    fn numbers_begin_again() {
        for class in [HandshakeClass::Completed, HandshakeClass::HalfOpen] {
            let mut evidence = Evidence::default();
            evidence.ring_mut(class).next = SECOND_HANDLE - 2;
            let mut trail = EvidenceChain::default();
            evidence.ring_mut(class).records = vec![record(9, 9); ROOM[class as usize]];
            for number in 0..4 {
                let handle = evidence.keep(&record(number, 1), class);
                assert_eq!(handle.class(), class);
                evidence.note(&mut trail, handle);
            }
            assert_eq!(ports(&evidence.find(trail)), [0, 1, 2, 3]);
        }
    }

    #[test]
    fn a_flood_of_half_open_sources_pushes_out_nothing_of_others() {
        let (mut evidence, mut real) = (Evidence::default(), EvidenceChain::default());
        let flood = |evidence: &mut Evidence| {
            let spoofed = record(7, 50);
            for _ in 0..2 * KEPT + 1 {
                LazyEvidence::new(&spoofed).note(
                    evidence,
                    &mut EvidenceChain::default(),
                    HandshakeClass::HalfOpen,
                );
            }
        };
        // A SYN that nobody answered, and sessions.
        LazyEvidence::new(&record(1, 10)).note(&mut evidence, &mut real, HandshakeClass::HalfOpen);
        for number in 2..12 {
            let session = record(number, 10 + u64::from(number));
            LazyEvidence::new(&session).note(&mut evidence, &mut real, HandshakeClass::Completed);
            flood(&mut evidence);
        }
        let found = evidence.find(real);
        assert_eq!((ports(&found), found.cut), ((1..12).collect(), false));
        assert!(evidence.len() <= MAX_RECORDS);
        // Two rules note one record, under subjects of both classes.
        let (both, mut other) = (record(12, 40), EvidenceChain::default());
        let mut exhibit = LazyEvidence::new(&both);
        exhibit.note(&mut evidence, &mut real, HandshakeClass::Completed);
        exhibit.note(&mut evidence, &mut other, HandshakeClass::HalfOpen);
        assert_eq!((ports(&evidence.find(real)).len(), ports(&evidence.find(other))), (12, vec![12]));
    }

    #[test]
    fn each_finds_its_own_by_time_and_of_a_flow_the_last() {
        let (mut evidence, mut mine, mut other) =
            (Evidence::default(), EvidenceChain::default(), EvidenceChain::default());
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
        let (mut evidence, mut many, mut few) =
            (Evidence::default(), EvidenceChain::default(), EvidenceChain::default());
        (0..30).for_each(|number| note(&mut evidence, &mut many, number, 100 + u64::from(number)));
        note(&mut evidence, &mut few, 50, 100);
        let found = evidence.find(many);
        assert_eq!((ports(&found), found.cut), ((10..30).collect(), false));
        // Others take the places of all records but the last of these.
        let mut rest = EvidenceChain::default();
        (0..KEPT - 1).for_each(|_| note(&mut evidence, &mut rest, 60, 200));
        assert_eq!((ports(&evidence.find(few)), evidence.find(few).cut), (vec![50], false));
        let found = evidence.find(many);
        assert_eq!((ports(&found), found.cut), (vec![], true));
        // A record that many note is there, but their notes are not.
        let handle = evidence.keep(&record(70, 300), HandshakeClass::Completed);
        evidence.note(&mut few, handle);
        (0..NOTES - 1).for_each(|_| evidence.note(&mut rest, handle));
        assert_eq!((ports(&evidence.find(few)), evidence.find(few).cut), (vec![70], true));
        evidence.note(&mut rest, handle);
        assert_eq!((ports(&evidence.find(few)), evidence.find(few).cut), (vec![], true));
    }
}
