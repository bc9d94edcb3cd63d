//! Tests of the engine by its public interface.

use std::{net::IpAddr, time::Duration};

use mailflow_common::{App, SourceOverflowKey};

mod hashes;
mod late;
mod terms;

use crate::{
    alert::event::{Alert, AlertState},
    checkpoint::codec,
    eval::window::value::Value,
    fixture::{self, at},
    flow::{DirectionStats, class::FlowClass, delta::CounterDelta, fields::RecordFields, quantity::Quantity},
    rule::{Condition, Measure, Rule, Term, Thresholds, Window, WindowKind},
    *,
};

/// Returns the checkpoint as the next process reads it.
fn reread<T: serde::Serialize + serde::de::DeserializeOwned>(checkpoint: &T) -> T {
    let mut bytes = Vec::new();
    codec::append(&mut bytes, checkpoint).unwrap();
    codec::decode(&bytes).unwrap()
}

fn engine() -> Engine {
    Engine::new(fixture::settings())
}

/// Returns a closed flow of 10.0.0.1 whose last packet is at `last`.
fn closed(port: u16, last: u64) -> Flow {
    let mut flow = fixture::ending(fixture::flow(&format!("10.0.0.1:{port}"), "9.9.9.9:25"), at(last));
    (flow.facts.fin_up, flow.facts.fin_down) = (1, 1);
    flow
}

/// Polls the whole table, a flow a batch, without evictions.
fn poll_table(engine: &mut Engine, now: Time, table: &[Flow]) -> Effects {
    let mut effects = Effects::default();
    engine.begin_poll(now);
    for part in table.chunks(1) {
        add(&mut effects, engine.observe_batch(part));
    }
    effects
}

/// Makes a poll in which the kernel evicts every flow that is pending.
fn cycle(engine: &mut Engine, now: Time, table: &mut Vec<Flow>) -> Effects {
    let mut effects = poll_table(engine, now, table);
    table.retain(|flow| !engine.pending_eviction().contains(flow));
    let outcomes = vec![EvictOutcome::Evicted; engine.pending_eviction().len()];
    add(&mut effects, engine.apply_evictions(&outcomes));
    add(&mut effects, engine.tick(now));
    effects
}

fn add(effects: &mut Effects, more: Effects) {
    effects.deltas.extend(more.deltas);
    effects.records.extend(more.records);
    effects.matched_flows.extend(more.matched_flows);
    effects.alerts.extend(more.alerts);
}

fn packet_deltas(effects: &Effects) -> (u64, u64) {
    let up: u64 = effects.deltas.iter().map(|delta| delta.up.packets).sum();
    (up, effects.deltas.iter().map(|delta| delta.down.packets).sum())
}

#[test]
fn the_tenth_flow_fires() {
    let mut engine = engine();
    let mut nine: Vec<Flow> = (0..9).map(|n| closed(4_000 + n, 100 + u64::from(n))).collect();
    let effects = cycle(&mut engine, at(200), &mut nine);
    assert_eq!((effects.records.len(), effects.matched_flows.len(), effects.alerts.len()), (9, 9, 0));
    assert_eq!(engine.window_values(at(200))[0].value, Value::Exactly(9));
    assert!(nine.is_empty(), "all were asked for");

    let effects = cycle(&mut engine, at(211), &mut vec![closed(4_009, 206)]);
    let [alert] = effects.alerts.as_slice() else { panic!("{:?}", effects.alerts) };
    assert_eq!((alert.state, alert.time, alert.starts_at), (AlertState::Firing, at(206), at(206)));
    assert_eq!((alert.deciding_term.value, alert.flows.len()), (Value::Exactly(10), 10));
    assert!(
        cycle(&mut engine, at(300), &mut vec![closed(4_010, 290)]).alerts.is_empty(),
        "one incident, one alert"
    );
}

