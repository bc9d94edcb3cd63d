//! Traffic counters with random histories: nothing lost, nothing counted twice, no series decreases.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mailflow_agent::metrics::{LabelContext, SeriesLimits, TrafficCounters};
use mailflow_common::FlowKey;
use mailflow_engine::{
    eval::GroupKey,
    event::{Alert, AlertState, CounterDelta, Delta, Effects, MatchedFlow, Source, Value, WindowValue},
    flow::RecordReason,
    query::window_scan::WindowReport,
};
use proptest::prelude::*;

use crate::{
    fixture::{alert, at, key, record, services},
    page::samples,
};

/// Returns the delta of a new flow with packets of 100 bytes and one message.
pub(crate) fn delta(key: FlowKey, up: u64, down: u64) -> Delta {
    let gain = |packets| CounterDelta { packets, bytes: packets * 100 };
    Delta { key, up: gain(up), down: gain(down), messages: 1, new_flow: true }
}

fn observe(ledger: &mut TrafficCounters, effects: &Effects, millis: u64) {
    ledger.observe(effects, LabelContext { services: &services(), v6_source_prefix: 64 }, at(millis));
}

fn render(ledger: &TrafficCounters, values: &[WindowValue]) -> String {
    let mut out = String::new();
    let windows = WindowReport { values: values.to_vec(), ..WindowReport::default() };
    ledger.render(&windows, &[], &mut out);
    out
}

/// Returns the sums of a family over all labels except those in `kept`.
fn sums(page: &str, family: &str, kept: &[&str]) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for (series, value) in samples(page) {
        let Some((name, labels)) = series.split_once('{') else { continue };
        if name == family {
            let labels: Vec<_> = labels
                .trim_end_matches('}')
                .split(',')
                .filter(|label| kept.iter().any(|name| label.starts_with(&format!("{name}="))))
                .collect();
            *sums.entry(labels.join(",")).or_insert(0.0) += value;
        }
    }
    sums
}

fn client(number: u8) -> String {
    match number % 3 {
        0 => format!("2001:db8:0:{number}::1"),
        _ => format!("10.0.0.{number}"),
    }
}

#[derive(Clone, Debug)]
struct Step {
    after: u64,
    deltas: Vec<Delta>,
    qualified: Vec<(usize, FlowKey)>,
}

fn keys() -> impl Strategy<Value = FlowKey> {
    (0_u8..12, any::<u16>(), prop::sample::select(vec![25_u16, 465, 587, 993, 8_025]))
        .prop_map(|(number, port, service)| key(&client(number), port, "2001:db8:ffff::1", service))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let gain =
        || (0_u64..1_000, 0_u64..1_000_000).prop_map(|(packets, bytes)| CounterDelta { packets, bytes });
    let delta = (keys(), gain(), gain(), 0_u64..3, any::<bool>())
        .prop_map(|(key, up, down, messages, new_flow)| Delta { key, up, down, messages, new_flow });
    let step =
        (0_u64..700, prop::collection::vec(delta, 0..6), prop::collection::vec((0_usize..2, keys()), 0..4))
            .prop_map(|(after, deltas, qualified)| Step { after, deltas, qualified });
    prop::collection::vec(step, 1..25)
}

