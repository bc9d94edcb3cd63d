//! Late records: after a pause between polls, and after a crash.

use super::*;

#[test]
fn a_journalled_interim_record_is_redone_after_any_checkpoint() {
    let mut before = engine();
    let flow = fixture::flow("10.0.0.1:4000", "9.9.9.9:25");
    let seen =
        |last: u64| Flow { up: flow::DirectionStats { last: Some(at(last)), ..flow.up }, ..flow.clone() };
    poll_table(&mut before, at(390), &[seen(380)]);
    // This poll does not show the flow, whose active interval has elapsed.
    poll_table(&mut before, at(410), &[]);
    let mut engine = engine();
    engine.restore_flows(&before.checkpoint_flows());
    engine.begin_recovered_poll(at(430));
    let records = engine.redo_interim_record(&seen(420)).records;
    assert_eq!(
        records.iter().map(|record| (record.time(), record.reason)).collect::<Vec<_>>(),
        [(at(420), RecordReason::Active)]
    );
    engine.begin_poll(at(440));
    assert_eq!(engine.observe_batch(&[seen(435)]).records, [], "the next one is due with the next interval");
}

/// Returns an engine with a rule of two flows within 300 s that resolves soon after. Idle flows end after `idle`
/// seconds.
fn two_in_five_minutes(idle: u64) -> Engine {
    let resolve_after = Duration::from_secs(5);
    let rule = Rule { terms: vec![count(2, 300)], resolve_after, ..fixture::rule() };
    let mut settings = Settings { rules: vec![rule], ..fixture::settings() };
    settings.timeouts.idle = Duration::from_secs(idle);
    Engine::new(settings)
}

#[test]
fn late_flows_postpone_the_end_of_an_incident() {
    let mut engine = two_in_five_minutes(300);
    cycle(&mut engine, at(170), &mut vec![closed(4_000, 161)]);
    // A long pause between polls. With the second flow the incident ends at 461, with the third one at 674, with
    // the last at 676.
    engine.tick(at(681));
    let late = [(4_001, 374), (4_002, 376), (4_003, 467)];
    let alerts =
        cycle(&mut engine, at(682), &mut late.map(|(port, last)| closed(port, last)).to_vec()).alerts;
    let alerts: Vec<_> = alerts.iter().map(|alert| (alert.state, alert.starts_at, alert.ends_at)).collect();
    assert_eq!(alerts, [(AlertState::Firing, at(374), None), (AlertState::Resolved, at(374), Some(at(676)))]);
}

#[test]
fn expired_flows_are_not_in_an_alert() {
    for client in 1..=20 {
        let flow = |port: u16, last| Flow {
            key: fixture::flow(&format!("10.0.0.{client}:{port}"), "9.9.9.9:25").key,
            ..closed(port, last)
        };
        let mut engine = two_in_five_minutes(40);
        cycle(&mut engine, at(90), &mut vec![flow(4_000, 81)]);
        // A long pause between polls, in which the first flow expires; only some groups are visited.
        engine.tick(at(420));
        engine.tick(at(422));
        let alerts = cycle(&mut engine, at(423), &mut vec![flow(4_001, 258), flow(4_002, 258)]).alerts;
        let shown: Vec<_> = alerts[0].flows.iter().map(|record| record.flow.key.client_port).collect();
        assert_eq!(shown, [4_001, 4_002], "{client}");
    }
}

#[test]
fn expired_entries_decide_no_condition() {
    let term = |kind, seconds| Term { measure: Measure::Count(kind), ..count(1, seconds) };
    let both = Condition::All(vec![Condition::Term(0), Condition::Term(1)]);
    let terms = vec![term(FlowClass::Delivering, 300), term(FlowClass::Failed, 300)];
    let mut settings =
        Settings { rules: vec![Rule { terms, condition: both, ..fixture::rule() }], ..fixture::settings() };
    settings.timeouts.idle = Duration::from_secs(40);
    for client in 1..=20 {
        let flow = |port: u16, last, messages| Flow {
            key: fixture::flow(&format!("10.0.0.{client}:{port}"), "9.9.9.9:25").key,
            messages,
            ..closed(port, last)
        };
        let mut engine = Engine::new(settings.clone());
        cycle(&mut engine, at(90), &mut vec![flow(4_000, 81, 1)]);
        engine.tick(at(420));
        engine.tick(at(422));
        let alerts = cycle(&mut engine, at(423), &mut vec![flow(4_001, 258, 0)]).alerts;
        assert_eq!(alerts, [], "{client}: the delivery could be known no more");
    }
}

#[test]
fn the_wall_clock_start_of_an_alert_is_fixed() {
    let mut engine = two_in_five_minutes(300);
    engine.set_clock_offset(WallClockOffset::from_unix_nanos(5));
    let alerts = cycle(&mut engine, at(400), &mut vec![closed(4_000, 370), closed(4_001, 374)]).alerts;
    let start = i128::from(at(374).as_nanos()) + 5;
    assert_eq!((alerts.len(), alerts[0].starts_at_unix), (1, start));
    // The wall clock is set back by an hour, and then another process restores the checkpoint.
    engine.set_clock_offset(WallClockOffset::from_unix_nanos(-3_600_000_000_000));
    let mut other = two_in_five_minutes(300);
    other.set_clock_offset(WallClockOffset::from_unix_nanos(7));
    other.restore(engine.save());
    assert_eq!(other.firing()[0].starts_at_unix, start);
    for engine in [&mut engine, &mut other] {
        let end = engine.tick(at(1_000)).alerts.pop().unwrap();
        assert_eq!((end.state, end.starts_at_unix), (AlertState::Resolved, start));
    }
}
