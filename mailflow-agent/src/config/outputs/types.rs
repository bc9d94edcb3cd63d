//! Outputs as they are used.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::url::Url;

use crate::util::disk::Limits;

/// Where records, alerts and metrics go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outputs {
    /// Where `/metrics` is served; `None` turns it off.
    pub metrics: Option<SocketAddr>,
    /// Most per-source series; further sources share `source="other"`.
    pub max_sources: usize,
    /// Most series of the window gauge; the highest are kept.
    pub max_windows: usize,
    /// TLS and basic auth of the metrics port, in Prometheus' format (read with
    /// [`load`](super::super::web::load)).
    pub web_config: Option<PathBuf>,
    /// Alerts.
    pub alerts: Vec<AlertOutput>,
    /// Flow records.
    pub flow_log: Vec<FlowOutput>,
    /// Limits of each file.
    pub files: Limits,
}

impl Outputs {
    /// Returns true if lines go to standard output.
    pub fn to_stdout(&self) -> bool {
        let alerts = self.alerts.iter().filter_map(|output| output.to.target());
        let flows = self.flow_log.iter().filter_map(|output| output.to.target());
        alerts.chain(flows).any(|target| *target == Target::Stdout)
    }

    /// Alerts go to this file or standard output, instead of those that are configured; what is no file
    /// stays. `None`: they go nowhere.
    pub fn set_alerts(&mut self, target: Option<Target>) {
        match target {
            Some(target) => {
                self.alerts.retain(|output| output.to.target().is_none());
                let to = AlertDestination::Lines { target, profile: Profile::Eve };
                self.alerts.push(AlertOutput { name: DEFAULT_ALERTS_NAME.to_owned(), to });
            }
            None => self.alerts.clear(),
        }
    }

    /// The same of flow records.
    pub fn set_flow_log(&mut self, target: Option<Target>) {
        match target {
            Some(target) => {
                self.flow_log.retain(|output| output.to.target().is_none());
                let to = FlowDestination::Lines { target, profile: Profile::Eve };
                self.flow_log.push(FlowOutput { name: DEFAULT_FLOW_LOG_NAME.to_owned(), to });
            }
            None => self.flow_log.clear(),
        }
    }

    /// Gives each webhook that names no file for dead letters one in the state directory, or none without a
    /// state directory.
    pub fn set_dead_letter_files(&mut self, state: Option<&Path>) {
        for output in &mut self.alerts {
            if let AlertDestination::Webhook { dead_letters: location @ DeadLetters::InState, .. } =
                &mut output.to
            {
                *location = state.map_or(DeadLetters::Off, |state| {
                    DeadLetters::File(state.join("dead-letters").join(format!("{}.json", output.name)))
                });
            }
        }
    }

    /// Leaves alerts to files and standard output alone: what is of the past wakes nobody.
    pub fn retain_file_alerts(&mut self) {
        self.alerts.retain(|output| output.to.target().is_some());
    }
}

/// The name of the file with alerts, where it is given none.
pub(crate) const DEFAULT_ALERTS_NAME: &str = "alerts";
/// The name of the flow log, where it is given none.
pub(crate) const DEFAULT_FLOW_LOG_NAME: &str = "flow_log";

/// One of the places where alerts go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertOutput {
    /// Its name in metrics and in the log.
    pub name: String,
    /// What it is.
    pub to: AlertDestination,
}

/// Where alerts go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlertDestination {
    /// JSON lines.
    Lines {
        /// The file.
        target: Target,
        /// Their dialect.
        profile: Profile,
    },
    /// systemd's journal.
    Journal {
        /// Its socket.
        path: PathBuf,
        /// The dialect of the field that holds the whole event.
        profile: Profile,
    },
    /// A syslog server.
    Syslog(Syslog),
    /// Alertmanagers, each told everything.
    Alertmanager {
        /// Their addresses, without `/api/v2/alerts`.
        urls: Vec<Url>,
        /// How they are spoken to.
        receiver: Receiver,
        /// Labels that every alert gets.
        labels: BTreeMap<String, String>,
        /// How often they are told what fires.
        every: Duration,
    },
    /// Anything that takes JSON by POST.
    Webhook {
        /// The address.
        url: WebhookAddress,
        /// How it is spoken to.
        receiver: Receiver,
        /// The dialect.
        profile: Profile,
        /// Where events go that the receiver refuses for good.
        dead_letters: DeadLetters,
    },
}

impl AlertDestination {
    fn target(&self) -> Option<&Target> {
        match self {
            AlertDestination::Lines { target, .. } => Some(target),
            _ => None,
        }
    }
}

/// One of the places where flow records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowOutput {
    /// Its name in metrics and in the log.
    pub name: String,
    /// What it is.
    pub to: FlowDestination,
}

