//! Evidence: ring buffers of the records that contributed to groups.
//!
//! Windows keep numbers; the rings keep the flows behind them, the newest of all groups together. So a million
//! sources without an alert cost no more memory than the rings. A group has the number of its last link, and each
//! link refers to the previous one of its group.
//!
//! Groups without a completed handshake use a ring of their own, so that a flood of spoofed sources does not
//! overwrite the flows of real ones.

use crate::flow::FlowRecord;

/// Most flows of an alert.
pub(crate) const MAX_ALERT_FLOWS: usize = 20;

/// Capacity of each ring in records, about 200 B each: of groups with a completed handshake, and of half-open
/// groups.
const RING_RECORDS: [usize; 2] = [1 << 17, 1 << 15];

/// Capacity of both rings, in records.
pub(crate) const MAX_RECORDS: usize = RING_RECORDS[0] + RING_RECORDS[1];

/// Links for each record of capacity, 8 B each. Several, as several rules can link one record.
const LINKS_PER_RECORD: usize = 2;

/// Bit of a handle of the half-open ring.
const HALF_OPEN_HANDLE: u32 = 1 << 31;
/// Bit of a chain of the half-open ring.
const HALF_OPEN_CHAIN: u64 = 1 << 63;

/// Class of a group, which selects its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeClass {
    /// Group with a completed handshake.
    Completed,
    /// Half-open group, whose address may be spoofed.
    HalfOpen,
}

/// Handle of a stored record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EvidenceHandle(u32);

/// Chain of a group's links: the number of the last link, from 1; 0 without a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EvidenceChain(u64);

/// Evidence of all groups.
#[derive(Debug)]
pub(crate) struct Evidence {
    rings: [EvidenceRing; 2],
}

/// Ring of the groups of one class.
#[derive(Debug)]
struct EvidenceRing {
    /// Capacity in records.
    capacity: usize,
    /// Ring buffer, once it is full.
    records: Vec<FlowRecord>,
    /// Number of the next record.
    next: u32,
    /// Records that were overwritten, since the start.
    overwritten: u64,
    /// Ring buffer, once it is full.
    links: Vec<EvidenceLink>,
    /// Links that were created, since the start.
    link_count: u64,
}

/// Link of a group to a record.
#[derive(Clone, Copy, Debug)]
struct EvidenceLink {
    handle: EvidenceHandle,
    /// Distance to the previous link of the group; 0 if there is none.
    distance: u32,
}

/// Records of a chain.
#[derive(Debug, Default)]
pub(crate) struct EvidenceView<'a> {
    /// Newest flows of the chain, at most [`MAX_ALERT_FLOWS`], each with its last record.
    pub(crate) records: Vec<(EvidenceHandle, &'a FlowRecord)>,
    /// True if further records of the chain were overwritten.
    pub(crate) is_truncated: bool,
}

/// Record that is stored in a ring at most once, when the first group links it.
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
        HandshakeClass::of(self.0 & HALF_OPEN_HANDLE == 0)
    }

    fn number(self) -> u32 {
        self.0 & !HALF_OPEN_HANDLE
    }
}

impl EvidenceChain {
    fn of(class: HandshakeClass, number: u64) -> Self {
        match class {
            HandshakeClass::Completed => Self(number),
            HandshakeClass::HalfOpen => Self(number | HALF_OPEN_CHAIN),
        }
    }

    fn class(self) -> HandshakeClass {
        HandshakeClass::of(self.0 & HALF_OPEN_CHAIN == 0)
    }

    fn number(self) -> u64 {
        self.0 & !HALF_OPEN_CHAIN
    }
}

impl<'a> LazyEvidence<'a> {
    pub(crate) fn new(record: &'a FlowRecord) -> Self {
        Self { record, handles: [None; 2] }
    }

