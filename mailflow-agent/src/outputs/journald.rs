//! Alerts to systemd's journal, by its native protocol: a datagram of fields to its socket.

use std::{
    io::{self, ErrorKind},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    time::Duration,
};

use anyhow::Context;

use super::{
    AlertEvent,
    eve::common::Moment,
    gateway::Gateway,
    profile::Format,
    single::{Deliver, Failure},
    summary::{priority, summary, threshold, value},
};
use mailflow_engine::{event::Alert, settings::unit, time::WallClockOffset};

/// Names these messages in the journal's catalogue: `journalctl MESSAGE_ID=...`.
const MESSAGE_ID: &str = "6d61696c666c6f77a1e57b1c3d4f4c0e";
/// A journal that does not read is waited for so long.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The journal's socket.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    pub(crate) socket: Option<UnixDatagram>,
}

impl Deliver<AlertEvent> for Journal {
    fn deliver(&mut self, (alert, epoch): &AlertEvent) -> Result<(), Failure> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(&self.path).with_context(|| self.path.display().to_string())?,
        };
        let gateway = &self.format.gateway;
        let event = self.format.alert_line(alert, *epoch).map_err(Failure::refused)?;
        let too_long = |sent: &io::Result<usize>| matches!(sent, Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE));
        let mut sent = socket.send(&fields(alert, *epoch, gateway, Some(&event)));
        if too_long(&sent) {
            // Larger than the socket takes: then without the flows, which other sinks have.
            let event = self.format.line(alert, *epoch, 0).map_err(Failure::refused)?;
            sent = socket.send(&fields(alert, *epoch, gateway, Some(&event)));
        }
        if too_long(&sent) {
            sent = socket.send(&fields(alert, *epoch, gateway, None));
        }
        match sent {
            Ok(_) => {
                self.socket = Some(socket);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => self.deliver(&(alert.clone(), *epoch)),
            // The journal may have been started anew: the next try connects again.
            Err(error) => {
                Err(Failure::Again(anyhow::Error::from(error).context(self.path.display().to_string())))
            }
        }
    }
}

fn connect(path: &PathBuf) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    socket.connect(path)?;
    Ok(socket)
}

/// The datagram: `NAME=value` a line; a value of several lines has its length before it.
fn fields(alert: &Alert, epoch: WallClockOffset, gateway: &Gateway, event: Option<&str>) -> Vec<u8> {
    let mut datagram = Vec::new();
    let mut field = |name: &str, value: &str| {
        datagram.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            datagram.push(b'\n');
            datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            datagram.push(b'=');
        }
        datagram.extend_from_slice(value.as_bytes());
        datagram.push(b'\n');
    };
    field("MESSAGE", &summary(alert));
    field("PRIORITY", &priority(alert).to_string());
    field("SYSLOG_IDENTIFIER", "mailflow-agent");
    field("MESSAGE_ID", MESSAGE_ID);
    field("MAILFLOW_RULE", &alert.rule);
    field("MAILFLOW_RULE_VERSION", &alert.rule_version.to_string());
    field("MAILFLOW_STATE", alert.state.name());
    field("MAILFLOW_SEVERITY", alert.severity.name());
    field("MAILFLOW_SUBJECT", &alert.group_key.to_string());
    if let Some(source) = &alert.source {
        field("MAILFLOW_SOURCE", &source.to_string());
    }
    field("MAILFLOW_FINGERPRINT", &alert.fingerprint);
    field("MAILFLOW_STARTS_AT", &Moment::of_start(alert).rfc3339());
    if let Some(end) = Moment::of_end(alert, epoch) {
        field("MAILFLOW_ENDS_AT", &end.rfc3339());
    }
    if let Some(group) = &alert.group {
        field("MAILFLOW_GROUP", group);
    }
    if let Some(relay) = &alert.relay {
        field("MAILFLOW_LIKE_A_RELAY", &relay.to_string());
    }
    field("MAILFLOW_CONDITION", &alert.deciding_term.name);
    field("MAILFLOW_UNIT", unit(&alert.deciding_term.name));
    field("MAILFLOW_VALUE", &value(alert));
    field("MAILFLOW_THRESHOLD", &threshold(alert));
    field("MAILFLOW_GATEWAY", gateway.name());
    field("MAILFLOW_INTERFACES", &gateway.interfaces_of(alert).join(" "));
    if let Some(event) = event {
        field("MAILFLOW_EVENT", event);
    }
    datagram
}
