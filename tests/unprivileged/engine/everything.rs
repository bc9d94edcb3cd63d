//! All features in one history, compared with the reference.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use mailflow_engine::{
    event::{Alert, AlertState, Value},
    settings::{Hours, Match, Rule, Settings, Term, Thresholds},
    time::Time,
};
use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};

use super::{
    DRAIN, HISTORIES, asked, config,
    histories::{self, MILLISECOND, SECOND, history, mail, rules},
    process::{KillPoint, Process},
    whole::{Event, Events, plot},
};
use crate::model::{Connection, Doing, ModelAlert, Nanos, World};

/// Occurrences of each feature.
type Tally = BTreeMap<String, u64>;

/// Step of a run.
enum Step {
    Poll(Nanos, Option<KillPoint>),
    Event(Nanos, Event),
}

/// Flows, rules, reloads, restarts, clock steps and intervals: alerts, matched flows and windows equal the
/// reference's, and each feature occurs.
#[test]
fn engine_with_all_features_equals_reference() {
    let tally = RefCell::new(Tally::new());
    let interval = prop_oneof![1 => 100u64..1_000, 4 => 1_000u64..30_001];
    let rhythm = prop::collection::vec(interval.prop_map(|interval| interval * MILLISECOND), 1..6);
    let ways = (rhythm, 60u64..5_500, any::<u64>(), prop::bool::weighted(0.2));
    let all = (plot(), history(), ways);
    let numbers = asked().unwrap_or(0..CI);
    let cases = numbers.end - numbers.start;
    for number in numbers {
        runner(number)
            .run(&all, |((settings, events), history, (rhythm, stop, seed, gaps))| {
                let stop = stop * SECOND + 1;
                let (steps, stop) = steps(&rhythm, events, stop);
                let history = split(history, &steps);
                agree(&settings, &history, (steps, stop), (seed, gaps), &mut tally.borrow_mut())
            })
            .unwrap_or_else(|error| {
                panic!("history {number}, {HISTORIES}={number}..{}: {error}", number + 1)
            });
    }
    let tally = tally.into_inner();
    for (what, number) in &tally {
        println!("{number:9} {what}");
    }
    for (what, in_a_thousand) in LEAST.into_iter().filter(|_| cases >= CI) {
        let number = tally.get(what).copied().unwrap_or(0);
        assert!(number * 1_000 >= in_a_thousand * cases, "{what}: {number} in {cases} histories");
    }
}

/// Number of histories by default: the first ones.
const CI: u64 = 500;

/// Returns the generator of one history, which follows only from its number.
fn runner(number: u64) -> TestRunner {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    TestRunner::new_with_rng(config(1), TestRng::from_seed(RngAlgorithm::ChaCha, &seed))
}

/// Minimum occurrences in a thousand histories: a third or less of the actual numbers.
const LEAST: [(&str, u64); 21] = [
    ("clock steps", 120),
    ("decided by count", 50),
    ("decided by distinct", 12),
    ("decided by first_seen", 4),
    ("decided by one of two alike", 10),
    ("decided by ratio", 40),
    ("decided by sum", 40),
    ("firing", 250),
    ("flows counted", 2_000),
    ("flows counted as allow-listed", 200),
    ("killed while an alert fires", 15),
    ("killed: DeltasLogged", 50),
    ("killed: FlowsEvicted", 50),
    ("killed: RulesEvaluated", 50),
    ("killed: InputsLogged", 50),
    ("killed: AlertsDelivered", 50),
    ("reloads", 250),
    ("replaced while an alert fires", 10),
    ("resolved", 250),
    ("rules restarted", 80),
    ("suppressed", 200),
];

