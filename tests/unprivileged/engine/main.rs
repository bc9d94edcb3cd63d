//! The engine compared with the reference model, on random histories in simulated time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

mod corpus;
mod everything;
mod histories;
pub mod model;
mod process;
mod run;
mod whole;

use std::{ops::Range, time::Duration};

use mailflow_engine::{
    event::{AlertState, Value},
    flow::RecordFields,
    flow::{FlowRecord, RecordReason},
    settings::Settings,
};
use proptest::prelude::*;

use histories::{SECOND, history, mail, polls, rules, settings};
use model::{Connection, Expected, Nanos};
use run::{Readings, Run, model_event, run};

/// Time for every window and every resolution after the last packet.
const DRAIN: Nanos = 20_000 * SECOND;

/// Environment variable that selects histories: a number, or a range of numbers.
const HISTORIES: &str = "MAILFLOW_HISTORIES";

/// Returns the numbers of the histories in [`HISTORIES`].
fn asked() -> Option<Range<u64>> {
    let asked = std::env::var(HISTORIES).ok()?;
    let number = |text: &str| text.parse().expect("MAILFLOW_HISTORIES is a number, or two with .. between");
    Some(match asked.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => 0..number(&asked),
    })
}

/// Returns a configuration with this number of cases.
fn config(cases: u32) -> ProptestConfig {
    let max_shrink_time = 20_000;
    // By default, proptest gives up after four times the number of cases.
    let max_shrink_iters = 1_000_000;
    ProptestConfig {
        cases,
        max_shrink_iters,
        max_shrink_time,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Returns a configuration with the selected number of cases, or `usual`.
fn cases(usual: u32) -> ProptestConfig {
    config(asked().map_or(usual, |asked| (asked.end - asked.start) as u32))
}

proptest! {
    #![proptest_config(cases(200))]

    /// Records, counts, windows and alerts equal the reference's, for all poll intervals and batch sizes,
    /// with flows that exceed the active timeout.
    #[test]
    fn engine_equals_reference(
        settings in settings(),
        history in history(),
        rhythm in polls(),
        stop in 60u64..6_000,
        parts in any::<u64>(),
    ) {
        let stop = stop * SECOND + 1;
        let way = (Readings::Whole, parts);
        let Run { polls, missed, records, alerts, values, .. } =
            run(&settings, &history, &rhythm, stop, DRAIN, way);
        let expected = model::records(&settings, &history, &polls, &missed, stop);
        prop_assert_eq!(lines(&records), expected_lines(&expected));

        let theirs = model::values(&settings, &expected, stop);
        prop_assert_eq!(values.len(), theirs.len());
        for (ours, (of, number)) in values.iter().zip(theirs) {
            prop_assert_eq!((&ours.rule, ours.group_key.source()), (&of.0, Some(of.1)));
            check(&settings, &ours.rule, ours.value, number)?;
        }

        let theirs = model::alerts(&settings, &expected, stop + DRAIN);
        prop_assert_eq!(alerts.len(), theirs.len(), "{:#?}\n{:#?}", alerts.iter().map(model_event).collect::<Vec<_>>(), theirs);
        let mut ours: Vec<_> = alerts.iter().collect();
        let place = |name: &str| settings.rules.iter().position(|rule| &*rule.name == name);
        ours.sort_by_key(|alert| (place(&alert.rule), alert.group_key.clone()));
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            check(&settings, &ours.rule, ours.deciding_term.value, theirs.value)?;
            prop_assert_eq!(model::ModelEvent { value: theirs.value, ..model_event(ours) }, theirs);
        }
    }

    /// Flows that polls miss and see again, and ended flows that cannot be evicted at once, are counted once.
    /// Their records equal the reference's.
    #[test]
    fn missed_flows_are_counted_once(
        settings in settings(),
        history in history(),
        rhythm in polls(),
        stop in 60u64..6_000,
        seed in any::<u64>(),
    ) {
        let stop = stop * SECOND + 1;
        let Run { polls, missed, records, .. } =
            run(&settings, &history, &rhythm, stop, DRAIN, (Readings::Gaps, seed));
        let expected = model::records(&settings, &history, &polls, &missed, stop);
        prop_assert_eq!(lines(&records), expected_lines(&expected));
    }

    /// Two sequences of poll intervals give equal results in equal order, as long as no flow exceeds the
    /// active timeout.
    #[test]
    fn poll_interval_does_not_change_results(
        mut settings in settings(),
        history in history(),
        rhythms in [polls(), polls()],
        stop in 60u64..6_000,
    ) {
        settings.timeouts.active = Duration::from_secs(86_400);
        let [one, other] = rhythms.map(|rhythm| {
            run(&settings, &history, &rhythm, stop * SECOND, DRAIN, (Readings::Whole, 1))
        });
        prop_assert_eq!(one.qualified, other.qualified);
        prop_assert_eq!(one.alerts, other.alerts);
        prop_assert_eq!(lines(&one.records), lines(&other.records));
    }

    /// Nine matched flows within the window do not fire, in any order of their ends; the tenth fires.
    #[test]
    fn tenth_flow_in_window_fires(
        starts in prop::collection::vec(0u64..3_580, 10),
        rhythm in polls(),
    ) {
        let settings = Settings { rules: vec![rules::r1()], ..histories::defaults() };
        let history: Vec<Connection> = (0u16..).zip(starts).map(|(n, at)| mail(n, at * SECOND)).collect();
        let way = (Readings::Whole, 1);
        let alerts = |flows: &[Connection]| run(&settings, flows, &rhythm, 4_000 * SECOND, 0, way).alerts;
        prop_assert_eq!(alerts(&history[..9]), []);
        let fired = alerts(&history);
        let last = history.iter().filter_map(|flow| flow.packets.last()).map(|packet| packet.at).max();
        let firing: Vec<_> = fired.iter().filter(|alert| alert.state == AlertState::Firing).collect();
        prop_assert_eq!(firing.len(), 1);
        prop_assert_eq!(Some(firing[0].starts_at.as_nanos()), last);
        prop_assert_eq!(firing[0].deciding_term.value, Value::Exactly(10));
        prop_assert!(firing[0].flows.iter().all(|record| record.reason == RecordReason::Closed));
    }
}

/// Returns the records as sorted lines: the order of equal times has no meaning.
fn lines(records: &[FlowRecord]) -> Vec<String> {
    let mut lines: Vec<_> = records.iter().map(|record| format!("{record:?}")).collect();
    lines.sort();
    lines
}

fn expected_lines(expected: &[Expected]) -> Vec<String> {
    let record = |expected: &Expected| {
        let Expected { flow, app, reason, complete, .. } = expected.clone();
        FlowRecord { flow, app, reason, complete, fields: RecordFields::all() }
    };
    lines(&expected.iter().map(record).collect::<Vec<_>>())
}

/// Checks a value: an exact value equals the reference's; a value at its bound is between the threshold and
/// the reference's.
fn check(settings: &Settings, rule: &str, ours: Value, truth: u64) -> Result<(), TestCaseError> {
    match ours {
        Value::Exactly(number) => prop_assert_eq!(number, truth),
        Value::AtLeast(number) => {
            let rule = settings.rules.iter().find(|each| &*each.name == rule).unwrap();
            prop_assert!(
                rule.terms[0].thresholds.at_least <= number && number <= truth,
                "{number} of {truth}"
            );
        }
        Value::Unknown => prop_assert!(false, "every record tells everything"),
    }
    Ok(())
}
