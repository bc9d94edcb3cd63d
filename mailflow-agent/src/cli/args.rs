//! Arguments as typed (clap definitions).

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};

use clap_complete::Shell;
use ipnet::IpNet;

use super::man::manual::help;
use crate::{
    config::{
        Hook, LogLevel, Role, Target,
        scalar::{self, Switch},
    },
    offline::flowlog::{LogOptions, RenamedColumn},
};

/// Counts mail flows of internal hosts in the kernel, evaluates rules, and sends alerts.
#[derive(Debug, Parser)]
#[command(
    name = "mailflow-agent",
    version,
    arg_required_else_help = true,
    after_help = "Exit status: 0 success, 1 findings or a failure at run time, 2 wrong usage or an invalid configuration."
)]
pub(crate) struct Cli {
    /// Configuration file; without this option, the built-in configuration is used
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: CliCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CliCommand {
    /// Count mail flows of interfaces until a signal stops the agent
    #[command(after_help = help("run"))]
    Run(RunArgs),
    /// Count the packets of capture files, with the timestamps of the packets as the clock. Needs no interface
    #[command(after_help = help("replay"))]
    Replay(ReplayArgs),
    /// Evaluate the rules on flow logs, in event time. Needs no interface and no privileges
    #[command(after_help = help("backtest"))]
    Backtest(BacktestArgs),
    /// Validate configuration files, and report every error with file, line and column
    #[command(after_help = help("check-config"))]
    CheckConfig {
        /// Configuration files; the default is the file of --config, or else the built-in configuration
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Commands for rules
    Rules {
        #[command(subcommand)]
        command: RulesCommand,
    },
    /// Print a configuration file without its secrets
    #[command(after_help = help("print-config"))]
    PrintConfig {
        /// Configuration file; the default is the file of --config, or else the built-in configuration
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Print the status of the running agent
    #[command(after_help = help("status"))]
    Status(StatusArgs),
    /// Show the traffic of each source, updated live
    #[command(after_help = help("top"))]
    Top(TopArgs),
    /// Reload the configuration of the running agent
    #[command(after_help = help("reload"))]
    Reload(SocketArgs),
    /// Print a shell's completion script
    #[command(after_help = help("completions"))]
    Completions {
        /// Shell: bash, zsh, fish, elvish or powershell
        #[arg(value_name = "SHELL", hide_possible_values = true)]
        shell: Shell,
    },
    /// Write the man pages
    #[command(after_help = help("man"))]
    Man {
        /// Output directory, such as /usr/local/share/man
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
    /// Explain a source: print the values of each rule, and why each of its flows counts or does not count
    #[command(after_help = help("explain"))]
    Explain(ExplainArgs),
    /// Print allow-list entries for sources that behave like relays, and for servers that many sources use
    #[command(after_help = help("suggest"))]
    Suggest(SuggestArgs),
    /// Check this machine for problems that affect exact counts, and print recommended actions
    #[command(after_help = help("doctor"))]
    Doctor(DoctorArgs),
    /// Print the version
    #[command(after_help = help("version"))]
    Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RulesCommand {
    /// Run rule tests: evaluate given flows in simulated time, and compare the alerts with the expected ones
    #[command(after_help = help("rules test"))]
    Test {
        /// Rule test files
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
}

/// Arguments of `run`. Each overrides the configuration.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct RunArgs {
    /// Watch this interface, or the interfaces that match a pattern (ppp*, re:^wg[0-9]+$), instead of the
    /// configured interfaces; may be repeated
    #[arg(long = "interface", value_name = "NAME", value_parser = scalar::interface)]
    pub interfaces: Vec<String>,
    /// Role of the interfaces: auto, lan (inside of a gateway), host (mail of this machine), or mirror (copies of
    /// both directions)
    #[arg(long, value_name = "ROLE", hide_possible_values = true, value_parser = choice_parser(Role::ALL.map(|role| (role.name(), role))))]
    pub role: Option<Role>,
    /// Hook of the program: auto, xdp or tc
    #[arg(long, value_name = "HOOK", hide_possible_values = true, value_parser = choice_parser(Hook::ALL.map(|hook| (hook.name(), hook))))]
    pub hook: Option<Hook>,
    /// Output of flow records as JSON lines: a file, - for standard output, or off
    #[arg(long, value_name = "FILE|-", value_parser = scalar::target)]
    pub flow_log: Option<Switch<Target>>,
    /// Output of alerts as JSON lines: a file, - for standard output, or off
    #[arg(long, value_name = "FILE|-", value_parser = scalar::target)]
    pub alerts: Option<Switch<Target>>,
    /// Listen address of /metrics: ADDRESS:PORT, or off
    #[arg(long, value_name = "ADDR", value_parser = scalar::listen)]
    pub metrics: Option<Switch<SocketAddr>>,
    /// Interval between two polls of the kernel's counters, 100ms to 60s
    #[arg(long, value_name = "DURATION", value_parser = scalar::poll_interval)]
    pub poll_interval: Option<Duration>,
    /// Control socket for status, top, reload and other commands: a path, or off
    #[arg(long, value_name = "PATH", value_parser = scalar::path)]
    pub control: Option<Switch<PathBuf>>,
    /// Directory of the state, or off
    #[arg(long, value_name = "DIRECTORY", value_parser = scalar::path)]
    pub state: Option<Switch<PathBuf>>,
    /// Directory in a BPF file system for pinned maps and links, or off
    #[arg(long, value_name = "DIRECTORY", value_parser = scalar::path)]
    pub pins: Option<Switch<PathBuf>>,
    /// Leave the programs attached when the agent stops, so that the next agent continues with their counts
    #[arg(long)]
    pub keep: bool,
    /// Log packets that the kernel program cannot count to a flow, up to this level: error, warn, info, debug or
    /// trace
    #[arg(long, value_name = "LEVEL", hide_possible_values = true, value_parser = choice_parser(LogLevel::ALL.map(|level| (level.name(), level))))]
    pub kernel_log: Option<LogLevel>,
}

/// Arguments of `explain`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ExplainArgs {
    /// Address of the source, or its IPv6 prefix as alerts show it
    #[arg(value_name = "SOURCE", value_parser = parse_source)]
    pub source: IpAddr,
    /// Maximum number of flows to print, newest first
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub flows: usize,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// Flow logs instead of a running agent
    #[command(flatten)]
    pub logs: LogArgs,
    /// Socket of the running agent
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Arguments of `suggest`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct SuggestArgs {
    /// Flow logs instead of a running agent
    #[command(flatten)]
    pub logs: LogArgs,
    /// Socket of the running agent
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Flow logs instead of a running agent.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct LogArgs {
    /// Read flow logs, as backtest does, instead of querying the running agent
    #[arg(long = "log", value_name = "FLOWLOG", num_args = 1.., conflicts_with = "socket")]
    pub logs: Vec<PathBuf>,
    /// Options of the flow-log reader
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// Options of the flow-log reader.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadingArgs {
    /// Number of bytes that a frame has in addition to its IP packet, in logs that count frames (Suricata). The
    /// default is 14, and 4 more for each VLAN tag
    #[arg(long, value_name = "BYTES", requires = "logs")]
    pub l2_overhead: Option<u16>,
    /// Name that a column of Zeek has in the logs, such as ts=timestamp; may be repeated
    #[arg(long = "column", value_name = "ZEEK=NAME", requires = "logs")]
    pub columns: Vec<RenamedColumn>,
}

impl ReadingArgs {
    /// Returns the options of the reader.
    pub fn options(&self) -> LogOptions {
        LogOptions { l2_overhead: self.l2_overhead, columns: self.columns.clone() }
    }
}

/// Socket of the running agent.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketArgs {
    /// Control socket of the agent; the default is the socket in the file of --config, or else in the built-in
    /// configuration
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Arguments of `status`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusArgs {
    /// Socket of the running agent.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Print the status as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `top`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct TopArgs {
    /// Socket of the running agent.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Print the table once and exit; this is the default if standard input or output is no terminal
    #[arg(long)]
    pub once: bool,
    /// Maximum number of rows with --once
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub rows: usize,
    /// Sort column: packets, bytes, flows, messages, counted (flows that a rule counted) or source
    #[arg(long, value_name = "COLUMN", hide_possible_values = true, default_value = "bytes", value_parser = choice_parser(TopColumn::ALL.map(|column| (column.name(), column))))]
    pub sort: TopColumn,
    /// Show only sources whose address contains this text
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Interval between two updates, 200ms to 60s
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = refresh_interval)]
    pub interval: Duration,
}

/// Column of `top`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TopColumn {
    /// Address of the source.
    Source,
    /// Packets, client to server.
    Packets,
    /// IP bytes, client to server.
    Bytes,
    /// Started flows.
    Flows,
    /// Estimated messages.
    Messages,
    /// Flows that a rule counted.
    Counted,
}

impl TopColumn {
    /// All columns, in their order.
    pub const ALL: [TopColumn; 6] = [
        TopColumn::Source,
        TopColumn::Packets,
        TopColumn::Bytes,
        TopColumn::Flows,
        TopColumn::Messages,
        TopColumn::Counted,
    ];

    /// Returns the name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            TopColumn::Source => "source",
            TopColumn::Packets => "packets",
            TopColumn::Bytes => "bytes",
            TopColumn::Flows => "flows",
            TopColumn::Messages => "messages",
            TopColumn::Counted => "counted",
        }
    }
}

fn refresh_interval(text: &str) -> Result<Duration, String> {
    scalar::duration_within(text, [Duration::from_millis(200), Duration::from_secs(60)])
}

/// Arguments of `doctor`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct DoctorArgs {
    /// Check this interface, or the interfaces that match a pattern, instead of the watched or configured
    /// interfaces; may be repeated
    #[arg(long = "interface", value_name = "NAME", value_parser = scalar::interface)]
    pub interfaces: Vec<String>,
    /// Role of interfaces that are not configured: auto, lan, host or mirror
    #[arg(long, value_name = "ROLE", hide_possible_values = true, value_parser = choice_parser(Role::ALL.map(|role| (role.name(), role))))]
    pub role: Option<Role>,
    /// Socket of the running agent
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `replay`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ReplayArgs {
    /// pcap or pcapng files, which may be compressed with gzip, or - for standard input; several files are
    /// merged by time
    #[arg(value_name = "CAPTURE", required = true)]
    pub captures: Vec<PathBuf>,
    /// Output of flow records as JSON lines: a file, - for standard output, or off
    #[arg(long, value_name = "FILE|-", value_parser = scalar::target)]
    pub flow_log: Option<Switch<Target>>,
    /// Output of alerts as JSON lines: a file, - for standard output, or off
    #[arg(long, value_name = "FILE|-", value_parser = scalar::target)]
    pub alerts: Option<Switch<Target>>,
    /// Ports to watch instead of the configured ports, separated by commas; a port that is not configured
    /// belongs to the service smtp
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub ports: Vec<u16>,
    /// Role of the captured interface: mirror (both directions), lan or host (one direction)
    #[arg(long, value_name = "ROLE", hide_possible_values = true, default_value = "mirror", value_parser = choice_parser(Role::ALL.map(|role| (role.name(), role))))]
    pub role: Role,
    /// Log packets that the kernel program cannot count to a flow, up to this level: error, warn, info, debug or
    /// trace
    #[arg(long, value_name = "LEVEL", hide_possible_values = true, value_parser = choice_parser(LogLevel::ALL.map(|level| (level.name(), level))))]
    pub kernel_log: Option<LogLevel>,
    /// Continue after the last packet until every window has expired
    #[arg(long)]
    pub drain: bool,
}

/// Arguments of `backtest`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct BacktestArgs {
    /// Flow logs, which may be compressed with gzip, or - for standard input; several logs are merged by time
    #[arg(value_name = "FLOWLOG", required = true)]
    pub logs: Vec<PathBuf>,
    /// Output of alerts as JSON lines: a file, - for standard output (the default, regardless of the
    /// configuration), or off
    #[arg(long, value_name = "FILE|-", value_parser = scalar::target)]
    pub alerts: Option<Switch<Target>>,
    /// Options of the flow-log reader
    #[command(flatten)]
    pub reading: ReadingArgs,
    /// Continue after the last record until every window has expired
    #[arg(long)]
    pub drain: bool,
}

/// Parses an address, or an IPv6 prefix as its first address, which belongs to the same source.
fn parse_source(text: &str) -> Result<IpAddr, String> {
    let address = text.parse().ok().or_else(|| match text.parse().ok()? {
        IpNet::V6(net) => Some(IpAddr::V6(net.addr())),
        IpNet::V4(_) => None,
    });
    address.ok_or_else(|| {
        "expected an address such as 10.20.0.2, or an IPv6 prefix such as fd00::/64".to_owned()
    })
}

/// Returns a parser that accepts one of the names.
fn choice_parser<T, const N: usize>(choices: [(&'static str, T); N]) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    PossibleValuesParser::new(choices.map(|(name, _)| name)).try_map(move |typed| {
        let found = choices.iter().find(|(name, _)| *name == typed);
        found.map(|(_, choice)| *choice).ok_or("not one of the choices")
    })
}
