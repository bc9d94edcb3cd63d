//! Complete metrics page.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use mailflow_agent::metrics::{
    AgentMetrics, EngineStats, KernelSnapshot, LabelContext, LoadOutcome, MetricsPage, PacketsAt,
    ProgramAttachment, SeriesLimits, TrafficCounters, Utilisation, WatchedEntry,
};
use mailflow_common::{DirectionTotals, HandshakeCounters, Reason, Totals};
use mailflow_engine::{
    RuleCounts, RuleStats, Stats,
    eval::GroupKey,
    event::{CounterDelta, Effects, MatchedFlow, Source, Value, WindowValue},
    query::window_scan::{TermThreshold, WindowReport},
};

use crate::fixture::{alert, at, doc, documented, key, record, services};
use crate::traffic_counters::delta;

/// Returns the samples by their series.
pub(crate) fn samples(page: &str) -> BTreeMap<&str, f64> {
    let mut found = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(found.insert(series, value.parse().unwrap()).is_none(), "twice: {series}");
    }
    found
}

fn totals() -> Totals {
    let mut totals = Totals {
        up: DirectionTotals { buffers: 3, packets: 12, bytes: 1_300 },
        down: DirectionTotals { buffers: 4, packets: 20, bytes: 2_000 },
        syns: HandshakeCounters { all: 8, copies: 4 },
        ..Totals::default()
    };
    totals.reasons[Reason::Truncated as usize] = 9;
    totals
}

/// Returns a page with a value in every family.
fn page() -> String {
    let agent = AgentMetrics::new("1.2.3", 1_795_231_860.0).unwrap();
    agent.observe_poll(Duration::from_millis(2));
    agent.count_poll_failure();
    agent.record_config_load(LoadOutcome::Loaded(1_795_231_861.0));
    agent.sink_counters("alerts").written.inc_by(2);
    agent.sink_counters("flow_log").dropped.inc();
    agent.record_state_usage(false, 700, 3);
    let files = mailflow_agent::util::disk::FileLimits::NONE;
    agent.file_bounds("alerts", files).files_replaced.inc();
    agent.receiver_counters("alerts_webhook").refusals.inc();
    let mut ledger = TrafficCounters::new(SeriesLimits::default(), [Arc::from("smtp-burst")]);
    let flow = key("10.0.0.9", 40_001, "192.0.2.1", 25);
    let services = services();
    let effects = Effects {
        deltas: vec![delta(flow, 10, 20)],
        records: vec![record(flow)],
        matched_flows: vec![MatchedFlow { rule: "smtp-burst".into(), key: flow, suppressed: false }],
        alerts: vec![alert()],
        ..Effects::default()
    };
    ledger.observe(&effects, LabelContext { services: &services, v6_source_prefix: 64 }, at(0));
    let value = WindowValue {
        rule: "smtp-burst".into(),
        term: "count".into(),
        group_key: GroupKey::Source(Source::of(flow.client.ip(), 64)),
        value: Value::AtLeast(10),
    };
    let windows = WindowReport { values: vec![value], ..WindowReport::default() };
    let threshold = |term: &str, at_least, scale| TermThreshold {
        rule: "smtp-burst".into(),
        term: term.into(),
        at_least,
        scale,
    };
    let rules = RuleStats { evidence: 7, evidence_dropped: 3, ..RuleStats::default() };
    let memory = EngineStats {
        stats: Stats { open_flows: 5, vanished_flows: 2, rules },
        rules: vec![RuleCounts {
            rule: "smtp-burst".into(),
            groups: 4,
            late: 6,
            refused: 8,
            evicted: 10,
            memory: 12,
            aggregated_alerts: 14,
        }],
        thresholds: vec![threshold("count", 10, 1), threshold("ratio failed/attempts", 500_000, 1_000_000)],
    };
    let kernel = KernelSnapshot {
        totals: totals(),
        packet_locations: vec![PacketsAt {
            name: "active",
            up: CounterDelta { packets: 10, bytes: 1_000 },
            down: CounterDelta { packets: 20, bytes: 2_000 },
        }],
        difference: [[2, 0], [300, 0]],
        duplicate_delivery: true,
        flows: Utilisation { entries: 5, capacity: 100 },
        overflow: Utilisation { entries: 1, capacity: 10 },
        attached: vec![ProgramAttachment {
            interface: "lan0".into(),
            hook: "tcx",
            direction: "ingress",
            attached: true,
            position: Some(1),
            reattach_count: 0,
        }],
        entries: vec![WatchedEntry {
            name: "ppp*".into(),
            pattern: true,
            hook: "auto",
            interfaces: vec![("ppp0".into(), "lan"), ("ppp1".into(), "lan")],
            missing: None,
        }],
        unlisted: vec![("lan0".into(), "2001:db8::/64".into())],
        unlisted_flows: 9,
        helper_pid: Some(7),
        scan_duration: Duration::from_millis(250),
    };
    let mut out = String::new();
    let (memory, kernel) = (Some(&memory), Some(&kernel));
    let firing = [Arc::new(alert())];
    MetricsPage {
        agent: &agent,
        traffic: &ledger,
        windows: &windows,
        firing: &firing,
        engine: memory,
        kernel,
    }
    .render(&mut out)
    .unwrap();
    out
}