fn agree(
    settings: &Settings,
    history: &[Connection],
    (steps, stop): (Vec<Step>, Nanos),
    (seed, gaps): (u64, bool),
    tally: &mut Tally,
) -> Result<(), TestCaseError> {
    let mut seen = Vec::new();
    let mut process = Process::new(settings, history, seed, gaps);
    process.keep(0);
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Poll(now, None) => {
                process.poll(now, None);
                if number == 0 || (seed >> (number % 61)) & 3 == 0 {
                    process.keep(now);
                }
            }
            Step::Poll(now, Some(point)) => {
                process.poll(now, Some(point));
                let firing = process.restart(now, true);
                seen.push((format!("killed: {point:?}"), 1));
                seen.push(("killed while an alert fires".to_owned(), u64::from(firing > 0)));
            }
            Step::Event(now, Event::Reload(settings)) => {
                seen.push(("rules restarted".to_owned(), process.reload(now, &settings) as u64));
                seen.push(("reloads".to_owned(), 1));
            }
            Step::Event(_, Event::Set(seconds)) => {
                process.set(process.epoch + i128::from(seconds) * 1_000_000_000);
                seen.push(("clock steps".to_owned(), 1));
            }
            Step::Event(now, Event::Replaced) => {
                process.keep(now);
                let firing = process.restart(now, true);
                seen.push(("replaced while an alert fires".to_owned(), u64::from(firing > 0)));
            }
            Step::Event(now, Event::Stopped) => {
                process.stop(now);
                let firing = process.restart(now, false);
                seen.push(("stopped while an alert fires".to_owned(), u64::from(firing > 0)));
            }
            Step::Event(_, Event::Killed(..)) => unreachable!("a poll up to some point"),
        }
    }
    process.stop(stop);
    let stopped = process.doings.len();
    let values = process.engine.window_values(Time::from_nanos(stop));
    for step in 1..=10 {
        process.tick(stop + DRAIN / 10 * step);
    }

    let mut world = World::new(settings);
    process.doings[..stopped].iter().for_each(|doing| world.go_on(history, doing));
    let theirs = world.values(stop);
    process.doings[stopped..].iter().for_each(|doing| world.go_on(history, doing));
    if world.crowded {
        *tally.entry("left out: more event times than are kept apart".to_owned()).or_default() += 1;
        return Ok(());
    }
    let mut ours: Vec<_> = values
        .iter()
        .map(|ours| ((ours.rule.to_string(), ours.group_key.to_string(), ours.term.to_string()), ours.value))
        .collect();
    ours.sort_by(|one, other| one.0.cmp(&other.0));
    let mut theirs: Vec<_> = theirs
        .into_iter()
        .map(|((rule, of, called), number)| ((rule.to_string(), of, called.0), number))
        .collect();
    theirs.sort();
    prop_assert_eq!(ours.len(), theirs.len(), "windows: {:#?} {:#?}", ours, theirs);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        prop_assert_eq!(&ours.0, &theirs.0);
        prop_assert!(same(ours.1, theirs.1, 1), "window {ours:?} {theirs:?}");
    }

    let mut counted: Vec<_> =
        process.counted.iter().map(|flow| (flow.rule.clone(), flow.key, flow.suppressed)).collect();
    counted.sort_by_key(|counted| format!("{counted:?}"));
    let mut theirs = world.counted.clone();
    theirs.sort_by_key(|counted| format!("{counted:?}"));
    prop_assert_eq!(counted, theirs);

    compare(process.alerts(), &world.alerts).map_err(|error| {
        let doings: Vec<String> = process.doings.iter().map(brief).collect();
        TestCaseError::fail(format!("{error}\nafter {}", doings.join(", ")))
    })?;
    note(process.alerts(), &world, seen, tally);
    Ok(())
}

