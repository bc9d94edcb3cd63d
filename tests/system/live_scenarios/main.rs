//! Scenarios of the backtest as real traffic, in compressed time: connections of real clients to a real
//! Postfix through the running agent. The agent's alerts equal the expected ones. They equal those of
//! `backtest` on the agent's own flow log with the same rules. They also equal those of the shipped rules on
//! that log with expanded times.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

mailflow_test_support::needs_root!();

#[path = "../messages/dialogue.rs"]
#[allow(dead_code)]
mod dialogue;

mod actions;
mod expected;
mod hosts;
mod rules;

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    time::{Duration, Instant},
};

use actions::Host;
use expected::{Alerts, backtest, query};
use hosts::{Listed, Scene};
use mailflow_test_support::lab::{
    Agent, Family, Lab, LabOptions, Offloads, Package, Postfix, PostfixOptions, agent_binary, wait_for,
};

/// Time until the last alert after the traffic, on a busy machine.
const SECONDS: Duration = Duration::from_secs(60);

/// Runs the scenes in parallel, each on its own host and `factor` times as fast. Compares the alerts with the
/// expected ones, the backtest, and the shipped rules.
fn play(factor: u32, scenes: &[Scene]) {
    // Without merged buffers, as on a wire: an upload gets the usual number of pure ACKs.
    let options =
        LabOptions { sources: scenes.len() as u8, offloads: Offloads::Off, ..LabOptions::default() };
    let lab = Lab::new(&options).unwrap();
    let servers = actions::servers(&lab);
    let package = Package::unpack().unwrap();
    // Postfix must not slow down senders.
    let options = PostfixOptions { settings: "in_flow_delay = 0\n", ..PostfixOptions::default() };
    let _postfix = Postfix::start(&lab.server, &package, lab.folder(), &options).unwrap();

    let source = |number: usize| lab.client_ip(Family::V4, number as u8);
    let known = scenes.iter().enumerate().filter(|(_, scene)| scene.listed == Listed::Yes);
    let known: Vec<_> = known.map(|(number, scene)| (source(number), scene.name)).collect();
    let (squeezed, shipped) = (lab.folder().join("squeezed.yaml"), lab.folder().join("shipped.yaml"));
    fs::write(&squeezed, rules::squeezed(factor, &known)).unwrap();
    fs::write(&shipped, rules::shipped(&known)).unwrap();
    let log = lab.folder().join("flows.jsonl");
    let options = format!("--config {} --flow-log {}", squeezed.display(), log.display());
    let mut agent =
        Agent::start(&lab.gateway, &agent_binary().unwrap(), lab.folder(), "agent", &options).unwrap();

    let hour = Duration::from_secs(3_600) / factor;
    std::thread::scope(|scope| {
        for (number, scene) in scenes.iter().enumerate() {
            let host = Host { lab: &lab, servers: &servers, source: source(number), hour };
            scope.spawn(move || {
                let begin = Instant::now();
                host.lab.client.enter(|| (scene.act)(&host)).unwrap();
                println!("{}: {:.1} s", scene.name, begin.elapsed().as_secs_f64());
            });
        }
    });

    let expected_alerts: BTreeSet<_> =
        scenes.iter().enumerate().flat_map(|(n, scene)| scene.expected_alerts(source(n))).collect();
    let alerts = |agent: &Agent| Alerts::of(&agent.alerts());
    let all = wait_for("the alerts", SECONDS, || {
        Ok(alerts(&agent).firing().is_superset(&expected_alerts).then_some(()))
    });
    assert!(all.is_ok(), "{}", differences(&expected_alerts, &alerts(&agent).firing()));
    // The alerts of silent hosts end, except those of sums over a day.
    let silent: BTreeSet<_> = scenes
        .iter()
        .enumerate()
        .filter(|(_, scene)| scene.resolves)
        .flat_map(|(number, scene)| scene.expected_alerts(source(number)))
        .collect();
    let ended =
        wait_for("their ends", SECONDS, || Ok(alerts(&agent).resolved().is_superset(&silent).then_some(())));
    assert!(ended.is_ok(), "{}", differences(&silent, &alerts(&agent).resolved()));
    // Queries see the flows that the rules counted.
    let relays: BTreeSet<_> =
        scenes.iter().enumerate().filter(|(_, scene)| scene.relay).map(|(n, _)| source(n)).collect();
    let suggested = query(&agent, "suggest");
    let named = |source: &IpAddr| suggested.contains(&format!("source: \"{source}\""));
    assert_eq!((0..scenes.len()).map(source).filter(named).collect::<BTreeSet<_>>(), relays, "{suggested}");
    let loud = &expected_alerts.first().unwrap().1;
    let explained = query(&agent, &format!("explain {loud}"));
    assert!(explained.lines().any(|line| line.ends_with(" counts")), "{explained}");
    assert!(agent.stop().unwrap().success(), "{}", agent.log());

    // No other alert came up to the end.
    let live = alerts(&agent);
    assert_eq!(
        live.firing(),
        expected_alerts,
        "live, and in words: {}",
        differences(&expected_alerts, &live.firing())
    );
    assert_eq!(live.relays(), relays);
    let again = backtest(&squeezed, &log);
    assert_eq!(again.fingerprints(), live.fingerprints(), "{}", differences(&again.firing(), &live.firing()));
    assert_eq!(again.relays(), relays);
    assert!(again.resolved().is_superset(&live.resolved()), "{:?}", again.resolved());
    let stretched = lab.folder().join("stretched.jsonl");
    fs::write(&stretched, expected::stretched(&fs::read_to_string(&log).unwrap(), factor)).unwrap();
    let full = backtest(&shipped, &stretched);
    assert_eq!(full.fingerprints(), live.fingerprints(), "{}", differences(&full.firing(), &live.firing()));
}

fn differences(expected: &BTreeSet<expected::Identity>, found: &BTreeSet<expected::Identity>) -> String {
    let (missing, beyond) = (expected.difference(found), found.difference(expected));
    format!("missing {:#?}\nbeyond {:#?}", missing.collect::<Vec<_>>(), beyond.collect::<Vec<_>>())
}

#[test]
fn hour_of_attacks_and_legitimate_mail_gives_expected_alerts() {
    play(240, &hosts::HOUR);
}

#[test]
fn day_of_slow_drip_gives_expected_alerts() {
    play(960, &hosts::DAY);
}