/// Where flow records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowDestination {
    /// JSON lines.
    Lines {
        /// The file.
        target: Target,
        /// Their dialect.
        profile: Profile,
    },
    /// An IPFIX collector.
    Ipfix(Ipfix),
}

impl FlowDestination {
    fn target(&self) -> Option<&Target> {
        match self {
            FlowDestination::Lines { target, .. } => Some(target),
            FlowDestination::Ipfix(_) => None,
        }
    }
}

/// Where a stream of lines goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output (`-`).
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// The dialect of JSON events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Suricata's EVE.
    #[default]
    Eve,
    /// Elastic Common Schema.
    Ecs,
    /// Open Cybersecurity Schema Framework.
    Ocsf,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Profile; 3] = [Profile::Eve, Profile::Ecs, Profile::Ocsf];

    /// The name in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::Eve => "eve",
            Profile::Ecs => "ecs",
            Profile::Ocsf => "ocsf",
        }
    }
}

/// A syslog server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syslog {
    /// Where it listens.
    pub to: SyslogDestination,
    /// RFC 5424's number of the facility.
    pub facility: u8,
    /// What a message says beside its structured data.
    pub message: SyslogMessage,
    /// Most bytes of a message, its header included.
    pub max_size: usize,
}

/// Where a syslog server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogDestination {
    /// A datagram socket.
    Unix(PathBuf),
    /// `HOST:PORT`.
    Udp(String),
    /// `HOST:PORT`.
    Tcp(String),
}

impl fmt::Display for SyslogDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SyslogDestination::Unix(path) => write!(f, "unix:{}", path.display()),
            SyslogDestination::Udp(address) => write!(f, "udp:{address}"),
            SyslogDestination::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// What a syslog message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyslogMessage {
    /// A sentence.
    Text,
    /// The event as JSON.
    Json(Profile),
}

/// An IPFIX collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipfix {
    /// Where it listens.
    pub to: IpfixDestination,
    /// The observation domain, which tells agents on one address apart.
    pub domain: u32,
}

/// Where an IPFIX collector listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpfixDestination {
    /// `HOST:PORT`.
    Udp(String),
    /// `HOST:PORT`.
    Tcp(String),
}

impl fmt::Display for IpfixDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IpfixDestination::Udp(address) => write!(f, "udp:{address}"),
            IpfixDestination::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// Where the address of a webhook stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookAddress {
    /// In the configuration.
    Inline(Url),
    /// In a file, which is read at each request.
    File(PathBuf),
}

/// File of the events that a webhook's receiver refuses for good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeadLetters {
    /// One in the state directory; see [`Outputs::place_dead_letters`].
    #[default]
    InState,
    /// This one.
    File(PathBuf),
    /// None: such an event is logged and counted only.
    Off,
}

/// Proxy on the way to a receiver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Proxy {
    /// The one that the environment's variables name.
    #[default]
    Environment,
    /// None.
    Off,
    /// This one.
    To(Url),
    /// The one whose address is in a file, which is read at each request.
    File(PathBuf),
}

/// How a receiver of HTTP requests is spoken to.
#[derive(Clone, PartialEq, Eq)]
pub struct Receiver {
    /// Who we are.
    pub credentials: Credentials,
    /// How we know who it is.
    pub tls: ClientTls,
    /// Further headers. Their values may be secrets.
    pub headers: Vec<(String, String)>,
    /// Longest time a request may take, from the look-up of the name to the end of the answer.
    pub timeout: Duration,
    /// The proxy.
    pub proxy: Proxy,
}

impl Receiver {
    /// Longest time a request may take unless it is configured.
    pub const TIMEOUT: Duration = Duration::from_secs(10);
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            credentials: Credentials::default(),
            tls: ClientTls::default(),
            headers: Vec::new(),
            timeout: Self::TIMEOUT,
            proxy: Proxy::default(),
        }
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { credentials, tls, headers, timeout, proxy } = self;
        let headers: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Receiver")
            .field("credentials", credentials)
            .field("tls", tls)
            .field("headers", &headers)
            .field("timeout", timeout)
            .field("proxy", proxy)
            .finish()
    }
}

/// What proves who we are. Secrets stand in files, which are read at each request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing is asked.
    #[default]
    None,
    /// A name and a password.
    Basic {
        /// The name.
        username: String,
        /// The password is its first line.
        password_file: PathBuf,
    },
    /// A token.
    Bearer {
        /// The token is its first line.
        token_file: PathBuf,
    },
}

/// TLS as a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// Authorities, and certificates of servers, to trust instead of the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// Name that the server's certificate must have, instead of the address's host.
    pub server_name: Option<String>,
    /// Our own certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}
