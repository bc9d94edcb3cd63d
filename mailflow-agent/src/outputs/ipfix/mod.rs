//! Flow records as IPFIX (RFC 7011): one data record for both directions of a flow (RFC 5103), over UDP or TCP.

mod gains;
mod message;
mod template;

use std::{sync::Arc, thread, time::Duration};

use self::{
    gains::Gains,
    message::{Data, Message},
};
use super::{
    FlowEvent,
    gateway::Gateway,
    protocol::Protocol,
    remote::{Encode, Remote},
    worker::{Counters, Taken, Transport},
};
use crate::config::{Ipfix, IpfixDestination};
use mailflow_engine::{flow::FlowRecord, time::Time};
use mailflow_kernel::clock;

/// Records taken out of the queue ahead of their delivery.
const AHEAD: usize = 1_024;
/// What passes any IPv6 path unfragmented: 1,280 bytes less the headers of IPv6 and UDP.
const DATAGRAM: usize = 1_232;
/// A message over TCP; at most 65,535.
const SEGMENT: usize = 8_192;
/// Over UDP a collector that was started anew learns the templates within this time (RFC 7011, 8.4).
const REFRESH: Duration = Duration::from_secs(60);
/// After so many datagrams a pause, so that a collector's socket does not overflow: about 90,000 records
/// a second.
const BURST: u32 = 32;
const PAUSE: Duration = Duration::from_millis(5);

/// Exports to one collector.
pub(crate) struct Exporter {
    gains: Gains,
    remote: Remote<Record, Session>,
}

/// A flow record, as it came and as it is exported.
struct Record {
    event: FlowEvent,
    data: Data,
}

impl Exporter {
    pub(crate) fn new(settings: &Ipfix, gateway: &Gateway) -> Self {
        let (protocol, address) = match &settings.to {
            IpfixDestination::Udp(address) => (Protocol::Udp, address),
            IpfixDestination::Tcp(address) => (Protocol::Tcp, address),
        };
        let session = Session {
            domain: settings.domain,
            name: Arc::clone(gateway.name()),
            sequence: 0,
            templates: None,
            teaches: false,
            burst: 0,
        };
        Self { gains: Gains::default(), remote: Remote::new(protocol, address, session) }
    }
}

impl Transport<FlowEvent> for Exporter {
    fn take(&mut self, event: FlowEvent) -> Taken {
        let (record, epoch) = &event;
        let gain = self.gains.of(record);
        let data = Data::of(record, &gain, *epoch);
        self.remote.push(Record { event, data });
        Taken::Kept
    }

    fn has_room(&self) -> bool {
        self.remote.waiting() < AHEAD && self.remote.has_room()
    }

    fn deliver(&mut self, counters: &Counters) -> anyhow::Result<()> {
        self.remote.deliver(counters)
    }

    fn is_empty(&self) -> bool {
        self.remote.is_empty()
    }

    fn take_back(&mut self) -> Vec<FlowEvent> {
        self.remote.take_back().map(|record| record.event).collect()
    }

    fn due(&self) -> Option<Duration> {
        self.remote.due()
    }
}

/// A transport session, and what it begins with.
struct Session {
    domain: u32,
    /// What the domain is called: the gateway.
    name: Arc<str>,
    /// Data records sent: in the lifetime of the process over UDP, of the connection over TCP.
    sequence: u32,
    /// When the templates are due; at once where they were never sent.
    templates: Option<Time>,
    /// The last message has them.
    teaches: bool,
    /// Datagrams since the last pause.
    burst: u32,
}

impl Encode<Record> for Session {
    fn begin(&mut self, protocol: Protocol) {
        self.templates = None;
        if protocol == Protocol::Tcp {
            self.sequence = 0;
        }
    }

    fn message(&mut self, protocol: Protocol, items: &mut dyn Iterator<Item = &Record>) -> (Vec<u8>, usize) {
        let now = clock::now();
        let seconds = clock::epoch().unix_nanos(now) / 1_000_000_000;
        let largest = if protocol == Protocol::Tcp { SEGMENT } else { DATAGRAM };
        let mut message = Message::new(largest, seconds as u32, self.sequence, self.domain);
        self.teaches = self.templates.is_none_or(|due| due <= now);
        if self.teaches {
            message.templates(self.domain, &self.name);
        }
        let records = items.take_while(|record| message.add(&record.data)).count();
        (message.finish(), records)
    }

    fn sent(&mut self, protocol: Protocol, records: usize) {
        if self.teaches {
            let refresh = clock::now() + REFRESH;
            self.templates = Some(if protocol == Protocol::Tcp { Time::END } else { refresh });
            // The record that names the domain is a data record too.
            self.sequence = self.sequence.wrapping_add(1);
        }
        self.sequence = self.sequence.wrapping_add(records as u32);
        if protocol == Protocol::Udp {
            self.burst += 1;
            if self.burst >= BURST {
                self.burst = 0;
                thread::sleep(PAUSE);
            }
        }
    }

    fn size(record: &Record) -> usize {
        record.data.size() + size_of::<FlowRecord>()
    }
}