    /// Links the record to a chain. At the first link after a completed handshake, the earlier records of the chain
    /// move to the ring of its new class.
    pub(crate) fn link(&mut self, evidence: &mut Evidence, chain: &mut EvidenceChain, class: HandshakeClass) {
        if class == HandshakeClass::Completed && chain.class() == HandshakeClass::HalfOpen {
            *chain = evidence.promote(*chain);
        }
        let [completed, half_open] = &mut self.handles;
        let handle_slot = if class == HandshakeClass::Completed { completed } else { half_open };
        let handle = *handle_slot.get_or_insert_with(|| evidence.store_record(self.record, class));
        evidence.link(chain, handle);
    }
}

impl Default for Evidence {
    fn default() -> Self {
        Self { rings: RING_RECORDS.map(EvidenceRing::new) }
    }
}

impl Evidence {
    /// Stores a record, and overwrites the oldest of its class if the ring is full.
    pub(crate) fn store_record(&mut self, record: &FlowRecord, class: HandshakeClass) -> EvidenceHandle {
        let number = self.ring_mut(class).store_record(record);
        EvidenceHandle(if class == HandshakeClass::Completed { number } else { number | HALF_OPEN_HANDLE })
    }

    /// Links a record to a chain. A chain of the other class starts again.
    pub(crate) fn link(&mut self, chain: &mut EvidenceChain, handle: EvidenceHandle) {
        let class = handle.class();
        let previous = if chain.class() == class { chain.number() } else { 0 };
        *chain = EvidenceChain::of(class, self.ring_mut(class).link(previous, handle));
    }

