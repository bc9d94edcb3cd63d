//! A naive model of the engine: it knows every packet, keeps everything, and works each answer out
//! from scratch from the words of the specification. Slow, and nothing of it is the engine's.

#[path = "reference/course.rs"]
mod course;
#[path = "reference/held.rs"]
mod held;
#[path = "reference/history.rs"]
mod history;
#[path = "reference/incident.rs"]
mod incident;
#[path = "reference/places.rs"]
mod places;
#[path = "reference/subject.rs"]
mod subject;
#[path = "reference/world.rs"]
mod world;

use std::{collections::HashSet, net::IpAddr, time::Duration};

use mailflow_common::{App, FlowKey};
use mailflow_engine::{
    flow::{DirectionStats, Flow, RecordReason},
    settings::{Layer, Rule, Settings, SizeKind, SizeTest},
};

pub use course::{Doing, Which};
pub use history::{Connection, Mark, Packet, Talk};
pub use incident::{Told, alerts, values};
pub use subject::{Called, Said};
pub use world::{Window, World};

/// Nanoseconds.
pub type Nanos = u64;

fn nanos(duration: Duration) -> Nanos {
    duration.as_nanos() as Nanos
}

/// A record the engine should make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// When the rules should see it.
    pub at: Nanos,
    /// The flow.
    pub flow: Flow,
    /// Its class.
    pub app: App,
    /// Why.
    pub reason: RecordReason,
    /// Whether nothing of it can have been missed.
    pub complete: bool,
}

/// Every record of a history looked at at `polls` (ascending), which did not show what was `missed`, and
/// ended at `stop`; in the order in which the rules should see them.
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

/// Where the histories' addresses are: 10.0.0.0/8 and fd00::/8 are inside; documentation and loopback
/// are nowhere.
fn is_internal(ip: IpAddr) -> bool {
    ip.to_string().starts_with("10.") || ip.to_string().starts_with("fd")
}

fn is_internet(ip: IpAddr) -> bool {
    let text = ip.to_string();
    !is_internal(ip) && !["192.0.2.", "127.", "2001:db8:"].iter().any(|special| text.starts_with(special))
}

/// R1's verdict: from inside to the Internet, on its ports, not known to be something else, TCP, and
/// large enough.
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