fn compare(alerts: &[Alert], model_alerts: &[ModelAlert]) -> Result<(), TestCaseError> {
    let mut ours: Vec<(ModelAlert, Value)> =
        alerts.iter().map(|alert| (model_alert(alert), alert.deciding_term.value)).collect();
    let mut theirs: Vec<ModelAlert> = model_alerts.to_vec();
    let order = |alert: &ModelAlert| {
        (alert.of.clone(), alert.suppressed.is_some(), alert.times, alert.state == AlertState::Resolved)
    };
    ours.sort_by_key(|(alert, _)| order(alert));
    theirs.sort_by_key(order);
    let brief = |alert: &ModelAlert| {
        format!(
            "{:?} {:?} {:?} {:?} {:?}",
            alert.of, alert.suppressed, alert.state, alert.times, alert.decided
        )
    };
    let [all, others]: [Vec<String>; 2] =
        [ours.iter().map(|(alert, _)| brief(alert)).collect(), theirs.iter().map(brief).collect()];
    let only = |some: &[String], not: &[String]| -> Vec<String> {
        some.iter().filter(|alert| !not.contains(alert)).cloned().collect()
    };
    let differ = format!(
        "only the engine: {:#?}\nonly the reference: {:#?}",
        only(&all, &others),
        only(&others, &all)
    );
    prop_assert_eq!(ours.len(), theirs.len(), "{}", differ);
    for ((ours, value), theirs) in ours.into_iter().zip(theirs) {
        // The first alert is at its threshold.
        let least = if ours.times.0 == ours.times.1 { ours.decided.1 } else { 0 };
        prop_assert!(same(value, theirs.decided.2, least), "{value:?} {theirs:?} {differ}");
        let theirs = ModelAlert {
            decided: (theirs.decided.0.clone(), theirs.decided.1, ours.decided.2),
            flows: theirs.flows.clone().or(ours.flows.clone()),
            ..theirs
        };
        prop_assert_eq!(ours, theirs, "{}", differ);
    }
    Ok(())
}

/// Formats an operation briefly.
fn brief(doing: &Doing) -> String {
    match doing {
        Doing::Look(now, missed) => format!("look {now} but {}", missed.len()),
        Doing::Reload(now, _) => format!("reload {now}"),
        other => format!("{other:?}"),
    }
}

/// Returns true if an exact value equals the reference's, or a value at its bound is not above it.
fn same(ours: Value, truth: u64, least: u64) -> bool {
    match ours {
        Value::Exactly(number) => number == truth,
        Value::AtLeast(number) => (least..=truth).contains(&number),
        // Every record has all fields.
        Value::Unknown => false,
    }
}

fn model_alert(alert: &Alert) -> ModelAlert {
    let decided = &alert.deciding_term;
    let which = |flow: &mailflow_engine::flow::Flow| (flow.key, flow.first.as_nanos());
    ModelAlert {
        of: (alert.rule.clone(), alert.group_key.to_string()),
        suppressed: alert.suppressed.clone(),
        state: alert.state,
        times: (alert.time.as_nanos(), alert.starts_at.as_nanos(), alert.ends_at.map(Time::as_nanos)),
        decided: ((decided.name.to_string(), decided.window), decided.threshold, decided.value.number()),
        flows: Some(
            alert.flows.iter().map(|record| (which(&record.flow), record.time().as_nanos())).collect(),
        ),
    }
}

/// Returns polls with these intervals and the events between them, until `stop` or the last event. A poll
/// during which the agent is killed is an event.
fn steps(rhythm: &[Nanos], events: Events, stop: Nanos) -> (Vec<Step>, Nanos) {
    let mut steps = Vec::new();
    let mut events = events.into_iter().map(|(at, event)| (stop / 1_000 * at, event)).peekable();
    let mut now = 0;
    for interval in rhythm.iter().cycle() {
        let mut next = now + interval;
        let mut killed = None;
        // The first checkpoint is written after the first poll.
        while let Some((at, event)) = events.next_if(|(at, _)| now > 0 && killed.is_none() && *at < next) {
            now = at.max(now + 1);
            next = next.max(now + 1);
            match event {
                Event::Killed(point, away) => killed = Some((point, away)),
                event => steps.push(Step::Event(now, event)),
            }
        }
        if next >= stop {
            return (steps, stop.max(now));
        }
        steps.push(Step::Poll(next, killed.map(|(point, _)| point)));
        now = next + killed.map_or(0, |(_, away)| away);
    }
    (steps, stop)
}