#[test]
fn an_alert_repeats_and_resolves_once() {
    let mut engine = engine();
    cycle(&mut engine, at(200), &mut (0..10).map(|n| closed(4_000 + n, 100)).collect());
    let alerts: Vec<_> = (1..200)
        .flat_map(|n| engine.tick(at(200 + 100 * n)).alerts)
        .map(|alert| (alert.state, alert.time, alert.ends_at, alert.deciding_term.value))
        .collect();
    // All ten leave at 3700, and the hourly repeat is due at the same time.
    let ends = Some(at(3_700));
    assert_eq!(
        alerts,
        [
            (AlertState::Firing, at(3_700), None, Value::Exactly(0)),
            (AlertState::Resolved, at(4_300), ends, Value::Exactly(0))
        ]
    );
    let held = RuleStats { evidence: 10, ..RuleStats::default() };
    assert_eq!(engine.stats().rules, held, "nothing is held of a source that left but the newest records");
}

#[test]
fn a_flow_that_changed_before_its_eviction_stays() {
    let mut engine = engine();
    let [gone, mut late] = [closed(4_000, 100), closed(4_001, 100)];
    let effects = poll_table(&mut engine, at(105), &[gone.clone(), late.clone()]);
    assert_eq!(
        (packet_deltas(&effects), engine.pending_eviction().len(), effects.records.len()),
        ((20, 20), 2, 0)
    );
    let effects = engine.apply_evictions(&[EvictOutcome::Missing, EvictOutcome::Changed]);
    assert_eq!((effects.deltas.len(), effects.records.len()), (0, 1));
    assert_eq!((&effects.records[0].flow, engine.stats().open_flows), (&gone, 1));
    (late.down.packets, late.down.bytes, late.down.last) = (11, 2_052, Some(at(105)));
    let effects = cycle(&mut engine, at(110), &mut vec![late]);
    assert_eq!(effects.deltas[0].down, CounterDelta { packets: 1, bytes: 52 });
    assert_eq!((effects.records[0].flow.down.packets, effects.records[0].reason), (11, RecordReason::Closed));
    assert_eq!(engine.stats().open_flows, 0);
}

#[test]
fn a_flow_without_an_outcome_is_pending_again() {
    let mut engine = engine();
    let table = [closed(4_000, 100), closed(4_001, 100)];
    poll_table(&mut engine, at(105), &table);
    assert_eq!(engine.apply_evictions(&[EvictOutcome::Evicted]).records.len(), 1);
    let effects = poll_table(&mut engine, at(106), &table[1..]);
    assert_eq!((effects, engine.pending_eviction()), (Effects::default(), &table[1..]));
    let effects = poll_table(&mut engine, at(107), &table[1..]);
    assert_eq!((effects, engine.pending_eviction()), (Effects::default(), &table[1..]));
}

#[test]
fn a_flow_that_another_program_removed_is_counted_and_dropped() {
    let mut engine = engine();
    assert_eq!(packet_deltas(&poll_table(&mut engine, at(101), &[closed(4_000, 100)])), (10, 10));
    for second in 106..206 {
        assert_eq!(cycle(&mut engine, at(second), &mut Vec::new()), Effects::default());
    }
    let stats = engine.stats();
    assert_eq!((stats.open_flows, stats.vanished_flows), (0, 1));
}

#[test]
fn a_flow_that_some_polls_miss_continues() {
    let mut engine = engine();
    let mut flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
    let mut sum = (0, 0);
    for second in [101, 110, 120, 130, 395, 405, 415] {
        (flow.up.packets, flow.up.last) = (second, Some(at(second)));
        let missed = [110, 120, 405].contains(&second);
        let table = if missed { Vec::new() } else { vec![flow.clone()] };
        let effects = poll_table(&mut engine, at(second), &table);
        let deltas = packet_deltas(&effects);
        sum = (sum.0 + deltas.0, sum.1 + deltas.1);
        assert_eq!(
            (effects.records.len(), engine.pending_eviction().len()),
            (usize::from(second == 415), 0),
            "{second}"
        );
    }
    assert_eq!(sum, (415, 10));
}