#[test]
fn page_has_all_values() {
    let page = page();
    let found = samples(&page);
    for (series, value) in [
        ("mailflow_build_info{version=\"1.2.3\"}", 1.0),
        ("process_start_time_seconds", 1_795_231_860.0),
        ("mailflow_poll_duration_seconds_count", 1.0),
        ("mailflow_poll_failures_total", 1.0),
        ("mailflow_interfaces{entry=\"ppp*\"}", 2.0),
        ("mailflow_unlisted_prefix_info{interface=\"lan0\",prefix=\"2001:db8::/64\"}", 1.0),
        ("mailflow_unlisted_client_flows_total", 9.0),
        ("mailflow_config_last_reload_successful", 1.0),
        ("mailflow_config_last_reload_success_timestamp_seconds", 1_795_231_861.0),
        ("mailflow_output_lines_written_total{output=\"alerts\"}", 2.0),
        ("mailflow_rule_evicted_subjects_total{rule=\"smtp-burst\"}", 10.0),
        ("mailflow_rule_memory_bytes{rule=\"smtp-burst\"}", 12.0),
        ("mailflow_rule_grouped_alerts_total{rule=\"smtp-burst\"}", 14.0),
        ("mailflow_source_flood", 0.0),
        ("mailflow_output_lines_dropped_total{output=\"flow_log\"}", 1.0),
        ("mailflow_packets_total{service=\"smtp\",direction=\"up\"}", 10.0),
        ("mailflow_bytes_total{service=\"smtp\",direction=\"down\"}", 2_000.0),
        ("mailflow_flows_total{service=\"smtp\"}", 1.0),
        ("mailflow_messages_estimated_total{service=\"smtp\"}", 1.0),
        ("mailflow_rule_matched_flows_total{rule=\"smtp-burst\",service=\"smtp\"}", 1.0),
        ("mailflow_packets_total{service=\"imaps\",direction=\"up\"}", 0.0),
        ("mailflow_source_packets_total{source=\"10.0.0.9\",direction=\"down\"}", 20.0),
        ("mailflow_source_bytes_total{source=\"10.0.0.9\",direction=\"up\"}", 1_000.0),
        ("mailflow_source_flows_total{source=\"10.0.0.9\"}", 1.0),
        ("mailflow_source_flows_total{source=\"other\"}", 0.0),
        ("mailflow_source_matched_flows_total{rule=\"smtp-burst\",source=\"10.0.0.9\"}", 1.0),
        ("mailflow_sources", 1.0),
        ("mailflow_sources_limit", 2_000.0),
        ("mailflow_window_value{rule=\"smtp-burst\",condition=\"count\",source=\"10.0.0.9\"}", 10.0),
        ("mailflow_window_values_omitted", 0.0),
        ("mailflow_flow_records_total{reason=\"closed\"}", 1.0),
        ("mailflow_one_way_flows_total{direction=\"up\"}", 0.0),
        ("mailflow_alerts{rule=\"smtp-burst\",state=\"firing\"}", 1.0),
        ("mailflow_alert_events_total{rule=\"smtp-burst\",state=\"resolved\"}", 0.0),
        ("mailflow_kernel_packets_total{direction=\"up\"}", 12.0),
        ("mailflow_kernel_bytes_total{direction=\"down\"}", 2_000.0),
        ("mailflow_kernel_buffers_total{direction=\"down\"}", 4.0),
        ("mailflow_uncounted_buffers_total{reason=\"truncated\"}", 9.0),
        ("mailflow_uncounted_buffers_total{reason=\"not_ip\"}", 0.0),
        ("mailflow_conservation_difference_packets{direction=\"up\"}", 2.0),
        ("mailflow_conservation_difference_packets{direction=\"down\"}", 0.0),
        ("mailflow_conservation_difference_bytes{direction=\"up\"}", 300.0),
        ("mailflow_accounted_packets{location=\"active\",direction=\"down\"}", 20.0),
        ("mailflow_accounted_bytes{location=\"active\",direction=\"up\"}", 1_000.0),
        ("mailflow_overflow_entries", 1.0),
        ("mailflow_overflow_capacity", 10.0),
        ("mailflow_merged_flows_total", 0.0),
        ("mailflow_handshake_packets_total{packet=\"syn\"}", 8.0),
        ("mailflow_handshake_copies_total{packet=\"syn\"}", 4.0),
        ("mailflow_duplicate_delivery", 1.0),
        ("mailflow_program_position{interface=\"lan0\",hook=\"tcx\",direction=\"ingress\"}", 1.0),
        ("mailflow_reattachments_total{interface=\"lan0\",direction=\"ingress\"}", 0.0),
        ("mailflow_rule_threshold{rule=\"smtp-burst\",condition=\"count\"}", 10.0),
        ("mailflow_rule_threshold{rule=\"smtp-burst\",condition=\"ratio failed/attempts\"}", 0.5),
        ("mailflow_hook_monitor_up", 1.0),
        ("mailflow_state_durable", 0.0),
        ("mailflow_state_bytes", 700.0),
        ("mailflow_state_write_failures_total", 3.0),
        ("mailflow_output_files_replaced_total{output=\"alerts\"}", 1.0),
        ("mailflow_output_waiting_for_disk{output=\"alerts\"}", 0.0),
        ("mailflow_flow_table_entries", 5.0),
        ("mailflow_flow_table_capacity", 100.0),
        ("mailflow_flow_table_scan_duration_seconds", 0.25),
        ("mailflow_attached{interface=\"lan0\",hook=\"tcx\",direction=\"ingress\"}", 1.0),
    ] {
        assert_eq!(found.get(series), Some(&value), "{series}\n{page}");
    }
}