/// Splits every connection that is open when the maps are removed: it continues as another flow.
fn split(mut history: Vec<Connection>, steps: &[Step]) -> Vec<Connection> {
    for step in steps {
        let Step::Event(now, Event::Stopped) = step else { continue };
        let mut parts = Vec::new();
        for mut connection in history {
            let rest: Vec<_> = connection.packets.extract_if(.., |packet| packet.at > *now).collect();
            let key = connection.key;
            let talk = connection.talk;
            parts.extend(
                [connection.packets, rest]
                    .into_iter()
                    .filter(|part| !part.is_empty())
                    .map(|packets| Connection { key, talk, packets }),
            );
        }
        history = parts;
    }
    history
}

fn note(alerts: &[Alert], world: &World, seen: Vec<(String, u64)>, tally: &mut Tally) {
    let mut add = |what: &str, number: u64| *tally.entry(what.to_owned()).or_default() += number;
    seen.iter().for_each(|(what, number)| add(what, *number));
    add("late records", world.late);
    add("flows counted", world.counted.len() as u64);
    add("flows counted as allow-listed", world.counted.iter().filter(|counted| counted.2).count() as u64);
    for alert in alerts {
        let first = alert.time == alert.starts_at;
        add(alert.state.name(), u64::from(first || alert.state == AlertState::Resolved));
        add("repeated", u64::from(!first && alert.state == AlertState::Firing));
        add("suppressed", u64::from(alert.suppressed.is_some()));
        let word = alert.deciding_term.name.split(' ').next().unwrap_or_default();
        add(&format!("decided by {word}"), u64::from(first));
        add("decided by one of two alike", u64::from(alert.deciding_term.name.contains('#')));
    }
    let several: BTreeSet<_> = alerts.iter().map(|alert| &alert.rule).collect();
    add("histories with alerts of several rules", u64::from(several.len() > 1));
}

/// Returns a rule that fires at two mails in the first ten minutes of the day.
fn early() -> Settings {
    let hours = Hours { days: 127, from: 0, to: 10, utc_offset: 0 };
    let rule = rules::r1();
    let level = Thresholds { at_least: 2, resolve_below: 2 };
    let terms = vec![Term { thresholds: level, ..rule.terms[0].clone() }];
    let matching = Match { hours: Some(hours), size: None, ..rule.matching };
    Settings { rules: vec![Rule { matching, terms, ..rule }], ..histories::defaults() }
}

/// A restart does not reevaluate a record with another wall-clock offset.
#[test]
fn clock_step_before_restart_does_not_reevaluate() {
    let history = [mail(0, 10 * SECOND), mail(1, 40 * SECOND)];
    let mut process = Process::new(&early(), &history, 1, false);
    process.keep(0);
    process.poll(30 * SECOND, None);
    process.set(7_200 * 1_000_000_000);
    process.poll(31 * SECOND, Some(KillPoint::DeltasLogged));
    process.restart(31 * SECOND, true);
    process.set(0);
    process.poll(70 * SECOND, None);
    assert_eq!(process.alerts().iter().map(|alert| alert.state).collect::<Vec<_>>(), [AlertState::Firing]);
}

/// Alerts that followed only from elapsed time are not emitted again by the next process.
#[test]
fn alerts_of_elapsed_time_are_not_repeated_after_restart() {
    let history = [mail(0, 10 * SECOND), mail(1, 11 * SECOND)];
    let mut process = Process::new(&early(), &history, 1, false);
    process.keep(0);
    process.poll(30 * SECOND, None);
    process.poll(5_000 * SECOND, None);
    // The end was already emitted, without a checkpoint since the start of the incident.
    process.poll(5_001 * SECOND, Some(KillPoint::DeltasLogged));
    process.restart(5_001 * SECOND, true);
    process.poll(5_002 * SECOND, None);
    let reported: Vec<_> =
        process.alerts().iter().map(|alert| (alert.state, alert.time == alert.starts_at)).collect();
    let states = [(AlertState::Firing, true), (AlertState::Firing, false), (AlertState::Resolved, false)];
    assert_eq!(reported, states);
}