#[test]
fn a_reused_key_is_another_flow() {
    let mut engine = engine();
    let old = closed(4_000, 100);
    poll_table(&mut engine, at(101), std::slice::from_ref(&old));
    let new = Flow { first: at(103), ..closed(4_000, 104) };
    assert_eq!(packet_deltas(&poll_table(&mut engine, at(104), std::slice::from_ref(&new))), (10, 10));
    let effects = engine.finish_superseded(&[SupersededFlow { flow: old.clone(), superseded_at: at(103) }]);
    assert_eq!((packet_deltas(&effects), &effects.records[0].flow), ((0, 0), &old));
    let effects = cycle(&mut engine, at(109), &mut vec![new.clone()]);
    assert_eq!((packet_deltas(&effects), &effects.records[0].flow), ((0, 0), &new));
    assert_eq!((effects.matched_flows.len(), engine.stats().open_flows), (2, 0));
}

#[test]
fn a_live_flow_has_interim_records_and_counts_once() {
    let mut engine = engine();
    let mut flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
    let (mut reasons, mut matched_flows) = (Vec::new(), 0);
    for second in (100..1_310).step_by(5) {
        (flow.up.last, flow.down.last) = (Some(at(second)), Some(at(second)));
        let effects = cycle(&mut engine, at(second), &mut vec![flow.clone()]);
        reasons.extend(effects.records.iter().map(|record| (record.reason, second)));
        matched_flows += effects.matched_flows.len();
    }
    assert_eq!(reasons, [400, 700, 1_000, 1_300].map(|second| (RecordReason::Active, second)));
    assert_eq!(engine.observe_final_batch(at(1_310), &[flow]).records[0].reason, RecordReason::Shutdown);
    assert_eq!((matched_flows, engine.shutdown(at(1_310)).matched_flows.len()), (1, 0));
}

#[test]
fn a_flow_counts_when_it_first_grows_large_enough() {
    let mut engine = engine();
    let mut flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
    (flow.down.bytes, flow.up.last) = (500, Some(at(390)));
    assert!(cycle(&mut engine, at(400), &mut vec![flow.clone()]).matched_flows.is_empty());
    (flow.down.bytes, flow.up.last) = (5_000, Some(at(690)));
    assert_eq!(cycle(&mut engine, at(700), &mut vec![flow.clone()]).matched_flows.len(), 1);
    let effects = cycle(&mut engine, at(1_100), &mut vec![flow]);
    assert_eq!((effects.records[0].reason, effects.matched_flows.len()), (RecordReason::Idle, 0));
}

#[test]
fn shutdown_emits_every_flow_once() {
    let mut engine = engine();
    let (over, open) = (closed(4_000, 100), fixture::flow("10.0.0.1:4001", "9.9.9.9:25"));
    poll_table(&mut engine, at(100), std::slice::from_ref(&open));
    let mut effects = engine.observe_final_batch(at(150), &[over]);
    add(&mut effects, engine.observe_final_batch(at(150), &[open]));
    add(&mut effects, engine.shutdown(at(150)));
    assert_eq!(packet_deltas(&effects), (10, 10), "the open one was booked before");
    let reasons: Vec<_> = effects.records.iter().map(|record| record.reason).collect();
    assert_eq!(reasons, [RecordReason::Closed, RecordReason::Shutdown]);
    assert_eq!((effects.matched_flows.len(), engine.stats().open_flows), (2, 0));
}

