//! The engine against the naive reference model, on random histories in simulated time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

#[path = "engine/corpus.rs"]
mod corpus;
#[path = "engine/everything.rs"]
mod everything;
#[path = "engine/histories.rs"]
mod histories;
#[path = "engine/process.rs"]
mod process;
#[path = "../src/reference.rs"]
pub mod reference;
#[path = "engine/run.rs"]
mod run;
#[path = "engine/whole.rs"]
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
use reference::{Connection, Expected, Nanos};
use run::{Readings, Run, run, told};

/// Long enough for every window and every resolution after the last packet.
const DRAIN: Nanos = 20_000 * SECOND;

/// Which histories are asked for: how many, or the numbers of those from one up to another.
const HISTORIES: &str = "MAILFLOW_HISTORIES";

/// The numbers of the histories that [`HISTORIES`] asks for.
fn asked() -> Option<Range<u64>> {
    let asked = std::env::var(HISTORIES).ok()?;
    let number = |text: &str| text.parse().expect("MAILFLOW_HISTORIES is a number, or two with .. between");
    Some(match asked.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => 0..number(&asked),
    })
}

/// So many cases.
fn config(cases: u32) -> ProptestConfig {
    let max_shrink_time = 20_000;
    // Left to itself, it gives up after four times as many as there are cases.
    let max_shrink_iters = 1_000_000;
    ProptestConfig {
        cases,
        max_shrink_iters,
        max_shrink_time,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// As many cases as are asked for, or `usual`.
fn cases(usual: u32) -> ProptestConfig {
    config(asked().map_or(usual, |asked| (asked.end - asked.start) as u32))
}

proptest! {
    #![proptest_config(cases(200))]

    /// Records, counts, windows and alerts are the reference's, whatever the polling and the parts in which
    /// the table is read, with flows that outlive the active timeout.
    #[test]
    fn the_engine_agrees_with_the_reference(
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
        let expected = reference::records(&settings, &history, &polls, &missed, stop);
        prop_assert_eq!(lines(&records), expected_lines(&expected));

        let theirs = reference::values(&settings, &expected, stop);
        prop_assert_eq!(values.len(), theirs.len());
        for (ours, (of, number)) in values.iter().zip(theirs) {
            prop_assert_eq!((&ours.rule, ours.group_key.source()), (&of.0, Some(of.1)));
            check(&settings, &ours.rule, ours.value, number)?;
        }

        let theirs = reference::alerts(&settings, &expected, stop + DRAIN);
        prop_assert_eq!(alerts.len(), theirs.len(), "{:#?}\n{:#?}", alerts.iter().map(told).collect::<Vec<_>>(), theirs);
        let mut ours: Vec<_> = alerts.iter().collect();
        let place = |name: &str| settings.rules.iter().position(|rule| &*rule.name == name);
        ours.sort_by_key(|alert| (place(&alert.rule), alert.group_key.clone()));
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            check(&settings, &ours.rule, ours.deciding_term.value, theirs.value)?;
            prop_assert_eq!(reference::Told { value: theirs.value, ..told(ours) }, theirs);
        }
    }

    /// Flows that readings leave out and show again, and ended ones that cannot be taken out at once, are
    /// booked once, and their records are the reference's.
    #[test]
    fn gaps_in_readings_neither_lose_nor_repeat_anything(
        settings in settings(),
        history in history(),
        rhythm in polls(),
        stop in 60u64..6_000,
        seed in any::<u64>(),
    ) {
        let stop = stop * SECOND + 1;
        let Run { polls, missed, records, .. } =
            run(&settings, &history, &rhythm, stop, DRAIN, (Readings::Gaps, seed));
        let expected = reference::records(&settings, &history, &polls, &missed, stop);
        prop_assert_eq!(lines(&records), expected_lines(&expected));
    }

    /// Two rhythms of polling, the same results in the same order, as long as no flow outlives the
    /// active timeout.
    #[test]
    fn polling_does_not_show(
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

    /// Nine qualifying flows within the window are silent, in whatever order they end; the tenth speaks.
    #[test]
    fn nine_are_silent_and_ten_speak(
        starts in prop::collection::vec(0u64..3_580, 10),
        rhythm in polls(),
    ) {
        let settings = Settings { rules: vec![rules::r1()], ..histories::defaults() };
        let history: Vec<Connection> = (0u16..).zip(starts).map(|(n, at)| mail(n, at * SECOND)).collect();
        let way = (Readings::Whole, 1);
        let alerts = |flows: &[Connection]| run(&settings, flows, &rhythm, 4_000 * SECOND, 0, way).alerts;
        prop_assert_eq!(alerts(&history[..9]), []);
        let told = alerts(&history);
        let last = history.iter().filter_map(|flow| flow.packets.last()).map(|packet| packet.at).max();
        let firing: Vec<_> = told.iter().filter(|alert| alert.state == AlertState::Firing).collect();
        prop_assert_eq!(firing.len(), 1);
        prop_assert_eq!(Some(firing[0].starts_at.as_nanos()), last);
        prop_assert_eq!(firing[0].deciding_term.value, Value::Exactly(10));
        prop_assert!(firing[0].flows.iter().all(|record| record.reason == RecordReason::Closed));
    }
}

/// Records in an order of their own: that of equal moments is not part of their meaning.
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

/// A value the engine gives exactly is exact; one at its bound is no more than the truth, and no less
/// than the threshold.
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
