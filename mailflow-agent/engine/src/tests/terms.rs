//! Tests of rules with several terms: the start of an incident, and the deciding term.

use super::*;
use crate::eval::window::value::TermValue;

/// Returns an engine with a rule that fires with any of `terms`.
fn any(terms: Vec<Term>) -> Engine {
    let condition = Condition::Any((0..terms.len()).map(Condition::Term).collect());
    let rule = Rule { terms, condition, ..fixture::rule() };
    Engine::new(Settings { rules: vec![rule], ..fixture::settings() })
}

#[test]
fn a_late_record_decides_at_its_event_time() {
    for terms in [vec![count(3, 300)], vec![count(3, 300), count(100, 3_600)]] {
        let mut engine = any(terms);
        for (now, port, last) in [(110, 4_000, 100), (400, 4_001, 390), (497, 4_002, 496)] {
            assert_eq!(cycle(&mut engine, at(now), &mut vec![closed(port, last)]).alerts, []);
        }
        let alerts = cycle(&mut engine, at(500), &mut vec![closed(4_003, 195)]).alerts;
        let began: Vec<_> = alerts.iter().map(|alert| alert.starts_at).collect();
        assert_eq!(began, [at(390)], "100, 195 and 390 are in one window, 195 and 496 are not");
    }
}

#[test]
fn a_repeat_names_the_term_that_keeps_the_incident() {
    let mut engine = any(vec![count(3, 60), count(4, 3_600 * 24)]);
    let mut flows = (0..4).map(|n| closed(4_000 + n, 100 + u64::from(n))).collect();
    let first = cycle(&mut engine, at(110), &mut flows).alerts;
    let again = engine.tick(at(103 + 3_600)).alerts;
    let named = |alerts: &[Alert]| -> Vec<_> {
        alerts
            .iter()
            .map(|alert| (alert.deciding_term.name.to_string(), alert.deciding_term.value, alert.flows.len()))
            .collect()
    };
    assert_eq!(named(&first), [("count".to_owned(), Value::Exactly(3), 3)]);
    assert_eq!(named(&again), [("count #2".to_owned(), Value::Exactly(4), 4)]);
    assert_eq!(again[0].fingerprint, first[0].fingerprint);
}

#[test]
fn a_repeat_without_a_holding_term_names_the_nearest_one() {
    let day = |at_least, resolve_below| Term {
        thresholds: Thresholds { at_least, resolve_below },
        ..count(at_least, 86_400)
    };
    let mut engine = any(vec![count(3, 60), day(5, 2)]);
    let mut flows = (0..3).map(|n| closed(4_000 + n, 100)).collect();
    cycle(&mut engine, at(110), &mut flows);
    let hourly = engine.tick(at(100 + 3_600)).alerts;
    assert_eq!(
        (&*hourly[0].deciding_term.name, hourly[0].deciding_term.value),
        ("count #2", Value::Exactly(3))
    );
    assert!(!hourly[0].deciding_term.holds);
    let last = engine.tick(at(100 + 86_400 + 600)).alerts.pop().unwrap();
    assert_eq!((last.state, &*last.deciding_term.name), (AlertState::Resolved, "count #2"));
}

#[test]
fn a_missing_field_is_not_zero() {
    let sum = Term { measure: Measure::Sum(Quantity::Messages), ..count(60, 3_600) };
    let mut engine = any(vec![count(3, 3_600), sum]);
    let record = |port, fields| {
        let record = timeout::record(closed(port, 100), &fixture::settings().services, RecordReason::Closed);
        FlowRecord { fields, ..record }
    };
    let missing = RecordFields::all() - RecordFields::MESSAGES;
    let mut alerts = Vec::new();
    for port in 4_000..4_003 {
        alerts.extend(engine.ingest_record(at(110), &record(port, missing)).alerts);
    }
    let values = |terms: &[TermValue]| terms.iter().map(|term| term.value).collect::<Vec<_>>();
    assert_eq!(values(&alerts[0].terms), [Value::Exactly(3), Value::Unknown]);
    assert!(!alerts[0].terms[1].holds);
    let source = "10.0.0.1".parse().unwrap();
    let explained = |engine: &Engine| values(&engine.explain(source, at(110), 10).rules[0].terms);
    assert_eq!(explained(&engine), [Value::Exactly(3), Value::Unknown]);
    engine.ingest_record(at(111), &record(4_003, RecordFields::all()));
    assert_eq!(explained(&engine), [Value::Exactly(4), Value::AtLeast(1)], "one tells of its message");
}

#[test]
fn packets_with_payload_are_summed_without_pure_acks() {
    let sum = |quantity, at_least| Term { measure: Measure::Sum(quantity), ..count(at_least, 3_600) };
    // Each flow has 10 packets in each direction, and 8 of them have payload.
    for (quantity, name) in [
        (Quantity::DataPacketsUp, "sum data_packets_up"),
        (Quantity::DataPacketsDown, "sum data_packets_down"),
    ] {
        let flows = || (4_000..4_003).map(|port| closed(port, 100)).collect();
        assert_eq!(cycle(&mut any(vec![sum(quantity, 25)]), at(110), &mut flows()).alerts, []);
        let alerts = cycle(&mut any(vec![sum(quantity, 24)]), at(110), &mut flows()).alerts;
        let [alert] = alerts.as_slice() else { panic!("{alerts:?}") };
        assert_eq!((&*alert.deciding_term.name, alert.deciding_term.value), (name, Value::Exactly(24)));
    }
}
