//! Alerts to a syslog server (RFC 5424) over a Unix socket, UDP (RFC 5426) or TCP (RFC 6587, with octet
//! counting).

use std::{
    collections::VecDeque,
    fmt::Write as _,
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;

use super::{
    AlertEvent,
    eve::common::EveTimestamp,
    gateway::Gateway,
    profile::EventFormat,
    protocol::Protocol,
    remote_sender::{Encode, RemoteSender},
    summary::{priority, summary, threshold, value},
    worker::{Acceptance, SinkCounters, Transport},
};
use crate::config::{Syslog as Settings, SyslogDestination, SyslogMessage};
use mailflow_engine::{event::Alert, settings::unit, time::WallClockOffset};

/// SD-ID of the structured data. The number is reserved for documentation (RFC 5612).
const STRUCTURED_DATA_ID: &str = "mailflow@32473";
/// End of a truncated sentence.
const ELLIPSIS: &str = "...";
/// Largest number of messages taken from the queue before they are sent.
const PREFETCH_MESSAGES: usize = 256;
/// Timeout of a write to a server that does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Transport to a syslog server.
pub(crate) struct SyslogWriter {
    settings: Settings,
    gateway: Gateway,
    to: SyslogTransport,
}

/// Transport to a local or a remote server.
enum SyslogTransport {
    Unix(UnixSocketSender),
    RemoteSender(Box<RemoteSender<String, SyslogFraming>>),
}

impl SyslogWriter {
    /// Creates a transport to the configured server.
    pub(crate) fn new(settings: Settings, gateway: Gateway) -> Self {
        let to =
            match &settings.to {
                SyslogDestination::Unix(path) => SyslogTransport::Unix(UnixSocketSender::new(path)),
                SyslogDestination::Udp(address) => SyslogTransport::RemoteSender(Box::new(
                    RemoteSender::new(Protocol::Udp, address, SyslogFraming),
                )),
                SyslogDestination::Tcp(address) => SyslogTransport::RemoteSender(Box::new(
                    RemoteSender::new(Protocol::Tcp, address, SyslogFraming),
                )),
            };
        Self { settings, gateway, to }
    }

    /// Formats a message of at most `max_size` bytes.
    fn format_message(&self, alert: &Alert, epoch: WallClockOffset) -> serde_json::Result<String> {
        let max_bytes = self.settings.max_size;
        let (header, data) = header(&self.settings, &self.gateway, alert, epoch);
        // The sentence contains the same information as the structured data.
        let min_length = header.len() + 1 + data.len() + 1 + ELLIPSIS.len();
        let data = if min_length > max_bytes { "-".to_owned() } else { data };
        let prefix = format!("{header} {data} ");
        let remaining_bytes = max_bytes.saturating_sub(prefix.len());
        let mut sentence = summary(alert);
        if let SyslogMessage::Json(profile) = self.settings.message {
            let format = EventFormat { profile, gateway: self.gateway.clone() };
            if let Some(line) = format.alert_line_within(alert, epoch, remaining_bytes)? {
                return Ok(prefix + &line);
            }
            let _ = write!(sentence, "; {} flows left out", alert.flows.len());
        }
        Ok(prefix + &truncate(sentence, remaining_bytes))
    }
}

/// Truncates a text of more than `max_bytes` at a character boundary.
fn truncate(mut text: String, max_bytes: usize) -> String {
    if text.len() > max_bytes {
        text.truncate(text.floor_char_boundary(max_bytes.saturating_sub(ELLIPSIS.len())));
        text.push_str(ELLIPSIS);
    }
    text
}

impl Transport<AlertEvent> for SyslogWriter {
    fn accept(&mut self, (alert, epoch): AlertEvent) -> Acceptance {
        let message = match self.format_message(&alert, epoch) {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(%error, "failed to format an alert as JSON; it is lost");
                return Acceptance::Dropped;
            }
        };
        match &mut self.to {
            SyslogTransport::Unix(local) => local.waiting.push_back(message),
            SyslogTransport::RemoteSender(remote) => remote.push(message),
        }
        Acceptance::Queued
    }

    fn can_accept(&self) -> bool {
        match &self.to {
            SyslogTransport::Unix(local) => local.waiting.len() < PREFETCH_MESSAGES,
            SyslogTransport::RemoteSender(remote) => {
                remote.pending_count() < PREFETCH_MESSAGES && remote.can_accept()
            }
        }
    }

    fn deliver(&mut self, counters: &SinkCounters) -> anyhow::Result<()> {
        match &mut self.to {
            SyslogTransport::Unix(local) => local.deliver(counters),
            SyslogTransport::RemoteSender(remote) => remote.deliver(counters),
        }
        .with_context(|| self.settings.to.to_string())
    }

    fn is_empty(&self) -> bool {
        match &self.to {
            SyslogTransport::Unix(local) => local.waiting.is_empty(),
            SyslogTransport::RemoteSender(remote) => remote.is_empty(),
        }
    }

    fn due(&self) -> Option<Duration> {
        match &self.to {
            SyslogTransport::Unix(_) => None,
            SyslogTransport::RemoteSender(remote) => remote.due(),
        }
    }
}