proptest! {
    #[test]
    fn sums_over_sources_equal_totals_and_no_series_decreases(steps in steps(), sources in 0_usize..8) {
        let limits = SeriesLimits { sources, idle: Duration::from_secs(1) };
        let rules: [Arc<str>; 2] = ["first".into(), "second".into()];
        // The second rule is new, as after a reload.
        let mut ledger = TrafficCounters::new(limits, [Arc::clone(&rules[0])]);
        let (mut now, mut before) = (0, String::new());
        let mut given = BTreeMap::<String, f64>::new();
        for step in steps {
            now += step.after;
            for delta in &step.deltas {
                for (what, amount) in [
                    ("up packets", delta.up.packets),
                    ("down packets", delta.down.packets),
                    ("up bytes", delta.up.bytes),
                    ("down bytes", delta.down.bytes),
                    ("flows", u64::from(delta.new_flow)),
                    ("messages", delta.messages),
                ] {
                    *given.entry(what.into()).or_default() += amount as f64;
                }
            }
            for (rule, _) in &step.qualified {
                *given.entry(rules[*rule].to_string()).or_default() += 1.0;
            }
            let qualified = step
                .qualified
                .iter()
                .map(|(rule, key)| MatchedFlow { rule: Arc::clone(&rules[*rule]), key: *key, suppressed: false })
                .collect();
            observe(&mut ledger, &Effects { deltas: step.deltas, matched_flows: qualified, ..Effects::default() }, now);
            let page = render(&ledger, &[]);

            for of in ["", "source_"] {
                let rule = if of.is_empty() { "rule_" } else { of };
                let packets = sums(&page, &format!("mailflow_{of}packets_total"), &["direction"]);
                let bytes = sums(&page, &format!("mailflow_{of}bytes_total"), &["direction"]);
                let flows = sums(&page, &format!("mailflow_{of}flows_total"), &[]);
                let messages = sums(&page, &format!("mailflow_{of}messages_estimated_total"), &[]);
                let matched_flows = sums(&page, &format!("mailflow_{rule}matched_flows_total"), &["rule"]);
                for (what, shown) in [
                    ("up packets", packets.get("direction=\"up\"")),
                    ("down packets", packets.get("direction=\"down\"")),
                    ("up bytes", bytes.get("direction=\"up\"")),
                    ("down bytes", bytes.get("direction=\"down\"")),
                    ("flows", flows.get("")),
                    ("messages", messages.get("")),
                    ("first", matched_flows.get("rule=\"first\"")),
                    ("second", matched_flows.get("rule=\"second\"")),
                ] {
                    let amount = given.get(what).copied().unwrap_or(0.0);
                    prop_assert_eq!(shown.copied().unwrap_or(0.0), amount, "{}{}\n{}", of, what, page);
                }
            }

            let found = samples(&page);
            let own = found.keys().filter(|series| series.starts_with("mailflow_source_flows_total")).count();
            prop_assert!(own <= sources + 2, "the cap holds");
            for (series, value) in samples(&before) {
                if series.contains("_total") && let Some(after) = found.get(series) {
                    prop_assert!(*after >= value, "{} fell from {} to {}", series, value, after);
                }
            }
            before = page;
        }
    }
}

