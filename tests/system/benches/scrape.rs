//! Cost of a scrape: a page with 100,000 series by source (without the limit), compared with counter vectors
//! of the `prometheus` crate with the same series. CPU time of the thread for rendering and encoding to one
//! string, the fastest of the rounds.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use mailflow_agent::metrics::{AgentMetrics, LabelContext, MetricsPage, SeriesLimits, TrafficCounters};
use mailflow_common::{FlowKey, PROTOCOL_TCP, Scope, Vlans};
use mailflow_engine::{
    event::{CounterDelta, Delta, Effects},
    query::window_scan::WindowReport,
    settings::{Service, Services},
    time::Time,
};
use prometheus::{IntCounterVec, Opts, Registry, TextEncoder};

/// Series by source on the page.
const SERIES: usize = 100_000;
/// Series of one source: packets and bytes each way, flows, messages, matched flows of one rule.
const EACH: usize = 7;
const ROUNDS: usize = 7;
/// Minimum factor between the crate's vectors and this page.
const FLOOR: f64 = 10.0;

fn main() -> anyhow::Result<()> {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    if only.is_some_and(|only| !"scrape".contains(only.as_str())) {
        return Ok(());
    }
    let (agent, ledger) = (AgentMetrics::new("bench", 0.0)?, ledger());
    let registry = vectors()?;
    let (mut ours, mut theirs) = (f64::MAX, f64::MAX);
    let mut size = 0;
    for _ in 0..ROUNDS {
        let (page, took) = timed(|| {
            let mut page = String::new();
            let shown = MetricsPage {
                agent: &agent,
                traffic: &ledger,
                windows: &WindowReport::default(),
                firing: &[],
                engine: None,
                kernel: None,
            };
            shown.render(&mut page).map(|()| page)
        })?;
        anyhow::ensure!(series(&page, "mailflow_source_") >= SERIES, "the page has too few series");
        (ours, size) = (ours.min(took), page.len());
        let (page, took) = timed(|| {
            let mut page = String::new();
            TextEncoder::new().encode_utf8(&registry.gather(), &mut page).map(|()| page)
        })?;
        anyhow::ensure!(series(&page, "mailflow_source_") >= SERIES, "the vectors have too few series");
        theirs = theirs.min(took);
    }
    let line = |case: &str, unit: &str, value: f64, floor: Option<f64>| {
        println!("{}", serde_json::json!({ "case": case, "unit": unit, "value": value, "floor": floor }));
    };
    line("scrape, 100,000 series: the page", "ms", ours * 1e3, None);
    line("scrape, 100,000 series: size of the page", "MB", size as f64 / 1e6, None);
    line("scrape, 100,000 series: IntCounterVec", "ms", theirs * 1e3, None);
    line("scrape, 100,000 series: cheaper than IntCounterVec", "times", theirs / ours, Some(FLOOR));
    Ok(())
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + number as u32 * 3)
}

fn sources() -> usize {
    SERIES.div_ceil(EACH)
}

fn ledger() -> TrafficCounters {
    let limits = SeriesLimits { sources: usize::MAX, ..SeriesLimits::default() };
    let mut ledger = TrafficCounters::new(limits, [Arc::from("smtp-burst")]);
    let services = Services::from([(25, Service::Smtp)]);
    let places = LabelContext { services: &services, v6_source_prefix: 64 };
    let delta = |number| Delta {
        key: FlowKey {
            client: std::net::IpAddr::V4(address(number)).into(),
            server: std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)).into(),
            client_port: 40_000,
            server_port: 25,
            scope: Scope::new(Vlans::default(), PROTOCOL_TCP, false),
        },
        up: CounterDelta { packets: 1_234, bytes: 123_456 + number as u64 },
        down: CounterDelta { packets: 567, bytes: 45_678 },
        messages: 3,
        new_flow: true,
    };
    let deltas = (0..sources()).map(delta).collect();
    ledger.observe(&Effects { deltas, ..Effects::default() }, places, Time::ZERO + Duration::from_secs(1));
    ledger
}

/// Creates the same families as vectors of the crate.
fn vectors() -> anyhow::Result<Registry> {
    let registry = Registry::new();
    let family = |name: &str, labels: &[&str]| -> anyhow::Result<IntCounterVec> {
        let family =
            IntCounterVec::new(Opts::new(format!("mailflow_source_{name}_total"), "By source."), labels)?;
        registry.register(Box::new(family.clone()))?;
        Ok(family)
    };
    let both = ["source", "direction"];
    let (packets, bytes) = (family("packets", &both)?, family("bytes", &both)?);
    let (flows, messages) = (family("flows", &["source"])?, family("messages_estimated", &["source"])?);
    let qualifying = family("matched_flows", &["rule", "source"])?;
    for number in 0..sources() {
        let source = address(number).to_string();
        for direction in ["up", "down"] {
            packets.with_label_values(&[source.as_str(), direction]).inc_by(1_234);
            bytes.with_label_values(&[source.as_str(), direction]).inc_by(123_456 + number as u64);
        }
        flows.with_label_values(&[source.as_str()]).inc();
        messages.with_label_values(&[source.as_str()]).inc_by(3);
        qualifying.with_label_values(&["smtp-burst", source.as_str()]).inc_by(0);
    }
    Ok(registry)
}

fn series(page: &str, prefix: &str) -> usize {
    page.lines().filter(|line| line.starts_with(prefix)).count()
}

/// Returns the result of `work`, and the CPU seconds that this thread used for it.
fn timed<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<(T, f64), E> {
    let begin = cpu();
    let result = work()?;
    Ok((result, cpu() - begin))
}

fn cpu() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one struct that lives through it; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