/// Framing of messages: none in datagrams, octet counting in a stream.
struct SyslogFraming;

impl Encode<String> for SyslogFraming {
    fn begin_session(&mut self, _: Protocol) {}

    fn build_message(
        &mut self,
        protocol: Protocol,
        items: &mut dyn Iterator<Item = &String>,
    ) -> (Vec<u8>, usize) {
        let message = items.next().map_or("", String::as_str);
        let framed = match protocol {
            Protocol::Tcp => format!("{} {message}", message.len()),
            Protocol::Udp => message.to_owned(),
        };
        (framed.into_bytes(), 1)
    }

    fn mark_sent(&mut self, _: Protocol, _: usize) {}

    fn item_size(message: &String) -> usize {
        message.len()
    }
}

/// Sender to a local server. A message that the socket accepts is delivered.
struct UnixSocketSender {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    waiting: VecDeque<String>,
}

impl UnixSocketSender {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), socket: None, waiting: VecDeque::new() }
    }

    /// Sends the pending messages.
    fn deliver(&mut self, counters: &SinkCounters) -> anyhow::Result<()> {
        while let Some(message) = self.waiting.front() {
            let socket = match self.socket.take() {
                Some(socket) => socket,
                None => self.connect()?,
            };
            socket.send(message.as_bytes())?;
            self.socket = Some(socket);
            self.waiting.pop_front();
            counters.count_delivered(1);
        }
        Ok(())
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
        socket.connect(&self.path)?;
        Ok(socket)
    }
}

/// Returns the header and the structured data.
fn header(settings: &Settings, gateway: &Gateway, alert: &Alert, epoch: WallClockOffset) -> (String, String) {
    let hostname = gateway.name();
    let pri = u16::from(settings.facility) * 8 + u16::from(priority(alert));
    let time = EveTimestamp::of(alert.time, epoch).rfc3339();
    let pid = std::process::id();
    let header = format!("<{pri}>1 {time} {hostname} mailflow-agent {pid} alert");
    let mut text = format!("[{STRUCTURED_DATA_ID}");
    let mut parameter = |name: &str, value: &str| {
        let _ = write!(text, " {name}=\"");
        for character in value.chars() {
            if matches!(character, '"' | '\\' | ']') {
                text.push('\\');
            }
            text.push(character);
        }
        text.push('"');
    };
    parameter("rule", &alert.rule);
    parameter("state", alert.state.name());
    parameter("severity", alert.severity.name());
    parameter("subject", &alert.group_key.to_string());
    if let Some(source) = &alert.source {
        parameter("source", &source.to_string());
    }
    parameter("fingerprint", &alert.fingerprint);
    parameter("starts_at", &EveTimestamp::of_start(alert).rfc3339());
    if let Some(end) = EveTimestamp::of_end(alert, epoch) {
        parameter("ends_at", &end.rfc3339());
    }
    parameter("condition", &alert.deciding_term.name);
    parameter("unit", unit(&alert.deciding_term.name));
    parameter("value", &value(alert));
    parameter("threshold", &threshold(alert));
    parameter("gateway", hostname);
    parameter("interfaces", &gateway.interfaces_of(alert).join(" "));
    text.push(']');
    (header, text)
}