#[test]
fn external_records_count_once() {
    let mut engine = engine();
    let flow = closed(4_000, 100);
    let record = |reason| {
        let (flow, app, fields) = (flow.clone(), App::Smtp, RecordFields::all());
        Arc::new(FlowRecord { flow, app, reason, complete: true, fields })
    };
    let counts = [RecordReason::Active, RecordReason::Active, RecordReason::Closed];
    let counts = counts.map(|reason| engine.ingest_record(at(105), &record(reason)).matched_flows.len());
    assert_eq!(counts, [1, 0, 0]);
    assert_eq!(engine.stats().open_flows, 0);
}

#[test]
fn a_superseded_flow_ends_at_its_successor() {
    let mut engine = engine();
    let last_seen = closed(4_000, 100);
    poll_table(&mut engine, at(101), std::slice::from_ref(&last_seen));
    assert_eq!(engine.pending_eviction(), []);
    let mut old = last_seen.clone();
    old.up.packets += 3;
    let mut new = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
    new.first = at(102);
    engine.begin_poll(at(103));
    let mut effects =
        engine.finish_superseded(&[SupersededFlow { flow: old.clone(), superseded_at: at(102) }]);
    assert_eq!(packet_deltas(&effects), (3, 0), "what it gained since the last look");
    assert_eq!(effects.records.len(), 1);
    assert_eq!((&effects.records[0].flow, effects.records[0].reason), (&old, RecordReason::Closed));
    assert!(effects.records[0].complete);
    // The new flow counts as another flow, whenever it is polled.
    let polled = engine.observe_batch(std::slice::from_ref(&new));
    assert_eq!(
        (packet_deltas(&polled), engine.pending_eviction()),
        ((new.up.packets, new.down.packets), &[][..])
    );
    assert_eq!(engine.tick(at(103)).matched_flows.len(), 1, "the rules looked at the finished one");
    // An idle flow ended at its own time, however late its successor came.
    let idle = fixture::ending(fixture::flow("10.0.0.2:1", "9.9.9.9:25"), at(100));
    effects = engine.finish_superseded(&[SupersededFlow { flow: idle, superseded_at: at(900) }]);
    assert_eq!(effects.records[0].reason, RecordReason::Idle);
}

#[test]
fn ipv6_sources_are_grouped_by_prefix() {
    let mut engine = engine();
    let mut table: Vec<Flow> = (0..10)
        .map(|n| {
            let mut flow = fixture::flow(&format!("[fd00::{n}]:4000"), "[2620:fe::fe]:587");
            flow.facts.reset = 1;
            flow
        })
        .collect();
    let alerts = cycle(&mut engine, at(200), &mut table).alerts;
    assert_eq!(alerts[0].group_key.to_string(), "fd00::/64");
    assert_eq!(alerts[0].matched_network.as_deref(), Some("fd00::/8"));
}

#[test]
fn a_tick_over_days_repeats_alerts_at_their_own_times() {
    let mut settings = fixture::settings();
    settings.rules[0].repeat_interval = Duration::from_secs(1_500);
    let mut engine = Engine::new(settings);
    cycle(&mut engine, at(200), &mut (0..10).map(|n| closed(4_000 + n, 100)).collect());
    let alerts: Vec<_> =
        engine.tick(at(900_000)).alerts.iter().map(|alert| (alert.time, alert.deciding_term.value)).collect();
    let expected =
        [(1_600, 10), (3_100, 10), (4_300, 0)].map(|(time, value)| (at(time), Value::Exactly(value)));
    assert_eq!(alerts, expected);
}

