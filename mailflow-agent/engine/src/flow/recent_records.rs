//! Ring buffer of the newest records of all flows.

use std::{collections::VecDeque, net::IpAddr};

use super::record::FlowRecord;

/// Capacity in records, about 240 B each, unless all records are retained.
pub(crate) const MAX_RECENT_RECORDS: usize = 1 << 14;

/// Newest records of all flows, also of those that no rule matches.
#[derive(Debug)]
pub(crate) struct RecentRecords {
    records: VecDeque<FlowRecord>,
    /// Client of each record, so that a search by client does not read the records.
    clients: VecDeque<IpAddr>,
    capacity: usize,
}

impl RecentRecords {
    /// Returns an empty buffer with the capacity [`MAX_RECENT_RECORDS`].
    pub(crate) fn new() -> Self {
        Self { records: VecDeque::new(), clients: VecDeque::new(), capacity: MAX_RECENT_RECORDS }
    }

    /// Appends a record, and removes the oldest if the buffer is full.
    pub(crate) fn push(&mut self, record: &FlowRecord) {
        if self.records.len() >= self.capacity {
            self.records.pop_front();
            self.clients.pop_front();
        }
        self.records.push_back(record.clone());
        self.clients.push_back(record.flow.client());
    }

    /// Removes the capacity limit.
    pub(crate) fn retain_all(&mut self) {
        self.capacity = usize::MAX;
    }

    /// Returns the oldest record.
    pub(crate) fn oldest(&self) -> Option<&FlowRecord> {
        self.records.front()
    }

    /// Returns all records, oldest first.
    pub(crate) fn all(&self) -> impl DoubleEndedIterator<Item = &FlowRecord> {
        self.records.iter()
    }

    /// Returns the records of the wanted clients, oldest first.
    pub(crate) fn by_client(&self, is_wanted: impl Fn(IpAddr) -> bool) -> impl Iterator<Item = &FlowRecord> {
        let by_client = self.clients.iter().zip(&self.records).filter(move |(client, _)| is_wanted(**client));
        by_client.map(|(_, record)| record)
    }
}
