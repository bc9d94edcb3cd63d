//! `outputs`: destinations of metrics, alerts and flow records.

pub mod files;
mod metrics;
mod receiver;
mod targets;
mod types;
pub mod url;

use std::{collections::HashSet, path::Path};

use super::{
    diagnostics::DiagnosticSink,
    sections::state::limits,
    yaml::get::{Cursor, MappingReader},
};
pub use types::{
    AlertDestination, AlertOutput, ClientTls, Credentials, DeadLetters, FlowDestination, FlowOutput, Ipfix,
    IpfixDestination, Outputs, Profile, Proxy, Receiver, Syslog, SyslogDestination, SyslogMessage, Target,
    WebhookAddress,
};

/// Reads the outputs. Input files are relative to `directory`, output files to the working directory.
pub(crate) fn read(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    directory: &Path,
) -> Option<Outputs> {
    MappingReader::read(cursor, diagnostics, |mapping| {
        let metrics =
            mapping.required("metrics", |cursor, diagnostics| metrics::read(cursor, diagnostics, directory));
        let mut names = HashSet::new();
        let alerts = mapping.required("alerts", |cursor, diagnostics| {
            targets::read(cursor, diagnostics, &mut names, |cursor, diagnostics| {
                targets::alerts(cursor, diagnostics, directory)
            })
        });
        let flow_log = mapping.required("flow_log", |cursor, diagnostics| {
            targets::read(cursor, diagnostics, &mut names, targets::flows)
        });
        let files =
            mapping.required("files", |cursor, diagnostics| MappingReader::read(cursor, diagnostics, limits));
        let metrics::MetricsConfig { listen, max_sources, max_windows, web_config } = metrics?;
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