#[test]
fn other_settings_keep_windows_and_incidents() {
    let mut engine = Engine::new(fixture::settings());
    let name = |n: u16| format!("10.0.0.1:{}", 4_000 + n);
    let closed = |n: u16| {
        let mut flow = fixture::flow(&name(n), "9.9.9.9:25");
        (flow.facts.fin_up, flow.facts.fin_down) = (1, 1);
        flow
    };
    let count = |engine: &mut Engine, from: u16, to: u16, now: u64| {
        let flows: Vec<Flow> = (from..to).map(closed).collect();
        engine.begin_poll(at(now));
        engine.observe_batch(&flows);
        engine.apply_evictions(&vec![EvictOutcome::Evicted; flows.len()]);
        engine.tick(at(now)).alerts
    };
    assert_eq!(count(&mut engine, 0, 9, 200), []);
    // A lower threshold applies from the next flow on.
    let mut settings = fixture::settings();
    settings.rules[0].terms[0].thresholds.at_least = 9;
    settings.rules[0].version += 1;
    let done = engine.reconfigure(at(201), settings.clone());
    assert_eq!(done, ReconfigureOutcome::default());
    let alerts = count(&mut engine, 9, 10, 202);
    assert_eq!(
        (alerts.len(), alerts[0].deciding_term.threshold, alerts[0].deciding_term.value.number()),
        (1, 9, 10)
    );
    // Another window starts empty, and the incident continues.
    settings.rules[0].terms[0].window.length *= 2;
    let done = engine.reconfigure(at(203), settings.clone());
    assert_eq!((done.restarted.len(), done.effects.alerts.len()), (1, 0));
    assert_eq!(count(&mut engine, 10, 20, 204), [], "it is the same incident");
    assert_eq!(engine.window_values(at(204))[0].value.number(), 10);
    // The incident of a removed rule ends.
    settings.rules.clear();
    let done = engine.reconfigure(at(205), settings);
    assert_eq!(done.effects.alerts.len(), 1);
    assert_eq!(done.effects.alerts[0].state, event::AlertState::Resolved);
    assert_eq!(engine.stats().rules.firing, 0);
}

#[test]
fn a_restart_within_a_window_loses_no_flow_and_repeats_no_alert() {
    let flows: Vec<Flow> = (0..20).map(|n| closed(4_000 + n, 100 + u64::from(n) * 60)).collect();
    let deliver = |engine: &mut Engine, flows: &[Flow]| -> Vec<Alert> {
        let alerts = flows.iter().flat_map(|flow| {
            let record = timeout::record(flow.clone(), &fixture::settings().services, RecordReason::Closed);
            engine.ingest_record(flow.last(), &record).alerts
        });
        alerts.collect()
    };
    let mut whole = engine();
    let mut expected = deliver(&mut whole, &flows);
    expected.extend(whole.tick(at(20_000)).alerts);
    assert_eq!(expected.len(), 3, "firing, once more, resolved");
    for cut in 0..=flows.len() {
        let (before, after) = flows.split_at(cut);
        let mut engine = engine();
        let mut alerts = deliver(&mut engine, before);
        let checkpoint = reread(&engine.save());
        let mut engine = Engine::new(fixture::settings());
        let restored = engine.restore(checkpoint);
        assert_eq!((restored.groups, restored.dropped_rules.len()), (usize::from(cut > 0), 0));
        alerts.extend(deliver(&mut engine, after));
        alerts.extend(engine.tick(at(20_000)).alerts);
        assert_eq!(alerts, expected, "restarted after {cut} flows");
    }
}

#[test]
fn a_changed_definition_starts_with_empty_windows() {
    let mut engine = engine();
    for n in 0..9 {
        let flow = closed(4_000 + n, 100 + u64::from(n));
        let record = timeout::record(flow, &fixture::settings().services, RecordReason::Closed);
        engine.ingest_record(at(200), &record);
    }
    let settings = |change: fn(&mut Rule)| {
        let mut settings = fixture::settings();
        settings.rules.iter_mut().for_each(change);
        settings
    };
    let state = || reread(&engine.save());
    let restored = |change| Engine::new(settings(change)).restore(state());
    assert_eq!(restored(|_| {}).groups, 1);
    assert_eq!(restored(|rule| rule.terms[0].thresholds.at_least = 12).groups, 1, "what is held is the same");
    assert_eq!(restored(|rule| rule.matching.ports = vec![25]).dropped_rules, ["smtp-burst"]);
}