    /// Returns the records of a chain by event time; of equal times, in the order of their links.
    pub(crate) fn find(&self, chain: EvidenceChain) -> EvidenceView<'_> {
        let mut view = self.linked(chain);
        view.records.sort_by_key(|(_, record)| record.time());
        view
    }

    /// Returns the records of a chain in the order of their links. Linked again in this order, they give an equal
    /// chain and are overwritten in an equal order.
    pub(crate) fn linked(&self, chain: EvidenceChain) -> EvidenceView<'_> {
        self.ring(chain.class()).linked(chain.number())
    }

    /// Returns the number of stored records.
    pub(crate) fn len(&self) -> usize {
        self.rings.iter().map(|ring| ring.records.len()).sum()
    }

    /// Returns the number of records that were overwritten, since the start.
    pub(crate) fn overwritten(&self) -> u64 {
        self.rings.iter().map(|ring| ring.overwritten).sum()
    }

    /// Copies a half-open chain to the ring of completed groups, and returns the new chain.
    fn promote(&mut self, chain: EvidenceChain) -> EvidenceChain {
        let records: Vec<_> =
            self.linked(chain).records.into_iter().map(|(_, record)| record.clone()).collect();
        let mut promoted = EvidenceChain::default();
        for record in records {
            let handle = self.store_record(&record, HandshakeClass::Completed);
            self.link(&mut promoted, handle);
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
    fn new(capacity: usize) -> Self {
        let (records, links) = (Vec::new(), Vec::new());
        Self { capacity, records, next: 0, overwritten: 0, links, link_count: 0 }
    }

    /// Stores a record, and returns its number.
    fn store_record(&mut self, record: &FlowRecord) -> u32 {
        let number = self.next;
        match self.records.get_mut(number as usize % self.capacity) {
            Some(oldest) => {
                oldest.clone_from(record);
                self.overwritten += 1;
            }
            None => self.records.push(record.clone()),
        }
        self.next = self.next.wrapping_add(1) & !HALF_OPEN_HANDLE;
        number
    }

    /// Links a record after the link `previous`, and returns the number of the link.
    fn link(&mut self, previous: u64, handle: EvidenceHandle) -> u64 {
        let number = self.link_count + 1;
        let distance = if previous == 0 { 0 } else { number - previous };
        let link = EvidenceLink { handle, distance: u32::try_from(distance).unwrap_or(u32::MAX) };
        match self.links.get_mut(self.link_count as usize % (self.capacity * LINKS_PER_RECORD)) {
            Some(oldest) => *oldest = link,
            None => self.links.push(link),
        }
        self.link_count = number;
        number
    }

    fn linked(&self, mut number: u64) -> EvidenceView<'_> {
        let mut view = EvidenceView::default();
        let of = |record: &FlowRecord| (record.flow.key, record.flow.first);
        while number > 0 && view.records.len() < MAX_ALERT_FLOWS {
            let Some((link, record)) = self.read_link(number) else {
                view.is_truncated = true;
                break;
            };
            // A later record of a flow replaces the earlier ones.
            if !view.records.iter().any(|(_, handle_slot)| of(handle_slot) == of(record)) {
                view.records.push((link.handle, record));
            }
            number = if link.distance == 0 { 0 } else { number.saturating_sub(u64::from(link.distance)) };
        }
        view.records.reverse();
        view
    }

    /// Returns a link with its record, unless one was overwritten.
    fn read_link(&self, number: u64) -> Option<(EvidenceLink, &FlowRecord)> {
        if self.link_count - number >= self.links.len() as u64 {
            return None;
        }
        let link = *self.links.get((number - 1) as usize % (self.capacity * LINKS_PER_RECORD))?;
        Some((link, self.get(link.handle.number())?))
    }

    fn get(&self, number: u32) -> Option<&FlowRecord> {
        let age = (self.next.wrapping_sub(number) & !HALF_OPEN_HANDLE) as usize;
        if (1..=self.records.len()).contains(&age) {
            self.records.get(number as usize % self.capacity)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, at};

    /// Returns a record of a flow with this client port, at this time.
    fn record(number: u16, seconds: u64) -> FlowRecord {
        let mut record = (*fixture::record(at(seconds))).clone();
        record.flow.key.client_port = number;
        record.flow.first = at(1);
        record
    }

    const KEPT: usize = RING_RECORDS[0];
    const NOTES: usize = KEPT * LINKS_PER_RECORD;

    fn link(evidence: &mut Evidence, chain: &mut EvidenceChain, number: u16, seconds: u64) {
        let handle = evidence.store_record(&record(number, seconds), HandshakeClass::Completed);
        evidence.link(chain, handle);
    }

    fn get(evidence: &Evidence, handle: EvidenceHandle) -> Option<&FlowRecord> {
        evidence.ring(handle.class()).get(handle.number())
    }

    fn ports(view: &EvidenceView<'_>) -> Vec<u16> {
        view.records.iter().map(|(_, record)| record.flow.key.client_port).collect()
    }

    #[test]
    fn a_ring_keeps_the_newest_records() {
        for (class, capacity) in
            [(HandshakeClass::Completed, RING_RECORDS[0]), (HandshakeClass::HalfOpen, RING_RECORDS[1])]
        {
            let mut evidence = Evidence::default();
            let first = record(1, 1);
            let handle = evidence.store_record(&first, class);
            assert_eq!(get(&evidence, handle), Some(&first));
            let other = record(2, 2);
            for _ in 1..capacity {
                evidence.store_record(&other, class);
            }
            assert_eq!((get(&evidence, handle), evidence.overwritten()), (Some(&first), 0), "just so");
            let last = evidence.store_record(&other, class);
            assert_eq!((get(&evidence, handle), get(&evidence, last)), (None, Some(&other)));
            assert_eq!((evidence.len(), evidence.overwritten()), (capacity, 1));
            assert_eq!(evidence.ring(class).get(last.number() + 1), None, "not kept yet");
        }
    }

    #[test]
    fn record_numbers_wrap_around() {
        for class in [HandshakeClass::Completed, HandshakeClass::HalfOpen] {
            let mut evidence = Evidence::default();
            evidence.ring_mut(class).next = HALF_OPEN_HANDLE - 2;
            let mut chain = EvidenceChain::default();
            evidence.ring_mut(class).records = vec![record(9, 9); RING_RECORDS[class as usize]];
            for number in 0..4 {
                let handle = evidence.store_record(&record(number, 1), class);
                assert_eq!(handle.class(), class);
                evidence.link(&mut chain, handle);
            }
            assert_eq!(ports(&evidence.find(chain)), [0, 1, 2, 3]);
        }
    }

    #[test]
    fn half_open_sources_overwrite_no_evidence_of_others() {
        let (mut evidence, mut real) = (Evidence::default(), EvidenceChain::default());
        let flood = |evidence: &mut Evidence| {
            let spoofed = record(7, 50);
            for _ in 0..2 * KEPT + 1 {
                LazyEvidence::new(&spoofed).link(
                    evidence,
                    &mut EvidenceChain::default(),
                    HandshakeClass::HalfOpen,
                );
            }
        };
        // One unanswered SYN, and then sessions.
        LazyEvidence::new(&record(1, 10)).link(&mut evidence, &mut real, HandshakeClass::HalfOpen);
        for number in 2..12 {
            let session = record(number, 10 + u64::from(number));
            LazyEvidence::new(&session).link(&mut evidence, &mut real, HandshakeClass::Completed);
            flood(&mut evidence);
        }
        let view = evidence.find(real);
        assert_eq!((ports(&view), view.is_truncated), ((1..12).collect(), false));
        assert!(evidence.len() <= MAX_RECORDS);
        // Two rules link one record, under groups of both classes.
        let (both, mut other) = (record(12, 40), EvidenceChain::default());
        let mut lazy = LazyEvidence::new(&both);
        lazy.link(&mut evidence, &mut real, HandshakeClass::Completed);
        lazy.link(&mut evidence, &mut other, HandshakeClass::HalfOpen);
        assert_eq!((ports(&evidence.find(real)).len(), ports(&evidence.find(other))), (12, vec![12]));
    }

    #[test]
    fn a_chain_has_the_last_record_of_each_flow_by_time() {
        let (mut evidence, mut mine, mut other) =
            (Evidence::default(), EvidenceChain::default(), EvidenceChain::default());
        assert!(evidence.find(mine).records.is_empty());
        for (number, seconds) in [(1, 10), (2, 30), (3, 20), (1, 25), (4, 30)] {
            link(&mut evidence, &mut mine, number, seconds);
            link(&mut evidence, &mut other, 100 + number, seconds);
        }
        let view = evidence.find(mine);
        assert_eq!((ports(&view), view.is_truncated), (vec![3, 1, 2, 4], false));
        assert_eq!(ports(&evidence.find(other)), [103, 101, 102, 104]);
    }

    #[test]
    fn a_view_has_a_limit_and_reports_overwritten_records() {
        let (mut evidence, mut many, mut few) =
            (Evidence::default(), EvidenceChain::default(), EvidenceChain::default());
        (0..30).for_each(|number| link(&mut evidence, &mut many, number, 100 + u64::from(number)));
        link(&mut evidence, &mut few, 50, 100);
        let view = evidence.find(many);
        assert_eq!((ports(&view), view.is_truncated), ((10..30).collect(), false));
        // Other records overwrite all of these but the last one.
        let mut rest = EvidenceChain::default();
        (0..KEPT - 1).for_each(|_| link(&mut evidence, &mut rest, 60, 200));
        assert_eq!((ports(&evidence.find(few)), evidence.find(few).is_truncated), (vec![50], false));
        let view = evidence.find(many);
        assert_eq!((ports(&view), view.is_truncated), (vec![], true));
        // A record with many links is still stored, while its first links are overwritten.
        let handle = evidence.store_record(&record(70, 300), HandshakeClass::Completed);
        evidence.link(&mut few, handle);
        (0..NOTES - 1).for_each(|_| evidence.link(&mut rest, handle));
        assert_eq!((ports(&evidence.find(few)), evidence.find(few).is_truncated), (vec![70], true));
        evidence.link(&mut rest, handle);
        assert_eq!((ports(&evidence.find(few)), evidence.find(few).is_truncated), (vec![], true));
    }
}
