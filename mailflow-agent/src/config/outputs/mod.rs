//! `outputs`: where metrics, alerts and flow records go.

pub mod files;
mod metrics;
mod receiver;
mod targets;
mod types;
pub mod url;

use std::{collections::HashSet, path::Path};

use super::{
    diagnostics::Collector,
    sections::state::limits,
    yaml::get::{At, Fields},
};
pub use types::{
    Address, AlertOutput, AlertTo, ClientTls, Credentials, DeadLetters, FlowOutput, FlowTo, Ipfix, IpfixTo,
    Outputs, Profile, Proxy, Receiver, Syslog, SyslogMessage, SyslogTo, Target,
};

/// Reads the outputs. Files that are read are relative to `directory`, files that are written to the
/// working directory.
pub(crate) fn read(at: &At<'_>, faults: &mut Collector, directory: &Path) -> Option<Outputs> {
    Fields::read(at, faults, |fields| {
        let metrics = fields.needed("metrics", |at, faults| metrics::read(at, faults, directory));
        let mut names = HashSet::new();
        let alerts = fields.needed("alerts", |at, faults| {
            targets::read(at, faults, &mut names, |at, faults| targets::alerts(at, faults, directory))
        });
        let flow_log =
            fields.needed("flow_log", |at, faults| targets::read(at, faults, &mut names, targets::flows));
        let files = fields.needed("files", |at, faults| Fields::read(at, faults, limits));
        let metrics::Metrics { listen, max_sources, max_windows, web_config } = metrics?;
        let alerts = alerts?.into_iter().map(|(name, to)| AlertOutput { name, to }).collect();
        let flow_log = flow_log?.into_iter().map(|(name, to)| FlowOutput { name, to }).collect();
        Some(Outputs {
            metrics: listen,
            max_sources,
            max_windows,
            web_config,
            alerts,
            flow_log,
            files: files?,
        })
    })
}
