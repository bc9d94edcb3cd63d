//! Configuration: reads YAML, validates it, and reports all errors of a file at once.
//!
//! [`yaml`] parses the text into a tree with positions. A module for each section reads its settings from the
//! tree. Omitted settings take their value from the shipped file, which is the only place that defines
//! defaults.

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
pub use mailflow_kernel::NamePattern;
pub use mailflow_kernel::options::{AtStop, Hook, Interface, LogLevel, Role};
pub use outputs::{
    AlertDestination, AlertOutput, ClientTls, Credentials, DeadLetters, FlowDestination, FlowOutput, Ipfix,
    IpfixDestination, Outputs, Profile, Proxy, Receiver, Syslog, SyslogDestination, SyslogMessage, Target,
    WebhookAddress,
};
pub use redact::redacted;
pub use rules::AllowExpiry;

/// Reads and validates a configuration file, or the shipped configuration.
pub fn load(path: Option<&Path>) -> Result<Config, Diagnostics> {
    let Some(path) = path else { return parse(DEFAULT_NAME, DEFAULT) };
    let name = path.display().to_string();
    let text = file::read(path).map_err(|text_error| text_error.into_diagnostics(&name))?;
    parse_in(&name, &text, path.parent().unwrap_or(Path::new("")))
}

/// Validates a configuration. `name` is the file's name for diagnostics; its directory is the base of
/// relative paths.
pub fn parse(name: &str, text: &str) -> Result<Config, Diagnostics> {
    parse_in(name, text, Path::new(name).parent().unwrap_or(Path::new("")))
}

fn parse_in(name: &str, text: &str, directory: &Path) -> Result<Config, Diagnostics> {
    file::check(text).map_err(|text_error| text_error.into_diagnostics(name))?;
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
        let engine_sections = read_engine_sections(mapping, directory);
        let outputs =
            mapping.required("outputs", |cursor, diagnostics| outputs::read(cursor, diagnostics, directory));
        let control = mapping.required("control", sections::state::control);
        let state = mapping.required("state", sections::state::state);
        rules::shipped::warn_of_replaced_rules(mapping);
        let EngineSections { settings, disabled_rules, lists, expiries } = engine_sections?;
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

/// Reads `auto`, or a host name for syslog (RFC 5424, 6.2.4).
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

/// Validated configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the gateway in every event; `None` for the machine's host name.
    pub gateway_name: Option<String>,
    /// Interfaces to watch.
    pub interfaces: Vec<Interface>,
    /// Time between two polls of the kernel's tables.
    pub poll_interval: Duration,
    /// Capacities of the kernel's tables.
    pub flow_table: FlowTableConfig,
    /// Sources of the internal networks.
    pub lists: NetworkLists,
    /// Settings of the rule engine.
    pub engine: Settings,
    /// Disabled rules.
    pub disabled_rules: Vec<Rule>,
    /// Outputs of metrics, alerts and flow records.
    pub outputs: Outputs,
    /// Control socket.
    pub control: ControlConfig,
    /// State that is kept between two processes of the agent.
    pub state: StateConfig,
    /// Log level for packets that the kernel program could not count. Only the command line sets it.
    pub kernel_log: Option<LogLevel>,
    /// Warnings: nested networks, conditions that never hold, and the like.
    pub warnings: Vec<Diagnostic>,
    /// Allow-list entries with an end.
    pub expiries: Vec<AllowExpiry>,
}

impl Config {
    /// Returns the warnings about allow-list entries that have expired at `now`, in nanoseconds since 1970.
    pub fn expired_allow_entries(&self, now: i128) -> impl Iterator<Item = &Diagnostic> {
        self.expiries.iter().filter(move |expiries| expiries.until <= now).map(|expiries| &expiries.warning)
    }
}