/// Returns a count term of `at_least` within `seconds`.
fn count(at_least: u64, seconds: u64) -> Term {
    let window = Window { length: Duration::from_secs(seconds), kind: WindowKind::Sliding };
    let thresholds = Thresholds { at_least, resolve_below: at_least };
    Term { measure: Measure::Count(FlowClass::Flows), window, thresholds }
}

#[test]
fn terms_that_measure_the_same_have_names_of_their_own() {
    let condition = Condition::Any((0..3).map(Condition::Term).collect());
    let terms = vec![count(10, 600), count(3, 60), count(20, 600)];
    let rule = Rule { terms, condition, ..fixture::rule() };
    let mut engine = Engine::new(Settings { rules: vec![rule], ..fixture::settings() });
    let mut flows = (0..3).map(|n| closed(4_000 + n, 100)).collect();
    let effects = cycle(&mut engine, at(110), &mut flows);
    let [alert] = effects.alerts.as_slice() else { panic!("{:?}", effects.alerts) };
    let terms: Vec<_> = alert.terms.iter().map(|term| (&*term.name, term.threshold, term.holds)).collect();
    assert_eq!(terms, [("count", 10, false), ("count #2", 3, true), ("count #3", 20, false)]);
    assert_eq!((&*alert.deciding_term.name, alert.deciding_term.threshold), ("count #2", 3));
    let windows = engine.window_values(at(110));
    let names: Vec<&str> = windows.iter().map(|value| &*value.term).collect();
    assert_eq!(names, ["count", "count #2", "count #3"], "each is a series of its own");
}

#[test]
fn an_alert_has_the_terms_of_the_current_rule() {
    let rule = |terms: Vec<Term>| {
        let condition = Condition::Any((0..terms.len()).map(Condition::Term).collect());
        let repeat_interval = Duration::from_secs(60);
        Settings {
            rules: vec![Rule { terms, condition, repeat_interval, ..fixture::rule() }],
            ..fixture::settings()
        }
    };
    let mut engine = Engine::new(rule(vec![count(3, 600)]));
    cycle(&mut engine, at(110), &mut (0..3).map(|n| closed(4_000 + n, 100)).collect());
    let sum = Term { measure: Measure::Sum(Quantity::BytesUp), ..count(5_000, 600) };
    engine.reconfigure(at(120), rule(vec![sum.clone(), count(3, 600)]));
    let alerts = |effects: Effects| {
        let [alert] = effects.alerts.as_slice() else { panic!("{:?}", effects.alerts) };
        let terms: Vec<_> = alert.terms.iter().map(|term| (term.name.to_string(), term.threshold)).collect();
        (alert.deciding_term.name.to_string(), terms)
    };
    let (both, one) =
        ([("sum bytes_up".to_owned(), 5_000), ("count".to_owned(), 3)], [("sum bytes_up".to_owned(), 5_000)]);
    assert_eq!(alerts(engine.tick(at(160))), ("count".to_owned(), both.to_vec()));
    engine.reconfigure(at(170), rule(vec![sum]));
    assert_eq!(
        alerts(engine.tick(at(220))),
        ("sum bytes_up".to_owned(), one.to_vec()),
        "the first stands for it"
    );
}

/// Returns a rule that fires at three deliveries in a minute, or at two deliveries in a minute together with two
/// failures in ten minutes.
fn either_or_both() -> Rule {
    let term = |kind, at_least, seconds| {
        let window = Window { length: Duration::from_secs(seconds), kind: WindowKind::Sliding };
        let thresholds = Thresholds { at_least, resolve_below: at_least };
        Term { measure: Measure::Count(kind), window, thresholds }
    };
    let both = Condition::All(vec![Condition::Term(1), Condition::Term(2)]);
    Rule {
        terms: vec![
            term(FlowClass::Delivering, 3, 60),
            term(FlowClass::Delivering, 2, 60),
            term(FlowClass::Failed, 2, 600),
        ],
        condition: Condition::Any(vec![Condition::Term(0), both]),
        ..fixture::rule()
    }
}

