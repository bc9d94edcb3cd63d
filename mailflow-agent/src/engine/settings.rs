//! What the engine is told: validated, nothing left to decide.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mailflow_common::{App, Family};

use super::{
    assets::{Networks, Set},
    event::Severity,
    time::Epoch,
};

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
    /// Where the packet clock lies on the wall clock: rules may name hours, and allow-lists expire.
    pub epoch: Epoch,
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

/// A rule: which flows count, and what of them is too much.
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
    /// Whose flows are taken together.
    pub group_by: GroupBy,
    /// The window of the terms that name none of their own.
    pub window: Window,
    /// What is looked at, in the order of the condition.
    pub terms: Vec<Term>,
    /// How the terms go together.
    pub condition: Condition,
    /// Other thresholds for some; the first whose set holds the subject decides.
    pub thresholds: Vec<Thresholds>,
    /// Flows that are known and put aside: the first that holds one decides.
    pub allow: Vec<Allow>,
    /// A firing alert ends once the condition has not held, with each term's `resolve_below` for
    /// `at_least`, for this long.
    pub resolve_after: Duration,
    /// A firing alert is repeated this often.
    pub repeat_interval: Duration,
    /// Labels copied to its alerts.
    pub labels: BTreeMap<String, String>,
    /// MITRE ATT&CK technique ids.
    pub attack: Vec<String>,
}

impl Rule {
    /// How long after the last record an alert of it may still have something to say: the longest window and
    /// the time until it is resolved.
    pub fn memory(&self) -> Duration {
        let longest = self.terms.iter().map(|term| term.window.length).max().unwrap_or_default();
        longest + self.resolve_after
    }
}

/// Whose flows a rule takes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupBy {
    /// The client, IPv6 by prefix.
    Source,
    /// The client, IPv6 by prefix, and the server's address.
    SourceAndDestination,
    /// The server's address.
    Destination,
    /// The group of the internal network that the client is in; a client without one is in the group "".
    Group,
}

/// One thing that a rule looks at: a number over a window, and when it is too high.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// What is measured.
    pub measure: Measure,
    /// Over which time.
    pub window: Window,
    /// When it is too much, for whom no other thresholds are named.
    pub level: Level,
}

/// The thresholds of a term. A ratio's are in [`Level::PARTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// This much holds.
    pub at_least: u64,
    /// Below this a firing alert may end; at most `at_least`, at least 1.
    pub resolve_below: u64,
}

impl Level {
    /// What a ratio of one is.
    pub const PARTS: u64 = 1_000_000;
}

/// What a term measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Measure {
    /// Flows of a kind.
    Count(Kind),
    /// A quantity, summed over flows. Open flows count with what they have so far.
    Sum(Quantity),
    /// Distinct ends of flows of a kind.
    Distinct {
        /// Which end.
        of: End,
        /// Of which flows.
        among: Kind,
    },
    /// Flows of one kind for each of another, at most one. It takes part in how an incident begins; its
    /// end follows from the other terms, or, where there are none, from the flows of the first kind.
    Ratio {
        /// Numerator.
        of: Kind,
        /// Denominator.
        to: Kind,
    },
    /// Ends that the subject was seen with for the first time within the window.
    FirstSeen {
        /// Which end.
        of: End,
        /// What was not seen for this long is new again.
        horizon: Duration,
        /// Nothing is new before the rule has watched for this long.
        learning: Duration,
    },
}

impl Measure {
    /// The name in configuration, alerts and metrics.
    pub fn name(&self) -> String {
        match self {
            Measure::Count(Kind::Flows) => "count".to_owned(),
            Measure::Count(kind) => format!("count {}", kind.name()),
            Measure::Sum(quantity) => format!("sum {}", quantity.name()),
            Measure::Distinct { of, among: Kind::Flows } => format!("distinct {}", of.name()),
            Measure::Distinct { of, among } => format!("distinct {} among {}", of.name(), among.name()),
            Measure::Ratio { of, to } => format!("ratio {}/{}", of.name(), to.name()),
            Measure::FirstSeen { of, .. } => format!("first_seen {}", of.name()),
        }
    }

    /// What its values and thresholds are divided by to be shown.
    pub const fn scale(&self) -> u64 {
        match self {
            Measure::Ratio { .. } => Level::PARTS,
            _ => 1,
        }
    }
}

