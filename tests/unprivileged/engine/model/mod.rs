//! Reference model of the engine: it keeps every packet, and recomputes each answer from the specification.
//! It is slow, and shares no code with the engine.

mod config;
mod group_key;
mod history;
mod incident;
mod networks;
mod operations;
mod window;

use std::{collections::HashSet, net::IpAddr, time::Duration};

use mailflow_common::{App, FlowKey};
use mailflow_engine::{
    flow::{DirectionStats, Flow, RecordReason},
    settings::{Layer, Rule, Settings, SizeKind, SizeTest},
};

pub use config::{Window, World};
pub use group_key::{Called, ModelAlert};
pub use history::{Connection, Mark, Packet, Talk};
pub use incident::{ModelEvent, alerts, values};
pub use operations::{Doing, Which};

/// Nanoseconds.
pub type Nanos = u64;

fn nanos(duration: Duration) -> Nanos {
    duration.as_nanos() as Nanos
}

/// Record that the engine should make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Time at which the rules should see the record.
    pub at: Nanos,
    /// The flow.
    pub flow: Flow,
    /// Application of the flow.
    pub app: App,
    /// Reason of the record.
    pub reason: RecordReason,
    /// No packet of the flow can have been missed.
    pub complete: bool,
}

/// Returns every record of a history, in the order in which the rules should see them. The flow table is read
/// at `polls` (ascending), the polls do not see the flows in `missed`, and the agent ends at `stop`.
pub fn records(
    settings: &Settings,
    history: &[Connection],
    polls: &[Nanos],
    missed: &HashSet<(FlowKey, Nanos)>,
    stop: Nanos,
) -> Vec<Expected> {
    let mut records = Vec::new();
    for connection in history {
        let (end, reason) = connection.end(settings);
        let mut intervals = 0;
        let shown = |poll: Nanos| poll < end && !missed.contains(&(connection.key, poll));
        for poll in polls.iter().filter(|poll| shown(**poll)) {
            let Some(first) = connection.packets.first().filter(|first| first.at <= *poll) else { continue };
            let active = nanos(settings.timeouts.active);
            let passed = (poll - first.at) / active;
            if passed > intervals {
                intervals = passed;
                let Some(flow) = connection.seen(*poll) else { continue };
                let at = (first.at + passed * active).max(flow.last().as_nanos());
                records.push(expected(connection, at, flow, RecordReason::Active));
            }
        }
        let (at, reason) = if end <= stop { (end, reason) } else { (stop, RecordReason::Shutdown) };
        records.extend(connection.seen(stop).map(|flow| expected(connection, at, flow, reason)));
    }
    records.sort_by_key(|record| {
        let key = &record.flow.key;
        let ends = (key.client.ip(), key.client_port, key.server.ip(), key.server_port);
        (record.at, record.flow.last(), ends)
    });
    records
}

fn expected(connection: &Connection, at: Nanos, flow: Flow, reason: RecordReason) -> Expected {
    Expected { at, app: connection.app(&flow), complete: connection.complete(&flow), flow, reason }
}

/// Returns true if an address of the histories is internal: 10.0.0.0/8 and fd00::/8. Documentation and
/// loopback addresses are neither internal nor external.
fn is_internal(ip: IpAddr) -> bool {
    ip.to_string().starts_with("10.") || ip.to_string().starts_with("fd")
}

fn is_internet(ip: IpAddr) -> bool {
    let text = ip.to_string();
    !is_internal(ip) && !["192.0.2.", "127.", "2001:db8:"].iter().any(|special| text.starts_with(special))
}

/// Returns true if the rule `smtp-burst` matches: internal source, external destination, one of its ports, a
/// mail or unknown application, TCP, and large enough.
pub fn counts(rule: &Rule, flow: &Flow, app: App) -> bool {
    is_internal(flow.client())
        && is_internet(flow.server())
        && [25, 465, 587, 994].contains(&flow.key.server_port)
        && [App::Smtp, App::SmtpStartTls, App::Smtps, App::Unseen].contains(&app)
        && flow.key.scope.protocol() == 6
        && rule.matching.size.is_none_or(|size| large(&size, flow))
}

fn large(size: &SizeTest, flow: &Flow) -> bool {
    let bytes = |way: &DirectionStats| match size.layer {
        Layer::L3 => way.bytes,
        Layer::Payload => way.payload,
    };
    let data_bytes = |way: &DirectionStats| match size.layer {
        Layer::L3 => way.data_bytes,
        Layer::Payload => way.payload,
    };
    let per = |bytes: u64, packets: u64| bytes.checked_div(packets);
    let ratio =
        |way: &DirectionStats, least| per(bytes(way), way.packets).is_some_and(|ratio| ratio >= least);
    let data = |way: &DirectionStats, least| {
        per(data_bytes(way), way.data_packets).is_some_and(|ratio| ratio >= least)
    };
    let count = |way: &DirectionStats, least| way.packets >= least && bytes(way) >= least;
    let ratios = ratio(&flow.up, size.up) && ratio(&flow.down, size.down);
    let counts = count(&flow.up, size.up) && count(&flow.down, size.down);
    match size.kind {
        SizeKind::Ratio => ratios,
        SizeKind::Count => counts,
        SizeKind::Either => ratios || counts,
        SizeKind::DataRatio => data(&flow.up, size.up) && data(&flow.down, size.down),
        SizeKind::UpOnly => ratio(&flow.up, size.up),
    }
}
