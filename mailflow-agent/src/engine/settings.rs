//! What the engine is told: validated, nothing left to decide.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mailflow_common::{App, Family};

use super::{assets::Networks, event::Severity};

/// Everything the engine needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// When flows end.
    pub timeouts: Timeouts,
    /// What is watched on which port.
    pub services: Services,
    /// The internal networks.
    pub internal: Networks,
    /// Prefix length by which IPv6 clients are grouped into sources.
    pub v6_source_prefix: u8,
    /// The rules, enabled ones only.
    pub rules: Vec<Rule>,
}

/// When a flow's record is made (RFC 5470's active and idle timeouts).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// After FIN both ways or RST, this long without a packet.
    pub closed: Duration,
    /// This long without a packet.
    pub idle: Duration,
    /// The same for a SYN nobody answered.
    pub unanswered: Duration,
    /// A living flow's record is made each time this much has passed.
    pub active: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            closed: Duration::from_secs(5),
            idle: Duration::from_secs(300),
            unanswered: Duration::from_secs(30),
            active: Duration::from_secs(300),
        }
    }
}

/// A service: the name under which its ports are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// Mail between servers, port 25.
    Smtp,
    /// Mail submission, port 587 (RFC 6409).
    Submission,
    /// SMTP inside TLS, ports 465 (RFC 8314) and 994.
    Smtps,
    /// POP3, port 110.
    Pop3,
    /// POP3 inside TLS, port 995.
    Pop3s,
    /// IMAP, port 143.
    Imap,
    /// IMAP inside TLS, port 993.
    Imaps,
}

impl Service {
    /// Every service.
    pub const ALL: [Service; 7] = [
        Service::Smtp,
        Service::Submission,
        Service::Smtps,
        Service::Pop3,
        Service::Pop3s,
        Service::Imap,
        Service::Imaps,
    ];

    /// The name in configuration and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Service::Smtp => "smtp",
            Service::Submission => "submission",
            Service::Smtps => "smtps",
            Service::Pop3 => "pop3",
            Service::Pop3s => "pop3s",
            Service::Imap => "imap",
            Service::Imaps => "imaps",
        }
    }

    /// The family that TLS from the first byte belongs to on its ports.
    pub const fn family(self) -> Family {
        match self {
            Service::Smtp | Service::Submission | Service::Smtps => Family::Smtp,
            Service::Pop3 | Service::Pop3s => Family::Pop3,
            Service::Imap | Service::Imaps => Family::Imap,
        }
    }
}

/// The watched ports.
pub type Services = BTreeMap<u16, Service>;

/// A rule: which flows count, and when their number is too high.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, unique.
    pub name: Arc<str>,
    /// Raised by its author when its meaning changes.
    pub version: u32,
    /// How loud it speaks.
    pub severity: Severity,
    /// Which flows count.
    pub matching: Match,
    /// Over which time.
    pub window: Window,
    /// This many within the window fire.
    pub at_least: u64,
    /// A firing alert ends once the value stays below this ...
    pub resolve_below: u64,
    /// ... for this long.
    pub resolve_after: Duration,
    /// A firing alert is repeated this often.
    pub repeat_interval: Duration,
    /// Labels copied to its alerts.
    pub labels: BTreeMap<String, String>,
    /// MITRE ATT&CK technique ids.
    pub attack: Vec<String>,
}

/// A window of event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its length.
    pub length: Duration,
    /// How it moves.
    pub kind: WindowKind,
}

/// How a window moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WindowKind {
    /// (t - length, t] for every t.
    Sliding,
    /// Fixed windows [n * length, (n + 1) * length), for comparison with other systems.
    Tumbling,
}

/// One side of a flow, as a rule names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Inside the internal networks.
    Internal,
    /// Outside of them, and not a special-use address: the Internet.
    External,
    /// Wherever.
    Any,
}

/// Transport protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Which flows count; every clause must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The client.
    pub source: Side,
    /// The server.
    pub destination: Side,
    /// Server ports.
    pub ports: Vec<u16>,
    /// Applications; `App::Unseen` always matches, as the port decides.
    pub apps: Vec<App>,
    /// Transport protocols.
    pub protocols: Vec<Transport>,
    /// Size test, if any.
    pub size: Option<SizeTest>,
}

/// Which byte count a size test looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    /// IP total length.
    L3,
    /// TCP or UDP payload.
    Payload,
}

/// The forms of the size test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SizeKind {
    /// Bytes per packet, both directions: `bytes >= up * packets` with packets > 0.
    Ratio,
    /// Packets and bytes, both directions: `packets >= up` and `bytes >= up`.
    Count,
    /// Ratio or count.
    Either,
    /// Ratio over the packets that carried payload.
    DataRatio,
    /// Ratio of the up direction alone.
    UpOnly,
}

/// The size test: a threshold for each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SizeTest {
    /// Which form.
    pub kind: SizeKind,
    /// Which bytes.
    pub layer: Layer,
    /// Threshold of client to server.
    pub up: u64,
    /// Threshold of server to client.
    pub down: u64,
}