/// Kinds of flows, by what their records tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Every flow that the rule matches.
    Flows,
    /// Flows with a SYN.
    Attempts,
    /// Attempts with a SYN-ACK.
    Sessions,
    /// Attempts that ended without a session, or without a message.
    Failed,
    /// Sessions with at least one estimated message.
    Delivering,
}

impl Kind {
    /// Every one.
    pub const ALL: [Kind; 5] = [Kind::Flows, Kind::Attempts, Kind::Sessions, Kind::Failed, Kind::Delivering];

    /// The name in configuration, alerts and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Flows => "flows",
            Kind::Attempts => "attempts",
            Kind::Sessions => "sessions",
            Kind::Failed => "failed",
            Kind::Delivering => "delivering",
        }
    }
}

/// What can be summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quantity {
    /// Payload bytes, client to server.
    PayloadUp,
    /// Payload bytes, server to client.
    PayloadDown,
    /// IP bytes, client to server.
    BytesUp,
    /// IP bytes, server to client.
    BytesDown,
    /// Packets, client to server.
    PacketsUp,
    /// Packets, server to client.
    PacketsDown,
    /// Estimated messages.
    Messages,
}

impl Quantity {
    /// Every one.
    pub const ALL: [Quantity; 7] = [
        Quantity::PayloadUp,
        Quantity::PayloadDown,
        Quantity::BytesUp,
        Quantity::BytesDown,
        Quantity::PacketsUp,
        Quantity::PacketsDown,
        Quantity::Messages,
    ];

    /// The name in configuration, alerts and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Quantity::PayloadUp => "payload_up",
            Quantity::PayloadDown => "payload_down",
            Quantity::BytesUp => "bytes_up",
            Quantity::BytesDown => "bytes_down",
            Quantity::PacketsUp => "packets_up",
            Quantity::PacketsDown => "packets_down",
            Quantity::Messages => "messages",
        }
    }
}

/// An end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The client, IPv6 by prefix.
    Source,
    /// The server's address.
    Destination,
    /// The server's port.
    Port,
}

impl End {
    /// Every one.
    pub const ALL: [End; 3] = [End::Source, End::Destination, End::Port];

    /// The name in configuration, alerts and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            End::Source => "source",
            End::Destination => "destination",
            End::Port => "port",
        }
    }
}

/// How terms go together; terms by their place in [`Rule::terms`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The term holds.
    Term(usize),
    /// At least one of them holds.
    Any(Vec<Condition>),
    /// Each of them holds.
    All(Vec<Condition>),
}

/// Thresholds for some subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// For whom: the client; the server, where the rule groups by destination.
    pub of: Set,
    /// One for each term.
    pub levels: Vec<Level>,
}

/// Flows that are known: they are counted apart, and alerts about them are suppressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// The client.
    pub source: Set,
    /// The server.
    pub destination: Set,
    /// Why, in words.
    pub reason: Arc<str>,
    /// Flows from then on are not known any more, nanoseconds since 1970.
    pub until: Option<i128>,
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
    pub source: Set,
    /// The server.
    pub destination: Set,
    /// Server ports.
    pub ports: Vec<u16>,
    /// Applications; `App::Unseen` always matches, as the port decides.
    pub apps: Vec<App>,
    /// Transport protocols.
    pub protocols: Vec<Transport>,
    /// Size test, if any.
    pub size: Option<SizeTest>,
    /// Only sessions: a SYN was answered by a SYN-ACK.
    pub sessions_only: bool,
    /// Bounds on a flow's counters.
    pub bounds: Vec<Bound>,
    /// The hours of the week at which the last packet must lie, if not any.
    pub hours: Option<Hours>,
}

/// Bounds on one counter of a flow. A flow that may still pass an upper bound is judged when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The counter.
    pub of: Counter,
    /// At least this.
    pub at_least: u64,
    /// At most this.
    pub at_most: Option<u64>,
    /// At most this, where the application is encrypted; `at_most` if not given.
    pub at_most_tls: Option<u64>,
}

/// A counter of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counter {
    /// One that can be summed as well.
    Quantity(Quantity),
    /// Packets with payload, client to server.
    DataPacketsUp,
    /// Packets with payload, server to client.
    DataPacketsDown,
}

/// Hours of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// The days on which the hours begin, a bit each; Monday is 1.
    pub days: u8,
    /// Minute of the day at which they begin, 0 to 1439.
    pub from: u16,
    /// Minute of the day before which they end, 1 to 1440; where it is not after `from`, on the next day.
    pub to: u16,
    /// Seconds that the clock on the wall is ahead of UTC.
    pub utc_offset: i32,
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