#[test]
fn sources_beyond_limit_are_other_until_one_is_idle() {
    let limits = SeriesLimits { sources: 1, idle: Duration::from_secs(10) };
    let mut ledger = TrafficCounters::new(limits, []);
    let (first, second) = (key("10.0.0.1", 1, "192.0.2.1", 25), key("10.0.0.2", 1, "192.0.2.1", 25));
    let flows = |ledger: &TrafficCounters| {
        let page = render(ledger, &[]);
        samples(&page)
            .into_iter()
            .filter_map(|(series, value)| {
                let source = series.strip_prefix("mailflow_source_flows_total{source=\"")?;
                Some((source.trim_end_matches("\"}").to_owned(), value))
            })
            .collect::<BTreeMap<_, _>>()
    };
    let shown =
        |pairs: &[(&str, f64)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let one = |key| Effects { deltas: vec![delta(key, 1, 1)], ..Effects::default() };

    observe(&mut ledger, &one(first), 0);
    observe(&mut ledger, &one(second), 1_000);
    assert_eq!(flows(&ledger), shown(&[("10.0.0.1", 1.0), ("other", 1.0), ("retired", 0.0)]));
    observe(&mut ledger, &Effects::default(), 9_999);
    assert_eq!(flows(&ledger), shown(&[("10.0.0.1", 1.0), ("other", 1.0), ("retired", 0.0)]));
    observe(&mut ledger, &Effects::default(), 10_000);
    assert_eq!(flows(&ledger), shown(&[("other", 1.0), ("retired", 1.0)]));
    observe(&mut ledger, &one(second), 10_001);
    assert_eq!(flows(&ledger), shown(&[("10.0.0.2", 1.0), ("other", 1.0), ("retired", 1.0)]));
    observe(&mut ledger, &one(second), 60_000);
    assert_eq!(
        flows(&ledger),
        shown(&[("10.0.0.2", 2.0), ("other", 1.0), ("retired", 1.0)]),
        "back in the poll that would have retired it"
    );
}

/// Without a separator, the joined labels of each pair would be equal.
#[test]
fn label_values_with_equal_concatenation_stay_distinct() {
    let pairs = [("mail", "11.2.3.4"), ("mail1", "1.2.3.4")];
    let mut ledger = TrafficCounters::new(SeriesLimits::default(), []);
    let mut windows = Vec::new();
    for (number, (rule, client)) in (1_u64..).zip(pairs) {
        let flow = key(client, 1, "192.0.2.1", 25);
        let qualified = vec![
            MatchedFlow { rule: rule.into(), key: flow, suppressed: false };
            usize::try_from(number).unwrap()
        ];
        observe(&mut ledger, &Effects { matched_flows: qualified, ..Effects::default() }, 0);
        let source = Source::of(flow.client.ip(), 64);
        let (rule, term, subject) = (rule.into(), "count".into(), GroupKey::Source(source));
        windows.push(WindowValue { rule, term, group_key: subject, value: Value::Exactly(number) });
    }
    let page = render(&ledger, &windows);
    let found = samples(&page);
    for family in ["mailflow_window_value", "mailflow_source_matched_flows_total"] {
        for (number, (rule, client)) in (1_u32..).zip(pairs) {
            let condition = if family == "mailflow_window_value" { ",condition=\"count\"" } else { "" };
            let series = format!("{family}{{rule=\"{rule}\"{condition},source=\"{client}\"}}");
            assert_eq!(found.get(series.as_str()), Some(&f64::from(number)), "{series}\n{page}");
        }
    }
}

#[test]
fn hostile_rule_names_are_escaped() {
    let ledger = TrafficCounters::new(SeriesLimits::default(), [Arc::from("a\"b\\c\nd")]);
    assert!(render(&ledger, &[]).contains("mailflow_alerts{rule=\"a\\\"b\\\\c\\nd\",state=\"firing\"} 0\n"));
}

#[test]
fn alerts_and_their_events_are_counted_by_state() {
    let mut ledger = TrafficCounters::new(SeriesLimits::default(), []);
    let render = |ledger: &TrafficCounters, firing: &[Alert]| {
        let (mut out, firing) = (String::new(), firing.iter().cloned().map(Arc::new).collect::<Vec<_>>());
        ledger.render(&WindowReport::default(), &firing, &mut out);
        out
    };
    let mut firing = vec![alert(), alert(), alert()];
    firing[1].fingerprint = "fedcba9876543210".into();
    firing[2].suppressed = Some("relay".into());
    // An alert of the previous process has no events in this one.
    let page = render(&ledger, &firing[..1]);
    assert_eq!(samples(&page)["mailflow_alerts{rule=\"smtp-burst\",state=\"firing\"}"], 1.0);
    observe(&mut ledger, &Effects { alerts: firing.clone(), ..Effects::default() }, 0);
    let repeat = vec![firing[0].clone()];
    observe(&mut ledger, &Effects { alerts: repeat, ..Effects::default() }, 1);
    let page = render(&ledger, &firing);
    let found = samples(&page);
    for (state, alerts, events) in [("firing", 2.0, 3.0), ("suppressed", 1.0, 1.0)] {
        let labels = format!("{{rule=\"smtp-burst\",state=\"{state}\"}}");
        assert_eq!(found[format!("mailflow_alerts{labels}").as_str()], alerts);
        assert_eq!(found[format!("mailflow_alert_events_total{labels}").as_str()], events);
    }
    let end = Alert { state: AlertState::Resolved, ..firing[0].clone() };
    observe(&mut ledger, &Effects { alerts: vec![end], ..Effects::default() }, 2);
    let page = render(&ledger, &firing[1..]);
    assert_eq!(samples(&page)["mailflow_alerts{rule=\"smtp-burst\",state=\"firing\"}"], 1.0);
    assert_eq!(samples(&page)["mailflow_alert_events_total{rule=\"smtp-burst\",state=\"resolved\"}"], 1.0);
}

#[test]
fn one_sided_flows_are_distinct_from_unanswered() {
    let mut ledger = TrafficCounters::new(SeriesLimits::default(), []);
    let whole = record(key("10.0.0.1", 1, "192.0.2.1", 25));
    let mut up_only = whole.clone();
    up_only.flow.down = Default::default();
    let mut down_only = whole.clone();
    down_only.flow.up = Default::default();
    let mut unanswered = up_only.clone();
    unanswered.flow.up.data_packets = 0;
    let mut still_open = up_only.clone();
    still_open.reason = RecordReason::Active;
    let records = [whole, up_only, down_only.clone(), down_only, unanswered, still_open].to_vec();
    observe(&mut ledger, &Effects { records, ..Effects::default() }, 0);
    let page = render(&ledger, &[]);
    let found = samples(&page);
    assert_eq!(found["mailflow_one_way_flows_total{direction=\"up\"}"], 1.0);
    assert_eq!(found["mailflow_one_way_flows_total{direction=\"down\"}"], 2.0);
    assert_eq!(found["mailflow_flow_records_total{reason=\"closed\"}"], 5.0);
    assert_eq!(found["mailflow_flow_records_total{reason=\"active\"}"], 1.0);
}

#[test]
fn unwatched_port_is_counted_as_other_service() {
    let mut ledger = TrafficCounters::new(SeriesLimits::default(), []);
    let effects =
        Effects { deltas: vec![delta(key("10.0.0.1", 1, "192.0.2.1", 2_525), 3, 4)], ..Effects::default() };
    observe(&mut ledger, &effects, 0);
    let page = render(&ledger, &[]);
    assert_eq!(samples(&page)["mailflow_packets_total{service=\"other\",direction=\"up\"}"], 3.0);
    assert_eq!(ledger.totals().1, CounterDelta { packets: 4, bytes: 400 });
}
