//! Flow records as IPFIX (RFC 7011) over UDP or TCP: one data record for both directions of a flow (RFC
//! 5103).

mod delta_tracker;
mod message;
mod template;

use std::{sync::Arc, thread, time::Duration};

use self::{
    delta_tracker::DeltaTracker,
    message::{DataRecord, IpfixMessage},
};
use super::{
    FlowEvent,
    gateway::Gateway,
    protocol::Protocol,
    remote_sender::{Encode, RemoteSender},
    worker::{Acceptance, SinkCounters, Transport},
};
use crate::config::{Ipfix, IpfixDestination};
use mailflow_engine::{flow::FlowRecord, time::Time};
use mailflow_kernel::clock;

/// Largest number of records taken from the queue before they are sent.
const PREFETCH_RECORDS: usize = 1_024;
/// Largest datagram that is never fragmented over IPv6: 1,280 bytes less the IPv6 and UDP headers.
const MAX_DATAGRAM_BYTES: usize = 1_232;
/// Largest message over TCP. IPFIX allows 65,535.
const MAX_TCP_MESSAGE_BYTES: usize = 8_192;
/// Interval of the templates over UDP, within which a restarted collector receives them (RFC 7011, 8.4).
const TEMPLATE_REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// Datagrams between two pauses. With [`BURST_PAUSE`] about 90,000 records a second are sent, so that the
/// collector's socket does not overflow.
const BURST_DATAGRAMS: u32 = 32;
/// Pause after a burst of datagrams.
const BURST_PAUSE: Duration = Duration::from_millis(5);

/// Exporter to one collector.
pub(crate) struct IpfixExporter {
    delta_tracker: DeltaTracker,
    remote: RemoteSender<ExportRecord, IpfixSession>,
}

/// Flow record as received and as exported.
struct ExportRecord {
    event: FlowEvent,
    data: DataRecord,
}

impl IpfixExporter {
    /// Creates an exporter to the configured collector.
    pub(crate) fn new(settings: &Ipfix, gateway: &Gateway) -> Self {
        let (protocol, address) = match &settings.to {
            IpfixDestination::Udp(address) => (Protocol::Udp, address),
            IpfixDestination::Tcp(address) => (Protocol::Tcp, address),
        };
        let session = IpfixSession {
            domain: settings.domain,
            name: Arc::clone(gateway.name()),
            sequence: 0,
            templates_due: None,
            carries_templates: false,
            burst: 0,
        };
        Self { delta_tracker: DeltaTracker::default(), remote: RemoteSender::new(protocol, address, session) }
    }
}

impl Transport<FlowEvent> for IpfixExporter {
    fn accept(&mut self, event: FlowEvent) -> Acceptance {
        let (record, epoch) = &event;
        let delta = self.delta_tracker.of(record);
        let data = DataRecord::of(record, &delta, *epoch);
        self.remote.push(ExportRecord { event, data });
        Acceptance::Queued
    }

    fn can_accept(&self) -> bool {
        self.remote.pending_count() < PREFETCH_RECORDS && self.remote.can_accept()
    }

    fn deliver(&mut self, counters: &SinkCounters) -> anyhow::Result<()> {
        self.remote.deliver(counters)
    }

    fn is_empty(&self) -> bool {
        self.remote.is_empty()
    }

    fn take_undelivered(&mut self) -> Vec<FlowEvent> {
        self.remote.take_undelivered().map(|record| record.event).collect()
    }

    fn due(&self) -> Option<Duration> {
        self.remote.due()
    }
}

/// Transport session.
struct IpfixSession {
    domain: u32,
    /// Name of the observation domain: the gateway.
    name: Arc<str>,
    /// Data records sent: since the start of the process over UDP, in the connection over TCP.
    sequence: u32,
    /// Time of the next templates, `None` if they were never sent.
    templates_due: Option<Time>,
    /// True if the last message has the templates.
    carries_templates: bool,
    /// Datagrams since the last pause.
    burst: u32,
}

impl Encode<ExportRecord> for IpfixSession {
    fn begin_session(&mut self, protocol: Protocol) {
        self.templates_due = None;
        if protocol == Protocol::Tcp {
            self.sequence = 0;
        }
    }

    fn build_message(
        &mut self,
        protocol: Protocol,
        items: &mut dyn Iterator<Item = &ExportRecord>,
    ) -> (Vec<u8>, usize) {
        let now = clock::now();
        let seconds = clock::epoch().unix_nanos(now) / 1_000_000_000;
        let max_bytes = if protocol == Protocol::Tcp { MAX_TCP_MESSAGE_BYTES } else { MAX_DATAGRAM_BYTES };
        let mut message = IpfixMessage::new(max_bytes, seconds as u32, self.sequence, self.domain);
        self.carries_templates = self.templates_due.is_none_or(|due| due <= now);
        if self.carries_templates {
            message.add_templates(self.domain, &self.name);
        }
        let records = items.take_while(|record| message.add(&record.data)).count();
        (message.finish(), records)
    }

    fn mark_sent(&mut self, protocol: Protocol, records: usize) {
        if self.carries_templates {
            let refresh = clock::now() + TEMPLATE_REFRESH_INTERVAL;
            self.templates_due = Some(if protocol == Protocol::Tcp { Time::END } else { refresh });
            // The record with the name of the domain is a data record too.
            self.sequence = self.sequence.wrapping_add(1);
        }
        self.sequence = self.sequence.wrapping_add(records as u32);
        if protocol == Protocol::Udp {
            self.burst += 1;
            if self.burst >= BURST_DATAGRAMS {
                self.burst = 0;
                thread::sleep(BURST_PAUSE);
            }
        }
    }

    fn item_size(record: &ExportRecord) -> usize {
        record.data.size() + size_of::<FlowRecord>()
    }
}
