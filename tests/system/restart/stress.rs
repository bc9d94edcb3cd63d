//! Restart stress: every way to end and to start an agent in sequence, under traffic.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use mailflow_test_support::lab::{Agent, wait_for};

use crate::gateway::{Gateway, add, kill};

/// Duration in seconds, unless `MAILFLOW_STORM_SECONDS` is set.
const SECONDS: u64 = 40;

#[test]
fn restarts_under_traffic_count_packets_and_incidents_once() {
    let seconds = std::env::var("MAILFLOW_STORM_SECONDS").ok().and_then(|text| text.parse().ok());
    let gateway = Gateway::new(30);
    let sending = AtomicBool::new(true);
    let agent = gateway.start("--keep", &[]);
    let ((sent, flows), mut agent, turns) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let (mut sent, mut flows) = ([0; 2], 0);
            while sending.load(Ordering::Relaxed) {
                add(&mut sent, gateway.send());
                flows += 1;
                // The rate of the traffic, not a wait.
                std::thread::sleep(Duration::from_millis(20));
            }
            (sent, flows)
        });
        let (agent, turns) = storm(&gateway, agent, Duration::from_secs(seconds.unwrap_or(SECONDS)));
        sending.store(false, Ordering::Relaxed);
        (sender.join().unwrap(), agent, turns)
    });
    gateway.expect(&agent, sent);
    assert!(turns >= 5, "{turns} turns");
    assert_eq!(gateway.finals().len(), flows, "one record for each flow");
    assert_eq!(agent.alerts().len(), 1, "{:#?}", agent.alerts());
    let metrics = agent.metrics().unwrap();
    for direction in ["up", "down"] {
        let line = format!("mailflow_conservation_difference_packets{{direction=\"{direction}\"}} 0");
        assert!(metrics.contains(&line), "{metrics}");
    }
    println!("{turns} turns, {flows} flows, {sent:?} packets");
    agent.stop().unwrap();
}

/// Restarts the agent repeatedly; returns the number of restarts.
fn storm(gateway: &Gateway, mut agent: Agent, duration: Duration) -> (Agent, u32) {
    let (began, mut turns, mut layout) = (Instant::now(), 0, "1:2");
    // Each way at least once, even on a slow machine.
    while began.elapsed() < duration || turns < 5 {
        match turns % 5 {
            0 | 3 => kill(agent),
            1 => assert_eq!(agent.stop().unwrap().code(), Some(0), "{}", agent.log()),
            2 => {
                layout = if layout == "1:2" { "2:1" } else { "1:2" };
                kill(agent);
            }
            _ => {
                for (more, successful) in
                    [("poll_intervall: 3s\n", 0), ("watched_ports: { smtp: [25, 2525] }\n", 1)]
                {
                    gateway.configure(30, more);
                    agent.process().signal(libc::SIGHUP).unwrap();
                    let line = format!("mailflow_config_last_reload_successful {successful}");
                    wait_for(&line, Duration::from_secs(60), || {
                        Ok(agent.metrics()?.lines().any(|found| found == line).then_some(()))
                    })
                    .unwrap();
                }
                kill(agent);
            }
        }
        agent = gateway.start("--keep", &[("MAILFLOW_TEST_LAYOUT", layout)]);
        turns += 1;
        // Each agent counts and records before it ends.
        agent.settle().unwrap();
    }
    (agent, turns)
}
