//! The configuration: YAML as typed -> validated, with every fault of a file at once.
//!
//! [`yaml`] makes a tree whose keys and values know their places and gives access to it, and a module for each topic asks for its settings. A setting left out is the shipped file's, which
//! is the only place where defaults are written down.

pub(super) mod amounts;
pub(super) mod defaults;
pub(super) mod diagnostics;
pub(super) mod file;
pub(crate) mod file_stamp;
pub(super) mod networks;
pub mod outputs;
mod redact;
pub(super) mod rules;
pub mod scalar;
mod sections;
pub(super) mod services;
pub(super) mod settings;
pub mod web;
pub(super) mod yaml;

use std::{path::Path, time::Duration};

use self::{
    defaults::shipped,
    diagnostics::DiagnosticSink,
    sections::flow_table::flow_table,
    settings::{EngineSections, read_engine_sections},
    yaml::{
        get::{Cursor, MappingReader},
        values::parsed,
    },
};
pub use self::{
    defaults::{DEFAULT, DEFAULT_NAME},
    diagnostics::{Diagnostic, Diagnostics, Position, SourceLocation},
    networks::lists::NetworkLists,
    sections::{
        flow_table::FlowTableConfig,
        state::{ControlConfig, StateConfig},
    },
};
use mailflow_engine::settings::{Rule, Settings};
pub use mailflow_kernel::options::{AtStop, Hook, Interface, LogLevel, Role};
pub use mailflow_kernel::pattern::NamePattern;
pub use outputs::{
    AlertDestination, AlertOutput, ClientTls, Credentials, DeadLetters, FlowDestination, FlowOutput, Ipfix,
    IpfixDestination, Outputs, Profile, Proxy, Receiver, Syslog, SyslogDestination, SyslogMessage, Target,
    WebhookAddress,
};
pub use redact::redacted;
pub use rules::AllowExpiry;

/// Reads and validates a configuration file, or the shipped one.
pub fn load(path: Option<&Path>) -> Result<Config, Diagnostics> {
    let Some(path) = path else { return parse(DEFAULT_NAME, DEFAULT) };
    let name = path.display().to_string();
    let text = file::read(path).map_err(|no_text| no_text.into_diagnostics(&name))?;
    parse_in(&name, &text, path.parent().unwrap_or(Path::new("")))
}

/// Validates a configuration; `name` is its file's name, in faults and for the files it names.
pub fn parse(name: &str, text: &str) -> Result<Config, Diagnostics> {
    parse_in(name, text, Path::new(name).parent().unwrap_or(Path::new("")))
}

fn parse_in(name: &str, text: &str, directory: &Path) -> Result<Config, Diagnostics> {
    file::check(text).map_err(|no_text| no_text.into_diagnostics(name))?;
    let mut diagnostics = DiagnosticSink::new(name);
    let config = yaml::parse::read(text, &mut diagnostics)
        .and_then(|node| config(&Cursor::root(&node, shipped()), &mut diagnostics, directory));
    let (config, warnings) = diagnostics.finish(config)?;
    Ok(Config { warnings, ..config })
}

fn config(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink, directory: &Path) -> Option<Config> {
    MappingReader::read(cursor, diagnostics, |mapping| {
        let gateway_name = mapping.required("gateway_name", gateway_name);
        let interfaces = mapping.required("interfaces", sections::interfaces::read);
        let poll_interval = mapping.required("poll_interval", |cursor, diagnostics| {
            parsed(cursor, diagnostics, "a duration", scalar::poll_interval)
        });
        let flow_table = mapping.required("flow_table", flow_table);
        let judged = read_engine_sections(mapping, directory);
        let outputs =
            mapping.required("outputs", |cursor, diagnostics| outputs::read(cursor, diagnostics, directory));
        let control = mapping.required("control", sections::state::control);
        let state = mapping.required("state", sections::state::state);
        rules::shipped::warn_of_replaced_rules(mapping);
        let EngineSections { settings, disabled_rules, lists, expiries } = judged?;
        rules::shipped::warn_of_unused(mapping, &settings.services, &settings.rules);
        Some(Config {
            gateway_name: gateway_name?,
            interfaces: interfaces?,
            poll_interval: poll_interval?,
            flow_table: flow_table?,
            engine: settings,
            disabled_rules,
            lists,
            outputs: outputs?,
            control: control?,
            state: state?,
            kernel_log: None,
            warnings: Vec::new(),
            expiries,
        })
    })
}

/// `auto`, or a name that syslog can carry (RFC 5424, 6.2.4).
fn gateway_name(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<Option<String>> {
    match yaml::values::string(cursor, diagnostics)? {
        "auto" => Some(None),
        name if (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Some(Some(name.to_owned()))
        }
        _ => cursor
            .reject(diagnostics, "expected auto, or at most 255 printable ASCII characters without a space"),
    }
}

/// A validated configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name that every event has; `None` for the machine's host name.
    pub gateway_name: Option<String>,
    /// The interfaces to watch.
    pub interfaces: Vec<Interface>,
    /// How often the kernel's tables are read.
    pub poll_interval: Duration,
    /// The kernel's tables.
    pub flow_table: FlowTableConfig,
    /// Where the internal networks come from.
    pub lists: NetworkLists,
    /// What the engine is told.
    pub engine: Settings,
    /// The rules that are switched off.
    pub disabled_rules: Vec<Rule>,
    /// Where records go.
    pub outputs: Outputs,
    /// How the running agent is asked.
    pub control: ControlConfig,
    /// What outlives the agent.
    pub state: StateConfig,
    /// What the kernel program says of packets it could not count; the command line alone sets it.
    pub kernel_log: Option<LogLevel>,
    /// What is odd about it but not wrong: networks inside networks, terms that never hold.
    pub warnings: Vec<Diagnostic>,
    /// Entries of allow-lists that end.
    pub expiries: Vec<AllowExpiry>,
}

impl Config {
    /// Warnings about entries of allow-lists that are over at `now`, nanoseconds since 1970.
    pub fn expired_allow_entries(&self, now: i128) -> impl Iterator<Item = &Diagnostic> {
        self.expiries.iter().filter(move |expiries| expiries.until <= now).map(|expiries| &expiries.warning)
    }
}