#[test]
fn documentation_lists_exactly_the_families() {
    let page = page();
    let exported: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    let text = doc("metrics.md");
    let listed: BTreeSet<_> = text
        .lines()
        .filter(|line| documented(line).next().is_some())
        .map(|line| {
            let mut cells = line.split(" | ");
            let name = cells.next().unwrap().trim_matches(['|', ' ', '`']);
            (name.to_owned(), cells.next().unwrap().to_owned())
        })
        .collect();
    assert_eq!(listed, exported);
}

#[test]
fn each_family_has_one_head_followed_by_samples() {
    let page = page();
    let mut seen = BTreeSet::new();
    let mut current = "";
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(seen.insert(name), "{name} twice");
            assert!(help.ends_with('.'), "{name}: {help}");
            current = name;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current);
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        } else {
            assert!(line.starts_with(current), "{line} under {current}");
        }
    }
}

/// Checks the page with promtool: the one in `PROMTOOL`, or the one in PATH (Debian: prometheus).
#[test]
fn promtool_reports_nothing() {
    let promtool = std::env::var("PROMTOOL").unwrap_or_else(|_| "promtool".into());
    let mut child = Command::new(&promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{promtool}: {error}; `cargo xtask test` unpacks it where it is missing")
        });
    child.stdin.take().unwrap().write_all(page().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let report =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && report.is_empty(), "{report}");
}

#[test]
fn kernel_families_appear_after_first_poll() {
    let agent = AgentMetrics::new("1", 0.0).unwrap();
    let ledger = TrafficCounters::new(SeriesLimits::default(), []);
    let mut out = String::new();
    let windows = &WindowReport::default();
    MetricsPage { agent: &agent, traffic: &ledger, windows, firing: &[], engine: None, kernel: None }
        .render(&mut out)
        .unwrap();
    assert!(!out.contains("mailflow_flow_table") && !out.contains("mailflow_open_flows"));
    assert_eq!(ledger.totals(), (CounterDelta::default(), CounterDelta::default()));
}
