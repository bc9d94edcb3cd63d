//! Sinks as the configuration asks for them.

use super::{
    AlertEvent, FlowEvent,
    alertmanager::Alertmanager,
    dead_letters,
    gateway::Gateway,
    http_client::Post,
    ipfix::Exporter,
    journald::Journal,
    jsonl_file::{self, OpenError},
    profile::Format,
    single::{Deliver, OneByOne},
    syslog::Syslog,
    webhook::Webhook,
    worker::{NoThread, Sink, Transport},
};
use crate::{
    config::{
        AlertDestination, AlertOutput, DeadLetters, FlowDestination, FlowOutput, Profile, WebhookAddress,
    },
    metrics::Agent,
    util::disk::FileLimits,
};

/// Events that may wait for a slow disk, or for a collector, before they are dropped and counted.
const RECORDS: usize = 65_536;
/// Alerts that may wait. One holds up to twenty flows, about 8 kB.
const ALERTS: usize = 8_192;

/// Opens an output for alerts: one sink, or one for each Alertmanager. `files` are the limits of files.
///
/// # Errors
/// A file cannot be opened, or no thread can be started. What is at the other end of a connection need
/// not be there yet.
pub fn alerts(
    output: &AlertOutput,
    files: FileLimits,
    agent: &Agent,
    gateway: &Gateway,
) -> Result<Vec<Sink<AlertEvent>>, OpenError> {
    let name = output.name.as_str();
    let format = |profile: Profile| Format { profile, gateway: gateway.clone() };
    let one = |sink: Result<_, NoThread>| Ok(vec![sink?]);
    match &output.to {
        AlertDestination::Lines { target, profile } => {
            let format = format(*profile);
            let render = move |(alert, epoch): &AlertEvent| format.alert_line(alert, *epoch);
            let (counters, bounds) = (agent.sink_counters(name), agent.file_bounds(name, files));
            Ok(vec![jsonl_file::start_within(name, target, ALERTS, counters, Some(bounds), render)?])
        }
        AlertDestination::Journal { path, profile } => {
            one(single(name, agent, Journal { path: path.clone(), format: format(*profile), socket: None }))
        }
        AlertDestination::Syslog(settings) => {
            one(start(name, agent, ALERTS, Syslog::new(settings.clone(), gateway.clone())))
        }
        AlertDestination::Webhook { url, receiver, profile, dead_letters } => {
            let post = Post::new(url.clone(), "", receiver.clone());
            let path = match dead_letters {
                DeadLetters::File(path) => Some(path.clone()),
                DeadLetters::InState | DeadLetters::Off => None,
            };
            let letters = dead_letters::DeadLetters::new(path, agent.receiver_counters(name));
            one(start(name, agent, ALERTS, Webhook::new(name.to_owned(), post, format(*profile), letters)))
        }
        AlertDestination::Alertmanager { urls, receiver, labels, every } => urls
            .iter()
            .map(|url| {
                // A label that is configured names the gateway as its owner wants it.
                let mut labels = labels.clone();
                labels.entry("gateway".to_owned()).or_insert_with(|| gateway.name().to_string());
                // Each has a thread of its own: one that is dead keeps nothing from the others.
                let origin = url.origin();
                let host = origin.split_once("://").map_or(origin.as_str(), |(_, host)| host);
                let name = if urls.len() == 1 { name.to_owned() } else { format!("{name}/{host}") };
                let post = Post::new(WebhookAddress::Inline(url.clone()), "/api/v2/alerts", receiver.clone());
                let counters = agent.receiver_counters(&name);
                let alertmanager = Alertmanager::new(name.clone(), post, labels, *every, counters);
                Ok(start(&name, agent, ALERTS, alertmanager)?)
            })
            .collect(),
    }
}

/// Opens an output for flow records. `files` are the limits of files.
///
/// # Errors
/// A file cannot be opened, or no thread can be started.
pub fn flows(
    output: &FlowOutput,
    files: FileLimits,
    agent: &Agent,
    gateway: &Gateway,
) -> Result<Sink<FlowEvent>, OpenError> {
    let name = output.name.as_str();
    match &output.to {
        FlowDestination::Lines { target, profile } => {
            let format = Format { profile: *profile, gateway: gateway.clone() };
            let render = move |(record, epoch): &FlowEvent| format.flow_line(record, *epoch);
            let (counters, bounds) = (agent.sink_counters(name), agent.file_bounds(name, files));
            jsonl_file::start_within(name, target, RECORDS, counters, Some(bounds), render)
        }
        FlowDestination::Ipfix(settings) => {
            Ok(start(name, agent, RECORDS, Exporter::new(settings, gateway))?)
        }
    }
}

fn single(name: &str, agent: &Agent, to: impl Deliver<AlertEvent>) -> Result<Sink<AlertEvent>, NoThread> {
    start(name, agent, ALERTS, OneByOne::new(to))
}

fn start<T: Send + 'static>(
    name: &str,
    agent: &Agent,
    queue: usize,
    transport: impl Transport<T>,
) -> Result<Sink<T>, NoThread> {
    Sink::start(name, queue, agent.sink_counters(name), transport)
}
