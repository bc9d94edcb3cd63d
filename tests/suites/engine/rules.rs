//! R1 and its variations.

use std::{collections::BTreeMap, time::Duration};

use mailflow_agent::engine::{
    assets::Member,
    event::Severity,
    settings::{
        Condition, GroupBy, Kind, Layer, Level, Match, Measure, Rule, SizeKind, SizeTest, Term, Transport,
        Window, WindowKind,
    },
};
use mailflow_common::App;
use proptest::prelude::*;

/// Every form of the size test.
pub(crate) const SIZES: [SizeKind; 5] =
    [SizeKind::Ratio, SizeKind::Count, SizeKind::Either, SizeKind::DataRatio, SizeKind::UpOnly];

const HOUR: Window = Window { length: Duration::from_secs(3_600), kind: WindowKind::Sliding };

fn count(window: Window, at_least: u64, resolve_below: u64) -> Term {
    Term { measure: Measure::Count(Kind::Flows), window, level: Level { at_least, resolve_below } }
}

/// R1 as shipped.
pub(crate) fn r1() -> Rule {
    Rule {
        name: "smtp-burst".into(),
        version: 1,
        severity: Severity::High,
        matching: Match {
            source: Member::Internal.into(),
            destination: Member::External.into(),
            ports: vec![25, 465, 587, 994],
            apps: vec![App::Smtp, App::SmtpStartTls, App::Smtps],
            protocols: vec![Transport::Tcp],
            size: Some(SizeTest { kind: SizeKind::Ratio, layer: Layer::L3, up: 80, down: 80 }),
            sessions_only: false,
            bounds: Vec::new(),
            hours: None,
        },
        group_by: GroupBy::Source,
        window: HOUR,
        terms: vec![count(HOUR, 10, 8)],
        condition: Condition::Term(0),
        thresholds: Vec::new(),
        allow: Vec::new(),
        resolve_after: Duration::from_secs(600),
        repeat_interval: Duration::from_secs(3_600),
        labels: BTreeMap::new(),
        attack: vec!["T1048.003".to_owned()],
    }
}

/// One to four rules: every size test, both windows, small and large thresholds.
pub(crate) fn some() -> impl Strategy<Value = Vec<Rule>> {
    prop::collection::vec(any_rule(), 1..5).prop_map(|rules| {
        let named = |(n, rule): (usize, Rule)| Rule { name: format!("r{n}").into(), ..rule };
        rules.into_iter().enumerate().map(named).collect()
    })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let layer = prop_oneof![Just(Layer::L3), Just(Layer::Payload)];
    let size = (prop::sample::select(&SIZES[..]), layer, 0u64..300, 0u64..120);
    let size = size.prop_map(|(kind, layer, up, down)| Some(SizeTest { kind, layer, up, down }));
    let size = prop_oneof![1 => Just(None), 1 => Just(r1().matching.size), 3 => size];
    let seconds = |choices: &'static [u64]| prop::sample::select(choices).prop_map(Duration::from_secs);
    let kind = prop_oneof![3 => Just(WindowKind::Sliding), 1 => Just(WindowKind::Tumbling)];
    let window =
        (seconds(&[1, 10, 60, 250, 600, 3_600]), kind).prop_map(|(length, kind)| Window { length, kind });
    let threshold = (1u64..7).prop_flat_map(|at_least| (Just(at_least), 1..=at_least));
    let pace = (seconds(&[0, 5, 60, 600]), seconds(&[7, 60, 3_600]));
    (size, window, threshold, pace).prop_map(|(size, window, threshold, pace)| Rule {
        matching: Match { size, ..r1().matching },
        window,
        terms: vec![count(window, threshold.0, threshold.1)],
        resolve_after: pace.0,
        repeat_interval: pace.1,
        ..r1()
    })
}
