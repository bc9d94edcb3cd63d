//! Alerts to the systemd journal by its native protocol: one datagram of fields for each alert.

use std::{
    io::{self, ErrorKind},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    time::Duration,
};

use anyhow::Context;

use super::{
    AlertEvent,
    eve::common::EveTimestamp,
    gateway::Gateway,
    profile::EventFormat,
    sequential::{SendError, SendOne},
    summary::{priority, summary, threshold, value},
};
use mailflow_engine::{event::Alert, settings::unit, time::WallClockOffset};

/// Identifier of these messages in the journal's catalogue: `journalctl MESSAGE_ID=...`.
const MESSAGE_ID: &str = "6d61696c666c6f77a1e57b1c3d4f4c0e";
/// Longest wait for a journal that does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Socket of the journal.
#[derive(Debug)]
pub(crate) struct JournaldSocket {
    pub(crate) path: PathBuf,
    pub(crate) format: EventFormat,
    pub(crate) socket: Option<UnixDatagram>,
}

impl SendOne<AlertEvent> for JournaldSocket {
    fn deliver(&mut self, (alert, epoch): &AlertEvent) -> Result<(), SendError> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(&self.path).with_context(|| self.path.display().to_string())?,
        };
        let gateway = &self.format.gateway;
        let event = self.format.alert_line(alert, *epoch).map_err(SendError::refused)?;
        let too_long = |sent: &io::Result<usize>| matches!(sent, Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE));
        let mut sent = socket.send(&fields(alert, *epoch, gateway, Some(&event)));
        if too_long(&sent) {
            // The datagram exceeds the limit of the socket: sends the alert without flows, which other sinks
            // have.
            let event = self.format.line(alert, *epoch, 0).map_err(SendError::refused)?;
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
            // The journal may have been restarted: the next attempt connects again.
            Err(error) => {
                Err(SendError::Retry(anyhow::Error::from(error).context(self.path.display().to_string())))
            }
        }
    }
}

/// Connects to the journal's socket.
fn connect(path: &PathBuf) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
    socket.connect(path)?;
    Ok(socket)
}

/// Returns the datagram: one `NAME=value` a line. A value of several lines follows its length.
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
    field("MAILFLOW_STARTS_AT", &EveTimestamp::of_start(alert).rfc3339());
    if let Some(end) = EveTimestamp::of_end(alert, epoch) {
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
