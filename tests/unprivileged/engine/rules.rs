//! The rule `smtp-burst` and variations of it.

use std::{collections::BTreeMap, time::Duration};

use mailflow_common::App;
use mailflow_engine::{
    event::Severity,
    network::Member,
    settings::{
        Condition, Endpoint, FlowClass, GroupBy, Layer, Match, Measure, Quantity, Rule, SizeKind, SizeTest,
        Term, Thresholds, Transport, Window, WindowKind,
    },
};
use proptest::prelude::*;

/// Every kind of size test.
pub(crate) const SIZES: [SizeKind; 5] =
    [SizeKind::Ratio, SizeKind::Count, SizeKind::Either, SizeKind::DataRatio, SizeKind::UpOnly];

const HOUR: Window = Window { length: Duration::from_secs(3_600), kind: WindowKind::Sliding };

fn count(window: Window, at_least: u64, resolve_below: u64) -> Term {
    Term {
        measure: Measure::Count(FlowClass::Flows),
        window,
        thresholds: Thresholds { at_least, resolve_below },
    }
}

/// Returns `smtp-burst` as shipped.
pub(crate) fn r1() -> Rule {
    Rule {
        name: "smtp-burst".into(),
        version: 1,
        severity: Severity::High,
        matching: Match {
            source: Member::Internal.into(),
            destination: Member::External.into(),
            ports: vec![25, 465, 587, 994],
            services: Vec::new(),
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
        threshold_overrides: Vec::new(),
        allow: Vec::new(),
        resolve_after: Duration::from_secs(600),
        repeat_interval: Duration::from_secs(3_600),
        labels: BTreeMap::new(),
        attack: vec!["T1048.003".to_owned()],
    }
}

/// Generates one to four rules: every size test, both window types, small and large thresholds.
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

/// Generates a rule like `smtp-burst`, or any other.
pub(crate) fn any_whole() -> impl Strategy<Value = Rule> {
    prop_oneof![1 => any_rule(), 3 => any_compound()]
}

fn any_term() -> impl Strategy<Value = Term> {
    let kind = || prop::sample::select(&FlowClass::ALL[..]);
    let end = prop::sample::select(&[Endpoint::Source, Endpoint::Destination, Endpoint::Port][..]);
    let few = || (1u64..8).prop_flat_map(|least| (Just(least), 1..=least));
    let much = prop_oneof![Just(3_000u64), Just(20_000), Just(100_000)];
    let some = prop_oneof![Just(2u64), Just(6), Just(20)];
    let part = prop::sample::select(&[250_000u64, 500_000, 1_000_000][..]);
    let quantity = prop::sample::select(&Quantity::ALL[..]);
    let learning = prop::sample::select(&[0u64, 0, 20, 600][..]);
    let measure = prop_oneof![
        3 => (kind(), few()).prop_map(|(kind, (least, below))| (Measure::Count(kind), least, below)),
        2 => (quantity, much, some).prop_map(|(quantity, much, some)| {
            let large = [
                Quantity::PayloadUp,
                Quantity::PayloadDown,
                Quantity::BytesUp,
                Quantity::BytesDown,
            ];
            let least = if large.contains(&quantity) { much } else { some };
            (Measure::Sum(quantity), least, least * 4 / 5)
        }),
        2 => (end.clone(), kind(), few())
            .prop_map(|(of, among, (least, below))| (Measure::Distinct { of, among }, least, below)),
        1 => (kind(), kind(), part).prop_map(|(of, to, part)| (Measure::Ratio { of, to }, part, part * 4 / 5)),
        2 => (end.clone(), few(), prop::sample::select(&[3_600u64, 4_000, 86_400][..]), learning).prop_map(
            |(of, (least, below), horizon, learning)| {
                let [horizon, learning] = [horizon, learning].map(Duration::from_secs);
                (Measure::FirstSeen { of, horizon, learning }, least, below)
            }
        ),
    ];
    let seconds = prop::sample::select(&[30u64, 300, 1_800, 3_600][..]);
    let moves = prop_oneof![4 => Just(WindowKind::Sliding), 1 => Just(WindowKind::Tumbling)];
    (measure, seconds, moves).prop_map(|((measure, at_least, resolve_below), seconds, kind)| Term {
        measure,
        window: Window { length: Duration::from_secs(seconds), kind },
        thresholds: Thresholds { at_least, resolve_below: resolve_below.max(1) },
    })
}

/// Makes the first two terms equal except for their thresholds, if `alike` is set and there are two.
fn alike((mut terms, alike): (Vec<Term>, bool)) -> Vec<Term> {
    if let ([one, two, ..], true) = (terms.as_mut_slice(), alike) {
        let Thresholds { at_least, resolve_below } = one.thresholds;
        *two = Term {
            thresholds: Thresholds { at_least, resolve_below: resolve_below.div_ceil(2) },
            ..one.clone()
        };
        if !matches!(one.measure, Measure::Ratio { .. }) {
            // The first term rarely holds alone.
            one.thresholds = Thresholds { at_least: at_least * 2, resolve_below };
        }
    }
    terms
}

fn any_compound() -> impl Strategy<Value = Rule> {
    let group = prop_oneof![
        3 => Just(GroupBy::Source),
        2 => Just(GroupBy::SourceAndDestination),
        1 => Just(GroupBy::Destination),
        1 => Just(GroupBy::Group),
    ];
    let size = prop_oneof![2 => Just(None), 1 => Just(r1().matching.size)];
    let pace = (prop::sample::select(&[0u64, 5, 600][..]), prop::sample::select(&[60u64, 3_600][..]));
    let terms = (prop::collection::vec(any_term(), 1..4), prop::bool::weighted(0.25)).prop_map(alike);
    (terms, 0..4u8, group, size, pace).prop_map(|(terms, shape, group_by, size, pace)| {
        let term = Condition::Term;
        let condition = match (terms.len(), shape) {
            (1, _) => term(0),
            (2, 0 | 1) => Condition::Any(vec![term(0), term(1)]),
            (2, _) => Condition::All(vec![term(0), term(1)]),
            (_, 0) => Condition::Any(vec![term(0), term(1), term(2)]),
            (_, 1) => Condition::All(vec![term(0), term(1), term(2)]),
            (_, 2) => Condition::Any(vec![term(0), Condition::All(vec![term(1), term(2)])]),
            (_, _) => Condition::All(vec![term(0), Condition::Any(vec![term(1), term(2)])]),
        };
        Rule {
            matching: Match { size, ..r1().matching },
            window: terms[0].window,
            terms,
            condition,
            group_by,
            resolve_after: Duration::from_secs(pace.0),
            repeat_interval: Duration::from_secs(pace.1),
            ..r1()
        }
    })
}
