//! Flow records as IPFIX (RFC 7011): one data record for both directions of a flow (RFC 5103), over UDP or TCP.

mod gains;
mod message;
mod template;

use std::{
    collections::VecDeque,
    io::Write,
    net::{TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::Context;

use self::{
    gains::Gains,
    message::{Data, Message},
};
use super::{
    FlowEvent, remote,
    worker::{Counters, Taken, Transport},
};
use crate::{
    clock,
    config::{Ipfix, IpfixTo},
    engine::time::Time,
};

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
pub(super) struct Exporter {
    settings: Ipfix,
    session: Option<Session>,
    gains: Gains,
    waiting: VecDeque<Data>,
    /// Data records sent: in the lifetime of the process over UDP, of the connection over TCP.
    sequence: u32,
}

/// A transport session.
struct Session {
    to: Connection,
    /// When the templates are due; at once where they were never sent.
    templates: Option<Time>,
    /// Datagrams since the last pause.
    burst: u32,
}

enum Connection {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Exporter {
    pub(super) fn new(settings: Ipfix) -> Self {
        Self { settings, session: None, gains: Gains::default(), waiting: VecDeque::new(), sequence: 0 }
    }

    fn connect(&mut self) -> anyhow::Result<Session> {
        let to = match &self.settings.to {
            IpfixTo::Udp(address) => Connection::Udp(remote::udp(address)?),
            IpfixTo::Tcp(address) => {
                let stream = remote::tcp(address)?;
                self.sequence = 0;
                Connection::Tcp(stream)
            }
        };
        Ok(Session { to, templates: None, burst: 0 })
    }

    /// Sends what waits in one message after the other.
    fn send(&mut self, session: &mut Session, counters: &Counters) -> anyhow::Result<()> {
        while !self.waiting.is_empty() {
            let now = clock::now();
            let seconds = clock::epoch().unix_nanos(now) / 1_000_000_000;
            let mut message =
                Message::new(session.largest(), seconds as u32, self.sequence, self.settings.domain);
            if session.templates.is_none_or(|due| due <= now) {
                message.templates();
                session.templates = match session.to {
                    Connection::Udp(_) => Some(now + REFRESH),
                    Connection::Tcp(_) => Some(Time::from_nanos(u64::MAX)),
                };
            }
            let records = self.waiting.iter().take_while(|data| message.add(data)).count();
            session.send(&message.finish())?;
            self.waiting.drain(..records);
            self.sequence = self.sequence.wrapping_add(records as u32);
            counters.delivered(records);
        }
        Ok(())
    }
}

impl Session {
    const fn largest(&self) -> usize {
        match self.to {
            Connection::Udp(_) => DATAGRAM,
            Connection::Tcp(_) => SEGMENT,
        }
    }

    fn send(&mut self, message: &[u8]) -> std::io::Result<()> {
        match &mut self.to {
            Connection::Udp(socket) => {
                socket.send(message)?;
                self.burst += 1;
                if self.burst >= BURST {
                    self.burst = 0;
                    thread::sleep(PAUSE);
                }
                Ok(())
            }
            Connection::Tcp(stream) => {
                // A collector that has gone is noticed before the message goes after it.
                remote::alive(stream)?;
                stream.write_all(message)
            }
        }
    }
}

impl Transport<FlowEvent> for Exporter {
    fn take(&mut self, (record, epoch): FlowEvent) -> Taken {
        let gain = self.gains.of(&record);
        self.waiting.push_back(Data::of(&record, &gain, epoch));
        Taken::Kept
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < AHEAD
    }

    fn deliver(&mut self, counters: &Counters) -> anyhow::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.connect()?,
        };
        // After a failure the next try begins a session anew, with templates.
        self.send(&mut session, counters).with_context(|| self.settings.to.to_string())?;
        self.session = Some(session);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