#[test]
fn terms_that_held_in_turn_did_not_hold_together() {
    let mut engine = Engine::new(Settings { rules: vec![either_or_both()], ..fixture::settings() });
    let failed = |port, last| Flow { messages: 0, ..closed(port, last) };
    let mut table = vec![closed(4_000, 1_000), closed(4_001, 1_001), closed(4_002, 1_002)];
    assert_eq!(cycle(&mut engine, at(1_010), &mut table).alerts.len(), 1);
    // The deliveries are out of their window, and two failures are in theirs.
    cycle(&mut engine, at(1_120), &mut vec![failed(4_003, 1_100), failed(4_004, 1_110)]);
    let alerts = engine.tick(at(1_700)).alerts;
    let end = |alert: &Alert| (alert.state, alert.ends_at);
    assert_eq!(alerts.iter().map(end).collect::<Vec<_>>(), [(AlertState::Resolved, Some(at(1_060)))]);
}

#[test]
fn a_late_record_makes_terms_hold_together_in_the_past() {
    let mut engine = Engine::new(Settings { rules: vec![either_or_both()], ..fixture::settings() });
    let failed = |port, last| Flow { messages: 0, ..closed(port, last) };
    let mut table = vec![closed(4_000, 1_000), closed(4_001, 1_001), closed(4_002, 1_002)];
    assert_eq!(cycle(&mut engine, at(1_010), &mut table).alerts.len(), 1);
    // Known at 1200, as some polls did not show them; the second delivery leaves at 1061.
    let mut late = vec![failed(4_003, 1_030), failed(4_004, 1_050)];
    cycle(&mut engine, at(1_200), &mut vec![]);
    cycle(&mut engine, at(1_210), &mut late);
    let alerts = engine.tick(at(1_700)).alerts;
    assert_eq!(alerts.iter().map(|alert| alert.ends_at).collect::<Vec<_>>(), [Some(at(1_061))]);
}

#[test]
fn a_restart_does_not_change_which_flows_an_alert_shows() {
    let mut rule = fixture::rule();
    rule.terms[0].thresholds = Thresholds { at_least: 21, resolve_below: 21 };
    let settings = Settings { rules: vec![rule], ..fixture::settings() };
    let late = closed(4_000, 1_000);
    let shown = |restarts: bool| {
        let mut engine = Engine::new(settings.clone());
        cycle(
            &mut engine,
            at(1_200),
            &mut (1..20).map(|n| closed(4_000 + n, 1_100 + u64::from(n))).collect(),
        );
        // The oldest of twenty flows arrives last.
        cycle(&mut engine, at(1_210), &mut vec![late.clone()]);
        if restarts {
            let state = engine.save();
            engine = Engine::new(settings.clone());
            engine.restore(state);
        }
        let alerts = cycle(&mut engine, at(1_310), &mut vec![closed(4_020, 1_300)]).alerts;
        alerts[0].flows.iter().map(|record| record.flow.key.client_port).collect::<Vec<_>>()
    };
    assert_eq!((shown(false).len(), shown(false)[0]), (20, 4_000));
    assert_eq!(shown(true), shown(false));
}

#[test]
fn a_rule_that_is_new_at_a_restart_learns_first() {
    let measure = Measure::FirstSeen {
        of: settings::Endpoint::Destination,
        horizon: Duration::from_secs(86_400),
        learning: Duration::from_secs(3_600),
    };
    let learns =
        Rule { name: "new".into(), terms: vec![Term { measure, ..count(1, 600) }], ..fixture::rule() };
    let mut engine = engine();
    cycle(&mut engine, at(50), &mut Vec::new());
    let mut settings = fixture::settings();
    settings.rules.push(learns);
    let mut next = Engine::new(settings);
    next.restore(engine.save());
    assert_eq!(
        cycle(&mut next, at(110), &mut vec![closed(4_000, 100)]).alerts,
        [],
        "it has watched for a minute"
    );
    let alerts = cycle(
        &mut next,
        at(4_100),
        &mut vec![Flow { key: fixture::flow("10.0.0.1:1", "8.8.8.8:25").key, ..closed(1, 4_050) }],
    );
    assert_eq!(alerts.alerts.len(), 1, "and now for an hour");
}

