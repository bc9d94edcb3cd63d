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
    eve::Moment,
    profile::alert_line,
    remote::{Encode, Protocol, Remote},
    words::{hostname, priority, summary, threshold, value},
    worker::{Counters, Taken, Transport},
};
use crate::{
    config::{Syslog as Settings, SyslogMessage, SyslogTo},
    engine::{event::Alert, time::Epoch},
};

/// Names our structured data; the number is the one for documentation (RFC 5612).
const DATA: &str = "mailflow@32473";
/// What fits a UDP datagram over IPv4.
const DATAGRAM: usize = 65_507;
/// Messages taken out of the queue ahead of their delivery.
const AHEAD: usize = 256;
/// Limit of a write to a server that does not read.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A syslog server.
pub(super) struct Syslog {
    settings: Settings,
    hostname: String,
    to: To,
}

enum To {
    Unix(Local),
    Remote(Remote<String, Framing>),
}

impl Syslog {
    pub(super) fn new(settings: Settings) -> Self {
        let to = match &settings.to {
            SyslogTo::Unix(path) => To::Unix(Local::new(path)),
            SyslogTo::Udp(address) => To::Remote(Remote::new(Protocol::Udp, address, Framing)),
            SyslogTo::Tcp(address) => To::Remote(Remote::new(Protocol::Tcp, address, Framing)),
        };
        Self { settings, hostname: hostname(), to }
    }

    fn message(&self, alert: &Alert, epoch: Epoch) -> serde_json::Result<String> {
        let header = header(&self.settings, &self.hostname, alert, epoch);
        let text = match self.settings.message {
            SyslogMessage::Text => summary(alert),
            SyslogMessage::Json(profile) => alert_line(profile, alert, epoch)?,
        };
        let message = format!("{header} {text}");
        if message.len() > DATAGRAM {
            return Ok(format!("{header} {}", summary(alert)));
        }
        Ok(message)
    }
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

    fn message<'a>(
        &mut self,
        protocol: Protocol,
        items: &mut dyn Iterator<Item = &'a String>,
    ) -> (Vec<u8>, usize) {
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

/// Everything before the message.
fn header(settings: &Settings, hostname: &str, alert: &Alert, epoch: Epoch) -> String {
    let pri = u16::from(settings.facility) * 8 + u16::from(priority(alert));
    let time = Moment::of(alert.time, epoch).rfc3339();
    let pid = std::process::id();
    let mut text = format!("<{pri}>1 {time} {hostname} mailflow-agent {pid} alert [{DATA}");
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
    parameter("subject", &alert.subject.to_string());
    if let Some(source) = &alert.source {
        parameter("source", &source.to_string());
    }
    parameter("fingerprint", &alert.fingerprint);
    parameter("starts_at", &Moment::of(alert.starts_at, epoch).rfc3339());
    if let Some(end) = alert.ends_at {
        parameter("ends_at", &Moment::of(end, epoch).rfc3339());
    }
    parameter("value", &value(alert));
    parameter("threshold", &threshold(alert));
    text.push(']');
    text
}
