//! Arguments as typed.

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

use crate::{
    config::{
        Hook, LogLevel, Role, Target,
        scalar::{self, Switch},
    },
    offline::flowlog::{LogOptions, Renamed},
};

/// Tells which internal host sends too much mail, from exact kernel counts.
#[derive(Debug, Parser)]
#[command(
    name = "mailflow-agent",
    version,
    arg_required_else_help = true,
    after_help = "Exit status: 0 good, 1 findings or failure at run time, 2 bad usage or configuration."
)]
pub(crate) struct Typed {
    /// The configuration; without it the shipped one, built in
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Watch interfaces until told to stop
    Run(RunArgs),
    /// Count what captures hold, with their time as the clock; no interface is needed
    Replay(ReplayArgs),
    /// Evaluate the rules on flow logs, in event time; no interface and no privilege is needed
    #[command(after_help = BACKTEST)]
    Backtest(BacktestArgs),
    /// Validate configurations: every fault with file, line and column
    CheckConfig {
        /// Configurations; without any, that of --config, or the shipped one
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Work on rules
    Rules {
        #[command(subcommand)]
        verb: RulesVerb,
    },
    /// Print a configuration as it is written
    PrintConfig {
        /// The configuration; without it, that of --config, or the shipped one
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Tell how the running agent is
    #[command(after_help = ASKING)]
    Status(StatusArgs),
    /// Show what the running agent's sources send, live
    #[command(after_help = TOP)]
    Top(TopArgs),
    /// Let the running agent read its configuration again
    #[command(after_help = RELOAD)]
    Reload(SocketArgs),
    /// Print what lets a shell complete the commands
    Completions {
        /// bash, zsh, fish, elvish or powershell
        #[arg(value_name = "SHELL", hide_possible_values = true)]
        shell: Shell,
    },
    /// Write the man pages, one for each command
    Man {
        /// The folder they go to
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
    /// Tell of a source what each rule holds, and why each of its flows counts or not
    #[command(after_help = EXPLAIN)]
    Explain(ExplainArgs),
    /// Print allow-list entries for sources that behave like relays, and servers that many sources use
    #[command(after_help = EXPLAIN)]
    Suggest(SuggestArgs),
    /// Look at this machine: what speaks for or against exact counts, and what to do about it
    #[command(after_help = DOCTOR)]
    Doctor(DoctorArgs),
    /// Print the version
    Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RulesVerb {
    /// Run rule tests: given flows in simulated time, and the alerts that must come of them
    #[command(after_help = RULES_TEST)]
    Test {
        /// Files of rule tests
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
}

/// What `rules test --help` says beyond the options.
const RULES_TEST: &str = "\
A file has the rules (or `config: FILE`, or neither for the shipped ones) and tests:

  tests:
    - name: ten mails in ten minutes
      flows:
        - { source: 10.0.0.1, destination: 9.9.9.9, repeat: { times: 10, every: 1m } }
      alerts:
        - { rule: smtp-burst, source: 10.0.0.1, at: 9m }

An alert that is expected and does not come fails its test, and so does one that is not expected. Exit status: \
0 all good, 1 a test failed, 2 a file is faulty. docs/rules/reference.md has the format.";

/// What `run` was told beside the configuration; each wins over it.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct RunArgs {
    /// Watch this interface, or those whose names match a pattern (ppp*, re:^wg[0-9]+$), instead of the configured ones; may be repeated
    #[arg(long = "interface", value_name = "NAME", value_parser = scalar::interface)]
    pub interfaces: Vec<String>,
    /// What passes the interfaces: auto, lan (inside of a gateway), host (this machine's own mail), mirror
    #[arg(long, value_name = "ROLE", hide_possible_values = true, value_parser = named(Role::ALL.map(|role| (role.name(), role))))]
    pub role: Option<Role>,
    /// Where the program is attached: auto, xdp, tc
    #[arg(long, value_name = "HOOK", hide_possible_values = true, value_parser = named(Hook::ALL.map(|hook| (hook.name(), hook))))]
    pub hook: Option<Hook>,
    /// Where flow records go, as JSON lines: a file, - for standard output, or off
    #[arg(long, value_name = "FILE|-", value_parser = scalar::target)]
    pub flow_log: Option<Switch<Target>>,
    /// Where alerts go, as JSON lines: a file, - for standard output, or off
    #[arg(long, value_name = "FILE|-", value_parser = scalar::target)]
    pub alerts: Option<Switch<Target>>,
    /// Where /metrics is served: ADDRESS:PORT, or off
    #[arg(long, value_name = "ADDR", value_parser = scalar::listen)]
    pub metrics: Option<Switch<SocketAddr>>,
    /// How often the kernel's counters are read, 100ms to 60s
    #[arg(long, value_name = "DURATION", value_parser = scalar::poll_interval)]
    pub poll_interval: Option<Duration>,
    /// Where status, top and reload ask: a path, or off
    #[arg(long, value_name = "PATH", value_parser = scalar::path)]
    pub control: Option<Switch<PathBuf>>,
    /// Where its state lies: a directory, or off
    #[arg(long, value_name = "DIRECTORY", value_parser = scalar::path)]
    pub state: Option<Switch<PathBuf>>,
    /// Where tables and links are pinned: a directory of a BPF file system, or off
    #[arg(long, value_name = "DIRECTORY", value_parser = scalar::path)]
    pub pins: Option<Switch<PathBuf>>,
    /// Leave the programs counting when stopped, for the next agent
    #[arg(long)]
    pub keep: bool,
    /// Log what the kernel program says of packets it cannot count: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", hide_possible_values = true, value_parser = named(LogLevel::ALL.map(|level| (level.name(), level))))]
    pub kernel_log: Option<LogLevel>,
}

/// What `explain` was told.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ExplainArgs {
    /// Its address, or the IPv6 prefix by which alerts name it
    #[arg(value_name = "SOURCE", value_parser = source)]
    pub source: IpAddr,
    /// At most this many of its flows, the newest first
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub flows: usize,
    /// One JSON object instead of lines for people
    #[arg(long)]
    pub json: bool,
    /// What is read instead of asking
    #[command(flatten)]
    pub logs: LogArgs,
    /// Where it listens
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// What `suggest` was told.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct SuggestArgs {
    /// What is read instead of asking
    #[command(flatten)]
    pub logs: LogArgs,
    /// Where it listens
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Flow logs in the place of a running agent.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct LogArgs {
    /// Read flow logs, as backtest does, instead of asking the running agent
    #[arg(long = "log", value_name = "FLOWLOG", num_args = 1.., conflicts_with = "socket")]
    pub logs: Vec<PathBuf>,
    /// As for backtest
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// Options of the reader of flow logs.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadingArgs {
    /// What a frame has beside its IP packet in logs that count frames (Suricata), in bytes; 14, and 4
    /// more for each VLAN tag, without it
    #[arg(long, value_name = "BYTES", requires = "logs")]
    pub l2_overhead: Option<u16>,
    /// The name that one of Zeek's columns has in the logs, such as ts=timestamp; may be repeated
    #[arg(long = "column", value_name = "ZEEK=NAME", requires = "logs")]
    pub columns: Vec<Renamed>,
}

impl ReadingArgs {
    /// Returns them as the reader takes them.
    pub fn options(&self) -> LogOptions {
        LogOptions { l2_overhead: self.l2_overhead, columns: self.columns.clone() }
    }
}

/// Where the running agent listens.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketArgs {
    /// The agent's socket; without it that of --config, or of the shipped configuration
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// What `status` was told.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusArgs {
    /// Where the agent listens.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// What `top` was told.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct TopArgs {
    /// Where the agent listens.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Print the table once and end; so without a terminal
    #[arg(long)]
    pub once: bool,
    /// Most rows that --once prints
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub rows: usize,
    /// By what: packets, bytes, flows, messages, counted, source
    #[arg(long, value_name = "COLUMN", hide_possible_values = true, default_value = "bytes", value_parser = named(Column::ALL.map(|column| (column.name(), column))))]
    pub sort: Column,
    /// Only sources whose address contains this
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Time between two looks, 200ms to 60s
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = refresh)]
    pub interval: Duration,
}

/// A column of `top`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Column {
    /// The address.
    Source,
    /// Packets, client to server.
    Packets,
    /// IP bytes, client to server.
    Bytes,
    /// Flows begun.
    Flows,
    /// Messages estimated.
    Messages,
    /// Flows that a rule counted.
    Counted,
}

