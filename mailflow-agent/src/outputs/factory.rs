//! Construction of sinks from the configuration.

use super::{
    AlertEvent, FlowEvent,
    alertmanager::Alertmanager,
    dead_letters::DeadLetterFile,
    gateway::Gateway,
    http_client::HttpClient,
    ipfix::IpfixExporter,
    journald::JournaldSocket,
    jsonl_file::{self, OpenError},
    profile::EventFormat,
    sequential::{SendOne, Sequential},
    syslog::SyslogWriter,
    webhook::Webhook,
    worker::{SinkWorker, SpawnError, Transport},
};
use crate::{
    config::{
        AlertDestination, AlertOutput, DeadLetters, FlowDestination, FlowOutput, Profile, WebhookAddress,
    },
    metrics::AgentMetrics,
    util::disk::FileLimits,
};

/// Queue capacity for flow records. Further records are dropped and counted.
const FLOW_QUEUE_CAPACITY: usize = 65_536;
/// Queue capacity for alerts. One alert holds up to twenty flows, about 8 kB.
const ALERT_QUEUE_CAPACITY: usize = 8_192;

/// Opens an output for alerts: one sink, or one for each Alertmanager. `files` limits the size of files.
///
/// # Errors
/// A file cannot be opened, or a thread cannot be started. A receiver need not be reachable yet.
pub fn open_alert_workers(
    output: &AlertOutput,
    files: FileLimits,
    agent: &AgentMetrics,
    gateway: &Gateway,
) -> Result<Vec<SinkWorker<AlertEvent>>, OpenError> {
    let name = output.name.as_str();
    let format = |profile: Profile| EventFormat { profile, gateway: gateway.clone() };
    let one = |sink: Result<_, SpawnError>| Ok(vec![sink?]);
    match &output.to {
        AlertDestination::Lines { target, profile } => {
            let format = format(*profile);
            let render = move |(alert, epoch): &AlertEvent| format.alert_line(alert, *epoch);
            let (counters, bounds) = (agent.sink_counters(name), agent.file_bounds(name, files));
            Ok(vec![jsonl_file::start_bounded(
                name,
                target,
                ALERT_QUEUE_CAPACITY,
                counters,
                Some(bounds),
                render,
            )?])
        }
        AlertDestination::Journal { path, profile } => one(start_sequential(
            name,
            agent,
            JournaldSocket { path: path.clone(), format: format(*profile), socket: None },
        )),
        AlertDestination::Syslog(settings) => one(start_worker(
            name,
            agent,
            ALERT_QUEUE_CAPACITY,
            SyslogWriter::new(settings.clone(), gateway.clone()),
        )),
        AlertDestination::Webhook { url, receiver, profile, dead_letters } => {
            let client = HttpClient::new(url.clone(), "", receiver.clone());
            let path = match dead_letters {
                DeadLetters::File(path) => Some(path.clone()),
                DeadLetters::InState | DeadLetters::Off => None,
            };
            let dead_letter_file = DeadLetterFile::new(path, agent.receiver_counters(name));
            one(start_worker(
                name,
                agent,
                ALERT_QUEUE_CAPACITY,
                Webhook::new(name.to_owned(), client, format(*profile), dead_letter_file),
            ))
        }
        AlertDestination::Alertmanager { urls, receiver, labels, every } => urls
            .iter()
            .map(|url| {
                // A configured label takes precedence over the name of the gateway.
                let mut labels = labels.clone();
                labels.entry("gateway".to_owned()).or_insert_with(|| gateway.name().to_string());
                // Each Alertmanager has its own thread, so that an unreachable one does not delay the others.
                let origin = url.origin();
                let host = origin.split_once("://").map_or(origin.as_str(), |(_, host)| host);
                let name = if urls.len() == 1 { name.to_owned() } else { format!("{name}/{host}") };
                let client =
                    HttpClient::new(WebhookAddress::Inline(url.clone()), "/api/v2/alerts", receiver.clone());
                let counters = agent.receiver_counters(&name);
                let alertmanager = Alertmanager::new(name.clone(), client, labels, *every, counters);
                Ok(start_worker(&name, agent, ALERT_QUEUE_CAPACITY, alertmanager)?)
            })
            .collect(),
    }
}

/// Opens an output for flow records. `files` limits the size of files.
///
/// # Errors
/// A file cannot be opened, or a thread cannot be started.
pub fn open_flow_worker(
    output: &FlowOutput,
    files: FileLimits,
    agent: &AgentMetrics,
    gateway: &Gateway,
) -> Result<SinkWorker<FlowEvent>, OpenError> {
    let name = output.name.as_str();
    match &output.to {
        FlowDestination::Lines { target, profile } => {
            let format = EventFormat { profile: *profile, gateway: gateway.clone() };
            let render = move |(record, epoch): &FlowEvent| format.flow_line(record, *epoch);
            let (counters, bounds) = (agent.sink_counters(name), agent.file_bounds(name, files));
            jsonl_file::start_bounded(name, target, FLOW_QUEUE_CAPACITY, counters, Some(bounds), render)
        }
        FlowDestination::Ipfix(settings) => {
            Ok(start_worker(name, agent, FLOW_QUEUE_CAPACITY, IpfixExporter::new(settings, gateway))?)
        }
    }
}

/// Starts a sink that sends one event at a time.
fn start_sequential(
    name: &str,
    agent: &AgentMetrics,
    to: impl SendOne<AlertEvent>,
) -> Result<SinkWorker<AlertEvent>, SpawnError> {
    start_worker(name, agent, ALERT_QUEUE_CAPACITY, Sequential::new(to))
}

/// Starts a sink with the counters of its name.
fn start_worker<T: Send + 'static>(
    name: &str,
    agent: &AgentMetrics,
    queue: usize,
    transport: impl Transport<T>,
) -> Result<SinkWorker<T>, SpawnError> {
    SinkWorker::start(name, queue, agent.sink_counters(name), transport)
}