#[test]
fn a_checkpoint_has_the_pending_records() {
    let mut engine = engine();
    cycle(&mut engine, at(50), &mut Vec::new());
    for n in 0..10 {
        engine.redo_final_record(&closed(4_000 + n, 100));
    }
    let mut next = Engine::new(fixture::settings());
    next.restore(reread(&engine.save()));
    assert_eq!(next.tick(at(110)).alerts.len(), 1, "ten mails, one alert");
}

#[test]
fn a_flow_survives_polls_of_the_previous_process() {
    let flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
    let mut engine = engine();
    poll_table(&mut engine, at(150), std::slice::from_ref(&flow));
    let checkpoint = engine.checkpoint_flows();
    for polls in [0, 1, 10, 40] {
        let mut next = Engine::new(fixture::settings());
        next.restore_flows(&checkpoint);
        for poll in 0..polls {
            next.begin_recovered_poll(at(151 + poll));
        }
        let effects = poll_table(&mut next, at(200), std::slice::from_ref(&flow));
        assert_eq!(effects.deltas, [], "{polls}");
        assert_eq!((next.stats().open_flows, next.stats().vanished_flows), (1, 0), "{polls}");
    }
}

#[test]
fn an_interim_record_of_an_incomplete_poll_is_redone() {
    let mut before = engine();
    let mut flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
    let mut seen = |last: u64| {
        flow.up.last = Some(at(last));
        flow.clone()
    };
    poll_table(&mut before, at(390), &[seen(380)]);
    let checkpoint = before.checkpoint_flows();
    for others in [0, 1, 30] {
        // Two active intervals have elapsed since the checkpoint: the first one has a record, the second one does
        // not.
        let mut engine = engine();
        engine.restore_flows(&checkpoint);
        engine.begin_recovered_poll(at(410));
        engine.redo_delta(&seen(405));
        (0..others).for_each(|n| engine.begin_recovered_poll(at(420 + n)));
        engine.begin_recovered_poll(at(710));
        let records = engine.observe_batch(&[seen(700)]).records;
        assert_eq!(records.iter().map(FlowRecord::time).collect::<Vec<_>>(), [at(700)], "{others}");
        engine.begin_poll(at(720));
        assert_eq!(engine.observe_batch(&[seen(715)]).records, []);
    }
}

#[test]
fn a_source_that_overflowed_before_a_restart_is_not_complete_after_it() {
    let overflow = SourceOverflow {
        key: SourceOverflowKey { source: IpAddr::from([10, 0, 0, 1]).into(), server_port: 25, protocol: 6 },
        up: DirectionStats { packets: 5, bytes: 300, last: Some(at(90)), ..DirectionStats::default() },
        down: DirectionStats::default(),
        attempts: 1,
        sessions: 1,
        is_final: false,
    };
    for (counters, complete) in [(vec![], true), (vec![overflow], false)] {
        let mut engine = engine();
        engine.observe_overflow(&counters);
        cycle(&mut engine, at(95), &mut Vec::new());
        let mut next = Engine::new(fixture::settings());
        next.restore(reread(&engine.save()));
        let mut flows = (0..10).map(|n| closed(4_000 + n, 100)).collect();
        let alerts = cycle(&mut next, at(110), &mut flows).alerts;
        assert_eq!(alerts.iter().map(|alert| alert.complete).collect::<Vec<_>>(), [complete]);
    }
}