impl Column {
    /// Every column, in their order.
    pub const ALL: [Column; 6] =
        [Column::Source, Column::Packets, Column::Bytes, Column::Flows, Column::Messages, Column::Counted];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Column::Source => "source",
            Column::Packets => "packets",
            Column::Bytes => "bytes",
            Column::Flows => "flows",
            Column::Messages => "messages",
            Column::Counted => "counted",
        }
    }
}

fn refresh(text: &str) -> Result<Duration, String> {
    scalar::duration_within(text, [Duration::from_millis(200), Duration::from_secs(60)])
}

/// What commands that ask the running agent say of their end.
const ASKING: &str = "\
Exit status: 0 the agent answered and counts, 1 it does not answer, a program is not attached, packets are \
missing, or the last configuration was refused, 2 bad usage.";

/// What `doctor` was told.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct DoctorArgs {
    /// Look at this interface, or those whose names match a pattern, instead of those that the running agent watches or that are configured; may be repeated
    #[arg(long = "interface", value_name = "NAME", value_parser = scalar::interface)]
    pub interfaces: Vec<String>,
    /// What passes the interfaces that are not configured: auto, lan, host, mirror
    #[arg(long, value_name = "ROLE", hide_possible_values = true, value_parser = named(Role::ALL.map(|role| (role.name(), role))))]
    pub role: Option<Role>,
    /// The running agent's socket
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}

/// What `doctor --help` says beyond the options.
const DOCTOR: &str = "\
A line a finding: ok, warn (counts may be incomplete, or something is worse than it could be) or bad (it does \
not work so), and what to do. The running agent is asked too, at its socket.

