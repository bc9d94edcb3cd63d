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
    diagnostics::Collector,
    sections::flow_table::flow_table,
    settings::{Judged, judged},
    yaml::{
        get::{At, Fields},
        values::parsed,
    },
};
pub use self::{
    defaults::{DEFAULT, DEFAULT_NAME},
    diagnostics::{Fault, Faults, Place, Position},
    networks::lists::Lists,
    sections::{
        flow_table::FlowTable,
        state::{Control, State},
    },
};
use mailflow_engine::settings::{Rule, Settings};
pub use mailflow_kernel::NamePattern;
pub use mailflow_kernel::options::{AtStop, Hook, Interface, LogLevel, Role};
pub use outputs::{
    Address, AlertOutput, AlertTo, ClientTls, Credentials, DeadLetters, FlowOutput, FlowTo, Ipfix, IpfixTo,
    Outputs, Profile, Proxy, Receiver, Syslog, SyslogMessage, SyslogTo, Target,
};
pub use redact::redacted;
pub use rules::Expiry;

/// Reads and validates a configuration file, or the shipped one.
pub fn load(path: Option<&Path>) -> Result<Config, Faults> {
    let Some(path) = path else { return parse(DEFAULT_NAME, DEFAULT) };
    let name = path.display().to_string();
    let text = file::read(path).map_err(|no_text| no_text.faults(&name))?;
    parse_in(&name, &text, path.parent().unwrap_or(Path::new("")))
}

/// Validates a configuration; `name` is its file's name, in faults and for the files it names.
pub fn parse(name: &str, text: &str) -> Result<Config, Faults> {
    parse_in(name, text, Path::new(name).parent().unwrap_or(Path::new("")))
}

fn parse_in(name: &str, text: &str, directory: &Path) -> Result<Config, Faults> {
    file::check(text).map_err(|no_text| no_text.faults(name))?;
    let mut faults = Collector::new(name);
    let config = yaml::parse::read(text, &mut faults)
        .and_then(|node| config(&At::root(&node, shipped()), &mut faults, directory));
    let (config, warnings) = faults.finish(config)?;
    Ok(Config { warnings, ..config })
}

fn config(at: &At<'_>, faults: &mut Collector, directory: &Path) -> Option<Config> {
    Fields::read(at, faults, |fields| {
        let gateway_name = fields.needed("gateway_name", gateway_name);
        let interfaces = fields.needed("interfaces", sections::interfaces::read);
        let poll_interval = fields
            .needed("poll_interval", |at, faults| parsed(at, faults, "a duration", scalar::poll_interval));
        let flow_table = fields.needed("flow_table", flow_table);
        let judged = judged(fields, directory);
        let outputs = fields.needed("outputs", |at, faults| outputs::read(at, faults, directory));
        let control = fields.needed("control", sections::state::control);
        let state = fields.needed("state", sections::state::state);
        rules::shipped::warn_of_gone(fields);
        let Judged { settings, rules_off, lists, ending } = judged?;
        rules::shipped::warn_of_unused(fields, &settings.services, &settings.rules);
        Some(Config {
            gateway_name: gateway_name?,
            interfaces: interfaces?,
            poll_interval: poll_interval?,
            flow_table: flow_table?,
            engine: settings,
            rules_off,
            lists,
            outputs: outputs?,
            control: control?,
            state: state?,
            kernel_log: None,
            warnings: Vec::new(),
            ending,
        })
    })
}

/// `auto`, or a name that syslog can carry (RFC 5424, 6.2.4).
fn gateway_name(at: &At<'_>, faults: &mut Collector) -> Option<Option<String>> {
    match yaml::values::string(at, faults)? {
        "auto" => Some(None),
        name if (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Some(Some(name.to_owned()))
        }
        _ => at.fault(faults, "expected auto, or at most 255 printable ASCII characters without a space"),
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
    pub flow_table: FlowTable,
    /// Where the internal networks come from.
    pub lists: Lists,
    /// What the engine is told.
    pub engine: Settings,
    /// The rules that are switched off.
    pub rules_off: Vec<Rule>,
    /// Where records go.
    pub outputs: Outputs,
    /// How the running agent is asked.
    pub control: Control,
    /// What outlives the agent.
    pub state: State,
    /// What the kernel program says of packets it could not count; the command line alone sets it.
    pub kernel_log: Option<LogLevel>,
    /// What is odd about it but not wrong: networks inside networks, terms that never hold.
    pub warnings: Vec<Fault>,
    /// Entries of allow-lists that end.
    pub ending: Vec<Expiry>,
}

impl Config {
    /// Warnings about entries of allow-lists that are over at `now`, nanoseconds since 1970.
    pub fn over(&self, now: i128) -> impl Iterator<Item = &Fault> {
        self.ending.iter().filter(move |ending| ending.until <= now).map(|ending| &ending.warning)
    }
}
