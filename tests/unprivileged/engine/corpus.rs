//! Size test of `smtp-burst` on real, labelled sessions, recomputed from their table.

use std::{collections::HashMap, fs};

use mailflow_common::{App, Facts, FlowKey, PROTOCOL_TCP, Scope, Vlans};
use mailflow_engine::{
    flow::{DirectionStats, Flow},
    network::Endpoints,
    rule::Clause,
    settings::{Layer, Match, SizeKind, SizeTest},
    time::Time,
};
use mailflow_test_support::lab::workspace;

use super::histories::{
    defaults,
    rules::{SIZES, r1},
};

/// Thresholds of the size test, in both directions; `smtp-burst` has 80.
const THRESHOLDS: [u64; 3] = [40, 80, 200];

#[test]
fn size_test_equals_arithmetic_on_real_sessions() {
    let path = workspace().join("../shared/corpus/sessions.csv");
    let Ok(text) = fs::read_to_string(&path) else {
        eprintln!("skipped: no corpus at {}", path.display());
        return;
    };
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let mut verdicts = HashMap::new();
    let mut sessions = 0;
    for line in lines {
        let row: HashMap<&str, &str> = header.iter().copied().zip(line.split(',')).collect();
        let number = |column: &str| row[column].parse::<u64>().unwrap();
        sessions += 1;
        for kind in SIZES {
            for layer in [Layer::L3, Layer::Payload] {
                for threshold in THRESHOLDS {
                    let size = SizeTest { kind, layer, up: threshold, down: threshold };
                    let expected = by_arithmetic(&number, &size);
                    assert_eq!(by_rule(&number, size), expected, "{size:?}: {line}");
                    *verdicts.entry((size, expected)).or_insert(0u32) += 1;
                }
            }
        }
    }
    assert_eq!(sessions, 2_197, "sessions in the corpus");
    let literal = SizeTest { kind: SizeKind::Ratio, layer: Layer::L3, up: 80, down: 80 };
    assert!(verdicts[&(literal, true)] > 100 && verdicts[&(literal, false)] > 100, "both verdicts are tried");
}

fn by_rule(number: &dyn Fn(&str) -> u64, size: SizeTest) -> bool {
    let way = |way: &str| DirectionStats {
        packets: number(&format!("pk_{way}")),
        bytes: number(&format!("ip_{way}")),
        payload: number(&format!("pay_{way}")),
        data_packets: number(&format!("data_{way}")),
        data_bytes: number(&format!("ipdata_{way}")),
        last: None,
    };
    let [client, server] = ["10.0.0.1", "9.9.9.9"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap().into());
    let server_port = match number("dport") {
        2525 | 2601 | 2602 | 2605 => 25,
        port => port as u16,
    };
    let scope = Scope::new(Vlans::default(), PROTOCOL_TCP, false);
    let flow = Flow {
        key: FlowKey { client, server, client_port: 40_000, server_port, scope },
        up: way("up"),
        down: way("dn"),
        first: Time::ZERO,
        messages: 0,
        rejected: 0,
        mac: None,
        interface: None,
        facts: Facts::default(),
    };
    let matching = Match { size: Some(size), ..r1().matching };
    let settings = defaults();
    match matching.check(&flow, App::Unseen, &Endpoints::of(&flow, &settings.internal), settings.clock_offset)
    {
        Ok(()) => true,
        Err(Clause::Size(_)) => false,
        Err(other) => panic!("only the size may speak against a session: {other:?}"),
    }
}

/// Computes the size test in floating point; exact for numbers of this size.
fn by_arithmetic(number: &dyn Fn(&str) -> u64, size: &SizeTest) -> bool {
    let least = size.up as f64;
    let value = |column: &str, way: &str| number(&format!("{column}_{way}")) as f64;
    let bytes = if size.layer == Layer::L3 { "ip" } else { "pay" };
    let data_bytes = if size.layer == Layer::L3 { "ipdata" } else { "pay" };
    let ratio = |way: &str| value("pk", way) > 0.0 && value(bytes, way) / value("pk", way) >= least;
    let data = |way: &str| value("data", way) > 0.0 && value(data_bytes, way) / value("data", way) >= least;
    let count = |way: &str| value("pk", way) >= least && value(bytes, way) >= least;
    match size.kind {
        SizeKind::Ratio => ratio("up") && ratio("dn"),
        SizeKind::Count => count("up") && count("dn"),
        SizeKind::Either => (ratio("up") && ratio("dn")) || (count("up") && count("dn")),
        SizeKind::DataRatio => data("up") && data("dn"),
        SizeKind::UpOnly => ratio("up"),
    }
}