Exit status: 0 nothing is bad, 1 something is, 2 bad usage or configuration.";

/// What `top --help` says beyond the options.
const TOP: &str = "\
Keys: p packets, b bytes, f flows, m messages, c counted by a rule, s source; the same key again turns the \
order. d: since the agent started, or by second. /: filter, Esc: no filter. Up, Down, PgUp, PgDn, Home: \
scroll. Space: look now. q: end.

Numbers are client to server. Sources beyond the cap are summed in `other`, those idle for a day in `retired`.

Exit status: 0 good, 1 the agent does not answer, 2 bad usage.";

/// What `explain --help` and `suggest --help` say beyond the options.
const EXPLAIN: &str = "\
The running agent is asked, of the 16,384 newest flows. With --log no agent is needed: the rules of --config see \
all flows of the logs, and what is told is how things stand at their end.

Exit status: 0 good, 1 the agent does not answer, or a log could not be read to its end, 2 bad usage.";

/// What `reload --help` says beyond the options.
const RELOAD: &str = "\
All of a new configuration comes into force, or nothing of it: what is wrong with it, or needs a restart, is \
printed, and the agent goes on with the one before. SIGHUP does the same, and the agent logs the answer.

Exit status: 0 in force, 1 refused, or the agent does not answer, 2 bad usage.";

/// What `replay` was told.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ReplayArgs {
    /// pcap or pcapng files, gzip-compressed or not, or - for standard input; more than one are one history
    #[arg(value_name = "CAPTURE", required = true)]
    pub captures: Vec<PathBuf>,
    /// Where flow records go, as JSON lines: a file, - for standard output, or off
    #[arg(long, value_name = "FILE|-", value_parser = scalar::target)]
    pub flow_log: Option<Switch<Target>>,
    /// Where alerts go, as JSON lines: a file, - for standard output, or off
    #[arg(long, value_name = "FILE|-", value_parser = scalar::target)]
    pub alerts: Option<Switch<Target>>,
    /// Watch these ports instead of the configured ones, separated by commas; one that is not configured is one of smtp
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub ports: Vec<u16>,
    /// What the captures show: mirror (both directions), lan or host (one)
    #[arg(long, value_name = "ROLE", hide_possible_values = true, default_value = "mirror", value_parser = named(Role::ALL.map(|role| (role.name(), role))))]
    pub role: Role,
    /// Log what the kernel program says of packets it cannot count: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", hide_possible_values = true, value_parser = named(LogLevel::ALL.map(|level| (level.name(), level))))]
    pub kernel_log: Option<LogLevel>,
    /// Let time go on beyond the end until every window is over
    #[arg(long)]
    pub drain: bool,
}

/// What `backtest --help` says beyond the options.
const BACKTEST: &str = "\
Formats, each file recognised by what is in it, plain or gzip: mailflow's own flow lines, Suricata's \
EVE flow lines, Zeek's conn.log, open_conn.log and conn_long.log as columns or as JSON; as JSON also within lines of \
Filebeat or Elasticsearch. The order of files and lines does not matter.

Records that wait for their turn take up to 256 MiB of memory; beyond that, about 70 bytes a record in a temporary \
file without a name, in TMPDIR or else in /var/tmp.

A rule that needs what a log does not tell is reported as not evaluable, with the number of records. \
Of lines that cannot be read the first one of each reason is shown and the others are counted; the rest is evaluated, and the exit status is 1.

Examples:
  mailflow-agent backtest /var/log/mailflow/flows.json* --config new-rules.yaml
  mailflow-agent backtest conn.*.log.gz --alerts would-have-been.json --drain";

/// What `backtest` was told.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct BacktestArgs {
    /// Flow logs, gzip-compressed or not, or - for standard input; all of them are one history
    #[arg(value_name = "FLOWLOG", required = true)]
    pub logs: Vec<PathBuf>,
    /// Where alerts go, as JSON lines: a file, - for standard output (the default, whatever the
    /// configuration says), or off
    #[arg(long, value_name = "FILE|-", value_parser = scalar::target)]
    pub alerts: Option<Switch<Target>>,
    /// Options of the reader
    #[command(flatten)]
    pub reading: ReadingArgs,
    /// Let time go on beyond the end until every window is over
    #[arg(long)]
    pub drain: bool,
}

/// An address; of an IPv6 prefix its first one, which lies in the same source.
fn source(text: &str) -> Result<IpAddr, String> {
    let address = text.parse().ok().or_else(|| match text.parse().ok()? {
        IpNet::V6(net) => Some(IpAddr::V6(net.addr())),
        IpNet::V4(_) => None,
    });
    address.ok_or_else(|| {
        "expected an address such as 10.20.0.2, or an IPv6 prefix such as fd00::/64".to_owned()
    })
}

/// A parser of one of these names.
fn named<T, const N: usize>(choices: [(&'static str, T); N]) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    PossibleValuesParser::new(choices.map(|(name, _)| name)).try_map(move |typed| {
        let found = choices.iter().find(|(name, _)| *name == typed);
        found.map(|(_, choice)| *choice).ok_or("not one of the choices")
    })
}
