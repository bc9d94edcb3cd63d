//! Full disk: detection continues, every interface shows the fault, and nothing is lost or repeated once the
//! disk accepts writes again.

use std::{
    process::{Command, Output},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mailflow_test_support::lab::{Agent, agent_binary, output, wait_for};
use serde_json::Value;

use crate::gateway::{Gateway, Packets, SmallDisk, add, kill};

/// Seconds during which the disk is full, unless `MAILFLOW_FULL_DISK_SECONDS` is set.
const SECONDS: u64 = 15;
const PATIENCE: Duration = Duration::from_secs(120);

/// Further lines of the configuration: a short repeat interval, and a rule that only counts.
const CONFIG: &str = "    repeat_interval: 1s
  - name: all
    match: { applications: [smtp, other] }
    window: { length: 1h }
    condition: { count: { at_least: 100000 } }
state: { durability_timeout: 2s }
";

fn ask(agent: &Agent, words: &str) -> Output {
    let mut command = Command::new(agent_binary().unwrap());
    command.args(words.split_whitespace()).arg("--socket").arg(agent.socket()).output().unwrap()
}

fn wait(what: &str, agent: &Agent, mut done: impl FnMut() -> bool) {
    wait_for(what, PATIENCE, || Ok(done().then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
}

fn durable(agent: &Agent, durable: bool) {
    let line = format!("mailflow_state_durable {}", u8::from(durable));
    wait(&line, agent, || agent.metrics().unwrap().lines().any(|found| found == line));
}

/// Sequential connections until the value is dropped; the scope waits for the last one.
struct Traffic<'a>(&'a AtomicBool);

impl<'a> Traffic<'a> {
    fn start<'scope>(
        scope: &'scope std::thread::Scope<'scope, '_>,
        gateway: &'scope Gateway,
        sent: &'scope Mutex<(Packets, usize)>,
        ends: &'a AtomicBool,
    ) -> Self
    where
        'a: 'scope,
    {
        scope.spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let packets = gateway.send();
                let mut sent = sent.lock().unwrap();
                add(&mut sent.0, packets);
                sent.1 += 1;
                drop(sent);
                // The rate of the traffic, not a wait.
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self(ends)
    }
}

impl Drop for Traffic<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Returns the number of log lines at level WARN or ERROR.
fn warnings(log: &str) -> usize {
    log.lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR")).count()
}

fn events(agent: &Agent) -> Vec<Value> {
    agent.alerts().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn balanced(agent: &Agent) {
    let metrics = agent.metrics().unwrap();
    for direction in ["up", "down"] {
        let line = format!("mailflow_conservation_difference_packets{{direction=\"{direction}\"}} 0");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[test]
fn full_state_disk_stops_no_detection_and_loses_nothing() {
    let seconds = std::env::var("MAILFLOW_FULL_DISK_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds = seconds.unwrap_or(SECONDS);
    let gateway = Gateway::new(3);
    let disk = SmallDisk::new(&gateway.lab.folder().join("state"), "2m");
    gateway.configure(3, CONFIG);
    let agent = gateway.start("", &[]);
    let (sent, ends) = (Mutex::new(([0; 2], 0)), AtomicBool::new(false));
    let agent = std::thread::scope(|scope| {
        let traffic = Traffic::start(scope, &gateway, &sent, &ends);
        wait("an alert", &agent, || !agent.alerts().is_empty());
        durable(&agent, true);
        let (before, begun) = (warnings(&agent.log()), Instant::now());
        disk.fill();
        durable(&agent, false);
        let wait_for_more = |within: Duration| {
            let (records, alerts) = (gateway.finals().len(), agent.alerts().len());
            let more = || gateway.finals().len() > records && agent.alerts().len() > alerts;
            wait_for("a further record and a further alert", within, || Ok(more().then_some(())))
                .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
        };
        wait_for_more(PATIENCE);
        shows_it(&agent, "without durability: ", "No space left on device");
        // The time is the subject: the agent tries to write each second, and logs once a minute.
        while begun.elapsed() < Duration::from_secs(seconds) {
            wait_for_more(Duration::from_secs(5));
            std::thread::sleep(Duration::from_secs(1));
        }
        let logged = warnings(&agent.log()) - before;
        let minutes = begun.elapsed().as_secs() / 60 + 1;
        assert!(logged as u64 <= minutes, "{logged} lines in {minutes} minutes\n{}", agent.log());
        println!(
            "{} flows, {} alerts, {logged} lines of the log",
            sent.lock().unwrap().1,
            agent.alerts().len()
        );
        disk.empty();
        durable(&agent, true);
        assert!(agent.log().contains("the state is written again"), "{}", agent.log());
        assert_eq!(ask(&agent, "status").status.code(), Some(0));
        // The next agent has the state of that time.
        kill(agent);
        let agent = gateway.start("", &[]);
        drop(traffic);
        agent
    });
    let (sent, flows) = *sent.lock().unwrap();
    gateway.expect(&agent, sent);
    assert_eq!(gateway.finals().len(), flows, "a record for each flow");
    let window =
        format!("mailflow_window_value{{rule=\"all\",condition=\"count\",source=\"10.20.0.2\"}} {flows}");
    wait(&window, &agent, || agent.metrics().unwrap().contains(&window));
    let starts: std::collections::BTreeSet<String> =
        events(&agent).iter().map(|event| event["alert"]["starts_at"].to_string()).collect();
    assert_eq!(starts.len(), 1, "one incident: {starts:?}");
    balanced(&agent);
}

/// Checks that every interface shows the failed write and its cause.
fn shows_it(agent: &Agent, consequence: &str, cause: &str) {
    let status = ask(agent, "status");
    let text = String::from_utf8(status.stdout).unwrap();
    assert_eq!(status.status.code(), Some(1), "{text}");
    assert!(text.contains("state         NOT WRITTEN since") && text.contains(cause), "{text}");
    let (code, ready) = agent.get("/-/ready").unwrap();
    assert_eq!(code, 200);
    assert!(ready.starts_with(&format!("ready\n{consequence}")) && ready.contains(cause), "{ready}");
}

#[test]
fn full_output_disk_delays_lines_without_loss() {
    let gateway = Gateway::new(3);
    let disk = SmallDisk::new(&gateway.lab.folder().join("disk"), "1m");
    let logs = disk.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    // A previous agent left an incomplete line, which must be ended first.
    std::fs::write(logs.join("alerts.json"), "{\"cut").unwrap();
    let outputs = format!(
        "outputs:\n  alerts: {logs}/alerts.json\n  flow_log: {logs}/flows.json\n  files: {{ min_free: 0 }}\n\
         control: {{ socket: {logs}/agent.sock }}\n",
        logs = logs.display()
    );
    gateway.configure(3, &outputs);
    disk.fill();
    let used = output(Command::new("stat").args(["-f", "-c", "%c %d"]).arg(disk.path())).unwrap();
    let numbers: Vec<u64> = used.split_whitespace().map(|word| word.parse().unwrap()).collect();
    disk.remount(&format!("nr_inodes={}", numbers[0] - numbers[1]));
    let mut agent = gateway.start_as_configured();
    (0..3).for_each(|_| _ = gateway.send());
    let line = "mailflow_alerts{rule=\"many\",state=\"firing\"} 1";
    wait(line, &agent, || agent.metrics().unwrap().contains(line));
    disk.remount("nr_inodes=1000");
    disk.empty();
    let lines = |name: &str| std::fs::read_to_string(logs.join(name)).unwrap_or_default().lines().count();
    wait("the lines", &agent, || (lines("alerts.json"), lines("flows.json")) == (2, 3));
    assert_eq!(agent.stop().unwrap().code(), Some(0), "{}", agent.log());
}

#[test]
fn crash_on_full_disk_loses_rule_state_and_no_packet() {
    let gateway = Gateway::new(1_000);
    let disk = SmallDisk::new(&gateway.lab.folder().join("state"), "2m");
    gateway.configure(1_000, CONFIG);
    let mut agent = gateway.start("", &[]);
    let mut sent = [0; 2];
    let open = gateway.open();
    // Both causes of a failed write: no space, or no new file.
    for refusal in ["full", "no inodes"] {
        add(&mut sent, gateway.send());
        open.talk();
        gateway.expect(&agent, sent);
        let cause = match refusal {
            "full" => {
                disk.fill();
                "No space left on device"
            }
            _ => {
                let used = output(Command::new("stat").args(["-f", "-c", "%c %d"]).arg(disk.path())).unwrap();
                let numbers: Vec<u64> = used.split_whitespace().map(|word| word.parse().unwrap()).collect();
                disk.remount(&format!("nr_inodes={}", numbers[0] - numbers[1]));
                "No space left on device"
            }
        };
        add(&mut sent, gateway.send());
        gateway.expect(&agent, sent);
        durable(&agent, false);
        if refusal == "no inodes" {
            // A checkpoint needs a new file; the journal can still be appended to.
            let grows = "the journal grows, as the state cannot be replaced: ";
            wait(grows, &agent, || agent.get("/-/ready").unwrap().1.contains(grows));
        }
        open.talk();
        kill(agent);
        open.talk();
        add(&mut sent, gateway.send());
        agent = gateway.start("", &[]);
        gateway.expect(&agent, sent);
        durable(&agent, false);
        let consequence = "without durability: ";
        wait(consequence, &agent, || agent.get("/-/ready").unwrap().1.contains(consequence));
        shows_it(&agent, consequence, cause);
        balanced(&agent);
        match refusal {
            "full" => disk.empty(),
            _ => disk.remount("nr_inodes=1000"),
        }
        durable(&agent, true);
        add(&mut sent, gateway.send());
        gateway.expect(&agent, sent);
        kill(agent);
        agent = gateway.start("", &[]);
    }
    add(&mut sent, open.end());
    gateway.expect(&agent, sent);
    balanced(&agent);
    assert_eq!(agent.stop().unwrap().code(), Some(0), "{}", agent.log());
}
