//! Alerts to a syslog server (RFC 5424) over a Unix socket, UDP (RFC 5426) or TCP (RFC 6587, each message
//! with its length before it).

use std::{
    fmt::Write as _,
    io::{self, Write},
    net::UdpSocket,
    os::unix::net::UnixDatagram,
};

use anyhow::Context;

use super::{
    AlertEvent,
    eve::Moment,
    profile::alert_line,
    remote::{self, TIMEOUT},
    single::{Deliver, Failure},
    words::{hostname, priority, summary, threshold, value},
};
use crate::{
    config::{Syslog as Settings, SyslogMessage, SyslogTo},
    engine::{event::Alert, time::Epoch},
};

/// Names our structured data; the number is the one for documentation (RFC 5612).
const DATA: &str = "mailflow@32473";
/// What fits a UDP datagram over IPv4.
const DATAGRAM: usize = 65_507;

/// A syslog server.
pub(super) struct Syslog {
    settings: Settings,
    hostname: String,
    connection: Option<Connection>,
}

enum Connection {
    Unix(UnixDatagram),
    Udp(UdpSocket),
    Tcp(std::net::TcpStream),
}

impl Syslog {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, hostname: hostname(), connection: None }
    }

    fn connect(&self) -> anyhow::Result<Connection> {
        match &self.settings.to {
            SyslogTo::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_write_timeout(Some(TIMEOUT))?;
                socket.connect(path).with_context(|| path.display().to_string())?;
                Ok(Connection::Unix(socket))
            }
            SyslogTo::Udp(address) => remote::udp(address).map(Connection::Udp),
            SyslogTo::Tcp(address) => remote::tcp(address).map(Connection::Tcp),
        }
    }
}

impl Deliver<AlertEvent> for Syslog {
    fn deliver(&mut self, (alert, epoch): &AlertEvent) -> Result<(), Failure> {
        let text = match self.settings.message {
            SyslogMessage::Text => summary(alert),
            SyslogMessage::Json(profile) => alert_line(profile, alert, *epoch).map_err(Failure::refused)?,
        };
        let header = header(&self.settings, &self.hostname, alert, *epoch);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let message = format!("{header} {text}");
        let short = || format!("{header} {}", summary(alert));
        let sent = match &mut connection {
            Connection::Unix(socket) => datagram(|bytes| socket.send(bytes), &message, &short()),
            Connection::Udp(socket) => datagram(|bytes| socket.send(bytes), &message, &short()),
            Connection::Tcp(stream) => {
                // A server that has gone is noticed before the message goes after it.
                remote::alive(stream)
                    .and_then(|()| stream.write_all(format!("{} {message}", message.len()).as_bytes()))
            }
        };
        sent.with_context(|| self.settings.to.to_string())?;
        self.connection = Some(connection);
        Ok(())
    }
}

/// Sends a datagram, or a shorter one where it is too long.
fn datagram(send: impl Fn(&[u8]) -> io::Result<usize>, message: &str, short: &str) -> io::Result<()> {
    let sent = if message.len() > DATAGRAM { send(short.as_bytes()) } else { send(message.as_bytes()) };
    match sent {
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => send(short.as_bytes()).map(drop),
        sent => sent.map(drop),
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
    parameter("starts_at", &Moment::of_start(alert).rfc3339());
    if let Some(end) = Moment::of_end(alert, epoch) {
        parameter("ends_at", &end.rfc3339());
    }
    parameter("value", &value(alert));
    parameter("threshold", &threshold(alert));
    text.push(']');
    text
}
