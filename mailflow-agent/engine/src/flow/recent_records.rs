//! Ring of the newest records of all flows.

use std::{collections::VecDeque, net::IpAddr};

use super::record::FlowRecord;

/// Newest records remembered, about 240 B each, unless there is to be no bound.
pub(crate) const MAX_RECENT_RECORDS: usize = 1 << 14;

/// The newest records of all flows, counted by a rule or not.
#[derive(Debug)]
pub(crate) struct RecentRecords {
    records: VecDeque<FlowRecord>,
    /// Their clients: to look for one's records, the others are not touched.
    clients: VecDeque<IpAddr>,
    capacity: usize,
}

impl RecentRecords {
    /// Without any record yet, and room for [`MAX_RECENT_RECORDS`].
    pub(crate) fn new() -> Self {
        Self { records: VecDeque::new(), clients: VecDeque::new(), capacity: MAX_RECENT_RECORDS }
    }

    /// Remembers a record, in the place of the oldest where there is no other.
    pub(crate) fn push(&mut self, record: &FlowRecord) {
        if self.records.len() >= self.capacity {
            self.records.pop_front();
            self.clients.pop_front();
        }
        self.records.push_back(record.clone());
        self.clients.push_back(record.flow.client());
    }

    /// From now on nothing is forgotten.
    pub(crate) fn retain_all(&mut self) {
        self.capacity = usize::MAX;
    }

    /// The oldest.
    pub(crate) fn oldest(&self) -> Option<&FlowRecord> {
        self.records.front()
    }

    /// All of them, the oldest first.
    pub(crate) fn all(&self) -> impl DoubleEndedIterator<Item = &FlowRecord> {
        self.records.iter()
    }

    /// Those of clients that fit, the oldest first.
    pub(crate) fn by_client(&self, is_wanted: impl Fn(IpAddr) -> bool) -> impl Iterator<Item = &FlowRecord> {
        let by_client = self.clients.iter().zip(&self.records).filter(move |(client, _)| is_wanted(**client));
        by_client.map(|(_, record)| record)
    }
}
