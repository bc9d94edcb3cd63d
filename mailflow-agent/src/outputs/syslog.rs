//! Alerts to a syslog server (RFC 5424) over a Unix socket, UDP (RFC 5426) or TCP (RFC 6587, each message
//! with its length before it).

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
    eve::common::Moment,
    gateway::Gateway,
    profile::Format,
    protocol::Protocol,
    remote::{Encode, Remote},
    summary::{priority, summary, threshold, value},
    worker::{Counters, Taken, Transport},
};
use crate::config::{Syslog as Settings, SyslogMessage, SyslogTo};
use mailflow_engine::{event::Alert, settings::unit, time::WallClockOffset};

/// Names our structured data; the number is the one for documentation (RFC 5612).
const DATA: &str = "mailflow@32473";
/// Stands at the end of a sentence that is cut.
const CUT: &str = "...";
/// Messages taken out of the queue ahead of their delivery.
const AHEAD: usize = 256;
/// Limit of a write to a server that does not read.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A syslog server.
pub(crate) struct Syslog {
    settings: Settings,
    gateway: Gateway,
    to: To,
}

enum To {
    Unix(Local),
    Remote(Box<Remote<String, Framing>>),
}

impl Syslog {
    pub(crate) fn new(settings: Settings, gateway: Gateway) -> Self {
        let to = match &settings.to {
            SyslogTo::Unix(path) => To::Unix(Local::new(path)),
            SyslogTo::Udp(address) => To::Remote(Box::new(Remote::new(Protocol::Udp, address, Framing))),
            SyslogTo::Tcp(address) => To::Remote(Box::new(Remote::new(Protocol::Tcp, address, Framing))),
        };
        Self { settings, gateway, to }
    }

    /// The message, of at most `max_size` bytes.
    fn message(&self, alert: &Alert, epoch: WallClockOffset) -> serde_json::Result<String> {
        let most = self.settings.max_size;
        let (header, data) = header(&self.settings, &self.gateway, alert, epoch);
        // The data that is structured says what the sentence says.
        let longest_cut = header.len() + 1 + data.len() + 1 + CUT.len();
        let data = if longest_cut > most { "-".to_owned() } else { data };
        let begin = format!("{header} {data} ");
        let left = most.saturating_sub(begin.len());
        let mut sentence = summary(alert);
        if let SyslogMessage::Json(profile) = self.settings.message {
            let format = Format { profile, gateway: self.gateway.clone() };
            if let Some(line) = format.alert_line_within(alert, epoch, left)? {
                return Ok(begin + &line);
            }
            let _ = write!(sentence, "; {} flows left out", alert.flows.len());
        }
        Ok(begin + &shortened(sentence, left))
    }
}

/// Cuts a text that has more than `most` bytes, between two characters.
fn shortened(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most.saturating_sub(CUT.len())));
        text.push_str(CUT);
    }
    text
}

impl Transport<AlertEvent> for Syslog {
    fn take(&mut self, (alert, epoch): AlertEvent) -> Taken {
        let message = match self.message(&alert, epoch) {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(%error, "an alert cannot be written as JSON");
                return Taken::Dropped;
            }
        };
        match &mut self.to {
            To::Unix(local) => local.waiting.push_back(message),
            To::Remote(remote) => remote.push(message),
        }
        Taken::Kept
    }

    fn has_room(&self) -> bool {
        match &self.to {
            To::Unix(local) => local.waiting.len() < AHEAD,
            To::Remote(remote) => remote.waiting() < AHEAD && remote.has_room(),
        }
    }

    fn deliver(&mut self, counters: &Counters) -> anyhow::Result<()> {
        match &mut self.to {
            To::Unix(local) => local.deliver(counters),
            To::Remote(remote) => remote.deliver(counters),
        }
        .with_context(|| self.settings.to.to_string())
    }

    fn is_empty(&self) -> bool {
        match &self.to {
            To::Unix(local) => local.waiting.is_empty(),
            To::Remote(remote) => remote.is_empty(),
        }
    }

    fn due(&self) -> Option<Duration> {
        match &self.to {
            To::Unix(_) => None,
            To::Remote(remote) => remote.due(),
        }
    }
}

/// Messages on the wire: as they are in datagrams, with their length before them in a stream.
struct Framing;

impl Encode<String> for Framing {
    fn begin(&mut self, _: Protocol) {}

    fn message(&mut self, protocol: Protocol, items: &mut dyn Iterator<Item = &String>) -> (Vec<u8>, usize) {
        let message = items.next().map_or("", String::as_str);
        let framed = match protocol {
            Protocol::Tcp => format!("{} {message}", message.len()),
            Protocol::Udp => message.to_owned(),
        };
        (framed.into_bytes(), 1)
    }

    fn sent(&mut self, _: Protocol, _: usize) {}

    fn size(message: &String) -> usize {
        message.len()
    }
}

/// A server on this machine. What its socket takes it has.
struct Local {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    waiting: VecDeque<String>,
}

impl Local {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), socket: None, waiting: VecDeque::new() }
    }

    fn deliver(&mut self, counters: &Counters) -> anyhow::Result<()> {
        while let Some(message) = self.waiting.front() {
            let socket = match self.socket.take() {
                Some(socket) => socket,
                None => self.connect()?,
            };
            socket.send(message.as_bytes())?;
            self.socket = Some(socket);
            self.waiting.pop_front();
            counters.delivered(1);
        }
        Ok(())
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        socket.connect(&self.path)?;
        Ok(socket)
    }
}

/// Everything before the message: the header, and the structured data.
fn header(settings: &Settings, gateway: &Gateway, alert: &Alert, epoch: WallClockOffset) -> (String, String) {
    let hostname = gateway.name();
    let pri = u16::from(settings.facility) * 8 + u16::from(priority(alert));
    let time = Moment::of(alert.time, epoch).rfc3339();
    let pid = std::process::id();
    let header = format!("<{pri}>1 {time} {hostname} mailflow-agent {pid} alert");
    let mut text = format!("[{DATA}");
    let mut parameter = |name: &str, said: &str| {
        let _ = write!(text, " {name}=\"");
        for character in said.chars() {
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
    parameter("starts_at", &Moment::of_start(alert).rfc3339());
    if let Some(end) = Moment::of_end(alert, epoch) {
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
