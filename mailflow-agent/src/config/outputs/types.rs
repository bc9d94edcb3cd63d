//! Validated settings of outputs.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::url::Url;

use crate::util::disk::FileLimits;

/// Outputs of records, alerts and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outputs {
    /// Listen address of `/metrics`; `None` switches it off.
    pub metrics: Option<SocketAddr>,
    /// Maximum number of sources with their own series. Further sources share `source="other"`.
    pub max_sources: usize,
    /// Maximum number of series of the window gauge. The highest values have series.
    pub max_windows: usize,
    /// Web-config file with TLS and basic auth of the metrics server, in Prometheus' format (read by
    /// [`load`](super::super::web::load)).
    pub web_config: Option<PathBuf>,
    /// Outputs of alerts.
    pub alerts: Vec<AlertOutput>,
    /// Outputs of flow records.
    pub flow_log: Vec<FlowOutput>,
    /// Limits of each output file.
    pub files: FileLimits,
}

impl Outputs {
    /// Returns true if an output writes to standard output.
    pub fn to_stdout(&self) -> bool {
        let alerts = self.alerts.iter().filter_map(|output| output.to.target());
        let flows = self.flow_log.iter().filter_map(|output| output.to.target());
        alerts.chain(flows).any(|target| *target == Target::Stdout)
    }

    /// Replaces the file outputs of alerts by `target`. Other outputs stay. `None` removes all outputs of
    /// alerts.
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

    /// Replaces the file outputs of flow records by `target`. Other outputs stay. `None` removes all outputs
    /// of flow records.
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

    /// Sets the dead-letter file of each webhook that names none: a file in the state directory, or none
    /// without a state directory.
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

    /// Removes all outputs of alerts except files and standard output, as replayed alerts must not notify
    /// people.
    pub fn retain_file_alerts(&mut self) {
        self.alerts.retain(|output| output.to.target().is_some());
    }
}

/// Default name of a file output of alerts.
pub(crate) const DEFAULT_ALERTS_NAME: &str = "alerts";
/// Default name of a file output of flow records.
pub(crate) const DEFAULT_FLOW_LOG_NAME: &str = "flow_log";

/// Output of alerts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertOutput {
    /// Name in metrics and in the log.
    pub name: String,
    /// Destination.
    pub to: AlertDestination,
}

/// Destination of alerts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlertDestination {
    /// JSON lines.
    Lines {
        /// File or standard output.
        target: Target,
        /// Schema of the events.
        profile: Profile,
    },
    /// systemd's journal.
    Journal {
        /// Socket of the journal.
        path: PathBuf,
        /// Schema of the field that contains the whole event.
        profile: Profile,
    },
    /// Syslog server.
    Syslog(Syslog),
    /// Alertmanagers, each of which receives every alert.
    Alertmanager {
        /// URLs without `/api/v2/alerts`.
        urls: Vec<Url>,
        /// HTTP settings.
        receiver: Receiver,
        /// Labels that are added to every alert.
        labels: BTreeMap<String, String>,
        /// Interval of resending firing alerts.
        every: Duration,
    },
    /// HTTP server that accepts JSON by POST.
    Webhook {
        /// URL.
        url: WebhookAddress,
        /// HTTP settings.
        receiver: Receiver,
        /// Schema of the events.
        profile: Profile,
        /// File of events that the receiver rejects permanently.
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

/// Output of flow records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowOutput {
    /// Name in metrics and in the log.
    pub name: String,
    /// Destination.
    pub to: FlowDestination,
}

/// Destination of flow records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowDestination {
    /// JSON lines.
    Lines {
        /// File or standard output.
        target: Target,
        /// Schema of the records.
        profile: Profile,
    },
    /// IPFIX collector.
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

/// Target of a stream of lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output (`-`).
    Stdout,
    /// File, to which lines are appended.
    File(PathBuf),
}

/// Schema of JSON events.
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
    /// All profiles.
    pub const ALL: [Profile; 3] = [Profile::Eve, Profile::Ecs, Profile::Ocsf];

    /// Returns the name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::Eve => "eve",
            Profile::Ecs => "ecs",
            Profile::Ocsf => "ocsf",
        }
    }
}

/// Syslog server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syslog {
    /// Address of the server.
    pub to: SyslogDestination,
    /// Number of the facility (RFC 5424).
    pub facility: u8,
    /// Content of the message part.
    pub message: SyslogMessage,
    /// Maximum size of a message with its header, in bytes.
    pub max_size: usize,
}

/// Address of a syslog server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogDestination {
    /// Unix datagram socket.
    Unix(PathBuf),
    /// UDP, `HOST:PORT`.
    Udp(String),
    /// TCP, `HOST:PORT`.
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

/// Content of the message part of a syslog message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyslogMessage {
    /// Human-readable sentence.
    Text,
    /// Event as JSON.
    Json(Profile),
}

/// IPFIX collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipfix {
    /// Address of the collector.
    pub to: IpfixDestination,
    /// Observation domain ID, which identifies the agent among agents with one address (RFC 7011).
    pub domain: u32,
}

/// Address of an IPFIX collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpfixDestination {
    /// UDP, `HOST:PORT`.
    Udp(String),
    /// TCP, `HOST:PORT`.
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

/// URL of a webhook, or the file that contains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookAddress {
    /// URL in the configuration.
    Inline(Url),
    /// File that contains the URL. It is read at each request.
    File(PathBuf),
}

/// File of events that a webhook's receiver rejects permanently.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeadLetters {
    /// File in the state directory; see [`Outputs::set_dead_letter_files`].
    #[default]
    InState,
    /// Configured file.
    File(PathBuf),
    /// No file. Such an event is only logged and counted.
    Off,
}

/// Proxy of requests to a receiver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Proxy {
    /// Proxy of the environment variables.
    #[default]
    Environment,
    /// No proxy.
    Off,
    /// Configured proxy.
    To(Url),
    /// File that contains the proxy's URL. It is read at each request.
    File(PathBuf),
}

/// HTTP settings of a receiver.
#[derive(Clone, PartialEq, Eq)]
pub struct Receiver {
    /// Credentials of the agent.
    pub credentials: Credentials,
    /// TLS settings.
    pub tls: ClientTls,
    /// Additional headers. Their values may be secrets.
    pub headers: Vec<(String, String)>,
    /// Maximum duration of a request, from the name lookup to the end of the response.
    pub timeout: Duration,
    /// Proxy.
    pub proxy: Proxy,
}

impl Receiver {
    /// Default of [`timeout`](Self::timeout).
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

/// Credentials of the agent. Secrets are in files, which are read at each request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// No credentials.
    #[default]
    None,
    /// Basic authentication.
    Basic {
        /// User name.
        username: String,
        /// File whose only line is the password.
        password_file: PathBuf,
    },
    /// Bearer token.
    Bearer {
        /// File whose only line is the token.
        token_file: PathBuf,
    },
}

/// TLS settings of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// File of trusted authorities and server certificates, instead of the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// Expected name in the server's certificate, instead of the URL's host.
    pub server_name: Option<String>,
    /// Files of the client certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}
