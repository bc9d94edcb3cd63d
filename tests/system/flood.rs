//! Floods of spoofed internal sources at a running agent, with real senders among them. Memory, state and
//! alerts stay within the configured limits, the flood is reported, and alerts about the real senders are not
//! delayed.
//!
//! `MAILFLOW_FLOOD_SOURCES` is the number of sources (100,000), `MAILFLOW_FLOOD_RATE` the number of sources
//! per second (8,000; 20,000 for a large flood). With 2,000,000 sources the limits are the shipped ones, and
//! the agent must be a release build: docs/operate/restart.md has the command.

mailflow_test_support::needs_root!();

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use mailflow_test_support::{
    frame::{FrameBuilder, flag::*},
    lab::{Agent, Lab, LabOptions, agent_binary, wait_for, workspace},
    wire::Wire,
};
use serde_json::Value;

/// Default number of sources.
const SOURCES: u32 = 100_000;
/// Default rates in sources per second: of a small flood, and of a large one.
const RATES: [u32; 2] = [8_000, 20_000];
/// Pause between two batches of frames.
const PAUSE: Duration = Duration::from_millis(20);
/// Maximum size of the state directory, the shipped `state.max_size`.
const MOST_STATE: u64 = 1_000_000_000;
/// Source that sends accepted mails.
const SENDER: &str = "10.255.7.7";
/// Source that connects to servers without an answer.
const BOT: &str = "10.255.8.8";
/// Source that sends a large message.
const BULK: &str = "10.255.9.9";
/// Spoofed sources with enough unanswered connections for an alert, all of them among the first [`SOURCES`].
const LOUD: u32 = 300;

/// Limit that the flood reaches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// Limits of the rules: half-open flows end after a second, and each source becomes a group key.
    Subjects,
    /// Flow table and overflow table: half-open flows stay for the shipped idle timeouts.
    Tables,
}

/// Flood as selected by the environment.
#[derive(Clone, Copy)]
struct Flood {
    bound: Bound,
    sources: u32,
    rate: u32,
}

impl Flood {
    fn new(bound: Bound) -> Self {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
        let sources = number("MAILFLOW_FLOOD_SOURCES").unwrap_or(SOURCES);
        let rate = number("MAILFLOW_FLOOD_RATE").unwrap_or(RATES[usize::from(sources > SOURCES)]);
        Self { bound, sources, rate }
    }

    fn is_large(self) -> bool {
        self.sources > SOURCES
    }

    /// Returns the configuration: the shipped rules; for a small flood with lower limits and shorter
    /// timeouts.
    fn config(self) -> &'static str {
        match (self.bound, self.is_large()) {
            (Bound::Subjects, true) => "timeouts: { unanswered: 1s, closed: 200ms }\n",
            (Bound::Subjects, false) => {
                "timeouts: { unanswered: 1s, closed: 200ms }\nlimits: { subjects: 20000, memory: 20MB }\n"
            }
            (Bound::Tables, true) => "{}\n",
            (Bound::Tables, false) => {
                "timeouts: { unanswered: 20s }\nflow_table: { flows: 16384, overflow_sources: 4096 }\n"
            }
        }
    }

    /// Returns the maximum number of group keys of a rule, and its maximum memory.
    fn limits(self) -> (f64, f64) {
        let small = self.bound == Bound::Subjects && !self.is_large();
        if small { (20_000.0, 20e6) } else { (1_048_576.0, 512e6) }
    }

    /// Returns the maximum delay of an alert about a sender whose connections end: until the flow ends, two
    /// polls, and a reserve. A debug build gets more, as the machine is busy with other tests.
    fn normal_time(self) -> Duration {
        let closed = match self.bound {
            Bound::Subjects => Duration::from_millis(200),
            Bound::Tables => Duration::from_secs(5),
        };
        closed + Duration::from_secs(if is_release() { 4 } else { 16 })
    }

    /// Returns the frames of source `n`.
    fn frames(self, n: u32) -> Vec<Vec<u8>> {
        let client = Ipv4Addr::from(0x0a00_0000 + n).to_string();
        if n < SOURCES && n.is_multiple_of(SOURCES / LOUD) {
            (0..22).map(|port| syn(&client, 4_000 + port, u32::from(port))).collect()
        } else {
            vec![syn(&client, 4_000, n % 50)]
        }
    }
}

fn syn(client: &str, port: u16, server: u32) -> Vec<u8> {
    let server = Ipv4Addr::from(0x5db8_d700 + server);
    FrameBuilder::tcp(&format!("{client}:{port}"), &format!("{server}:25"), SYN).build()
}

/// Returns a session with an accepted mail.
fn mail(port: u16) -> Vec<Vec<u8>> {
    let (client, server) = (format!("{SENDER}:{port}"), "93.184.215.25:25");
    let up = |flags, payload: &[u8]| FrameBuilder::tcp(&client, server, flags).payload(payload).build();
    let down = |flags, payload: &[u8]| FrameBuilder::tcp(server, &client, flags).payload(payload).build();
    let answer = |text: &str| format!("{text}{}\r\n", " and so on".repeat(10));
    let mut frames = vec![up(SYN, b""), down(SYN | ACK, b""), up(ACK, b"")];
    for (text, command) in [
        (
            "220 mx.example.org ESMTP ready and waiting for your mail",
            "EHLO a-client-with-a-long-name.example.net\r\n".to_owned(),
        ),
        (
            "250-mx.example.org greets you 250-SIZE 52428800 250 PIPELINING",
            "MAIL FROM:<somebody@example.net>\r\n".to_owned(),
        ),
        (
            "250 2.1.0 Ok, go on and name your recipients",
            "RCPT TO:<somebody-else@example.org>\r\n".to_owned(),
        ),
        ("250 2.1.5 Ok, the recipient is known here", "DATA\r\n".to_owned()),
        (
            "354 End data with <CR><LF>.<CR><LF>, please",
            format!("Subject: x\r\n\r\n{}\r\n.", "x".repeat(1_200)),
        ),
        ("250 2.0.0 Ok: queued as 4F2A91C0E7", "QUIT\r\n".to_owned()),
        ("221 2.0.0 Bye, and until the next time\r\n", String::new()),
    ] {
        frames.push(down(ACK | PSH, answer(text).as_bytes()));
        if !command.is_empty() {
            frames.push(up(ACK | PSH, command.as_bytes()));
        }
    }
    frames.extend([down(FIN | ACK, b""), up(FIN | ACK, b"")]);
    frames
}

/// Returns a connection that sends 21 MB.
fn bulk() -> Vec<Vec<u8>> {
    let (client, server) = (format!("{BULK}:5000"), "93.184.215.25:25");
    let up = |flags, payload: &[u8]| FrameBuilder::tcp(&client, server, flags).payload(payload).build();
    let down = |flags, payload: &[u8]| FrameBuilder::tcp(server, &client, flags).payload(payload).build();
    let mut frames =
        vec![up(SYN, b""), down(SYN | ACK, b""), up(ACK, b""), down(ACK | PSH, b"220 mx ESMTP\r\n")];
    frames.extend((0..15_000).map(|_| up(ACK, &[b'x'; 1_400])));
    frames
}

fn sample(page: &str, name: &str) -> f64 {
    find(page, name).unwrap_or_else(|| panic!("no {name}"))
}

/// Returns the value of a sample, which is missing before the first poll.
fn find(page: &str, name: &str) -> Option<f64> {
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(value.parse().unwrap())
}

/// Returns true if the agent is a release build.
fn is_release() -> bool {
    !cfg!(debug_assertions) || std::env::var("MAILFLOW_AGENT_PROFILE").is_ok_and(|profile| profile != "dev")
}

/// Returns `MemoryMax` of the shipped unit, in MB.
fn memory_max() -> u64 {
    let unit = workspace().join("config/systemd/mailflow-agent.service");
    let unit = fs::read_to_string(unit).unwrap();
    let value = unit.lines().find_map(|line| line.strip_prefix("MemoryMax=")?.strip_suffix('G')).unwrap();
    value.parse::<u64>().unwrap() * 1_073
}

/// Returns the memory of the kernel's maps, which is charged to the unit too, in MB.
fn kernel_memory(log: &str) -> u64 {
    let value = log.split_once("kernel_memory=").unwrap().1.split_whitespace().next().unwrap();
    value.parse::<u64>().unwrap() / 1_000_000
}

/// Returns the maximum resident memory of a process so far, in MB.
fn most_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_000
}

/// Returns the bytes of the files in a directory.
fn size(directory: &Path) -> u64 {
    // Files may be removed meanwhile.
    let files = fs::read_dir(directory).unwrap().filter_map(|file| file.ok()?.metadata().ok());
    files.map(|file| file.len()).sum()
}

/// Returns the number of the agent's alerts of a rule about a source; without a source, of grouped alerts.
fn alerts(agent: &Agent, rule: &str, source: Option<&str>) -> usize {
    let alerts = agent.alerts().into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
    alerts
        .filter(|alert| alert["alert"]["rule"] == rule && alert["mailflow"]["source"].as_str() == source)
        .count()
}

/// Expected alert of a real sender: when it is due, and when it came.
struct Expected {
    rule: &'static str,
    source: &'static str,
    since: Option<Instant>,
    took: Option<Duration>,
}

impl Expected {
    fn new(rule: &'static str, source: &'static str) -> Self {
        Self { rule, source, since: None, took: None }
    }

    fn look(&mut self, agent: &Agent) {
        if let Some(since) = self.since.filter(|_| self.took.is_none())
            && alerts(agent, self.rule, Some(self.source)) > 0
        {
            self.took = Some(since.elapsed());
        }
    }
}

/// Sends the flood, with the real senders in its second half. Returns the delays of their alerts, and the
/// maximum size of the state.
fn send(flood: Flood, agent: &Agent, wire: &Wire, state: &Path) -> ([Option<Duration>; 2], u64) {
    let Flood { sources, rate, bound } = flood;
    let (mut frames, mut mails, mut attempts) = (Vec::new(), 0, 0);
    let mut expected = [Expected::new("smtp-burst", SENDER), Expected::new("smtp-bulk", BULK)];
    let (begin, mut waited, mut most_state) = (Instant::now(), Duration::ZERO, 0);
    let mut next_look = begin;
    for n in 0..sources {
        // On a busy machine the flood must not fill the flow table if the test is about the rules' limits.
        if bound == Bound::Subjects && n.is_multiple_of(10_000) {
            let since = Instant::now();
            wait_for("the rules keep up with the flood", Duration::from_secs(120), || {
                let seen = find(&agent.metrics()?, "mailflow_half_open_sources_total");
                Ok(seen.filter(|seen| seen + 100_000.0 >= f64::from(n)).map(drop))
            })
            .unwrap();
            waited += since.elapsed();
        }
        frames.extend(flood.frames(n));
        let share = |part: u32| n > sources / 2 && n % (sources / 100) == part;
        if share(7) && mails < 12 {
            mails += 1;
            frames.extend(mail(5_000 + mails));
        }
        if n == sources / 4 * 3 {
            frames.extend(bulk());
        }
        if share(9) && attempts < 25 {
            attempts += 1;
            frames.push(syn(BOT, 6_000 + attempts, 100 + u32::from(attempts)));
        }
        if frames.len() as u32 >= rate / 50 {
            wire.send(&frames).unwrap();
            frames.clear();
            let [burst, bulk] = &mut expected;
            burst.since = burst.since.or_else(|| (mails >= 10).then(Instant::now));
            bulk.since = bulk.since.or_else(|| (n >= sources / 4 * 3).then(Instant::now));
            if next_look <= Instant::now() {
                next_look = Instant::now() + Duration::from_millis(500);
                expected.iter_mut().for_each(|alert| alert.look(agent));
                most_state = size(state).max(most_state);
            }
            // The rate of the flood is the subject.
            let due = begin + waited + PAUSE * (n / (rate / 50));
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    wire.send(&frames).unwrap();
    assert_eq!((mails, attempts), (12, 25));
    let took = begin.elapsed();
    println!("{sources} sources in {took:.0?}, of which {waited:.0?} the agent was waited for");
    let _ = wait_for("alerts of the real senders", Duration::from_secs(60), || {
        expected.iter_mut().for_each(|alert| alert.look(agent));
        Ok(expected.iter().all(|alert| alert.took.is_some()).then_some(()))
    });
    (expected.map(|alert| alert.took), most_state)
}

fn run(flood: Flood) {
    // Each test measures delays: one at a time.
    static ONE_BY_ONE: Mutex<()> = Mutex::new(());
    let _turn = ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Flood { sources, bound, .. } = flood;
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let file = lab.folder().join("flood.yaml");
    fs::write(&file, flood.config()).unwrap();
    let state = lab.folder().join("state");
    let options =
        format!("--config {} --interface lan0 --role mirror --state {}", file.display(), state.display());
    let mut agent =
        Agent::start(&lab.gateway, &agent_binary().unwrap(), lab.folder(), "agent", &options).unwrap();
    for bound in ["limits of each rule", "half_open_percent"] {
        assert!(agent.log().contains(bound), "{}", agent.log());
    }

    let wire = Wire::open(&lab.client, "eth0").unwrap();
    let (took, most_state) = send(flood, &agent, &wire, &state);
    println!("alerts of the real senders after {took:.1?}; at most {} MB of state", most_state / 1_000_000);
    for took in took {
        let took = took.unwrap_or_else(|| panic!("a real sender was not alerted on\n{}", agent.log()));
        assert!(took <= flood.normal_time(), "{took:?}");
    }

    wait_for("the flood is alerted on, and its loud ones", Duration::from_secs(180), || {
        let flood = alerts(&agent, "spoofed-sources", None) > 0;
        // If the tables are full, few of the loud sources have all of their flows, and the bot is one of the
        // flood.
        let loud = bound == Bound::Tables
            || alerts(&agent, "smtp-bulk", None) > 0
                && (alerts(&agent, "smtp-bulk", Some(BOT)) > 0 || agent.log().contains(&format!(" {BOT}")));
        Ok((flood && loud).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));

    let page = match bound {
        // Until the last flows of the flood have ended, without an answer.
        Bound::Subjects => wait_for("the rules have seen the whole flood", Duration::from_secs(120), || {
            let page = agent.metrics()?;
            Ok((sample(&page, "mailflow_half_open_sources_total") >= f64::from(sources)).then_some(page))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.metrics().unwrap_or_default())),
        Bound::Tables => agent.metrics().unwrap(),
    };
    let (subjects, memory) = flood.limits();
    let of_bulk = |name: &str| sample(&page, &format!("{name}{{rule=\"smtp-bulk\"}}"));
    assert!(of_bulk("mailflow_rule_subjects") <= subjects);
    assert!(of_bulk("mailflow_rule_memory_bytes") <= memory * 1.01);
    if bound == Bound::Subjects {
        assert!(of_bulk("mailflow_rule_evicted_subjects_total") >= f64::from(sources) - subjects);
    } else {
        assert!(sample(&page, "mailflow_overflow_entries") > 0.0, "the flow table was not filled");
    }
    assert_eq!(of_bulk("mailflow_rule_rejected_records_total"), 0.0, "each finds room");
    assert_eq!(sample(&page, "mailflow_source_flood"), 1.0);

    // The loud sources: some alerts per minute by source, the others grouped, and each source in the log.
    let (lines, together) = (agent.alerts().len(), alerts(&agent, "smtp-bulk", None));
    let grouped = of_bulk("mailflow_rule_grouped_alerts_total");
    println!("{lines} alert lines, {together} about many, {grouped} grouped");
    assert!(bound == Bound::Tables || grouped > 0.0 && together > 0);
    let minutes = f64::from(sources / flood.rate) / 60.0 + 5.0;
    assert!((lines as f64) < 60.0 * minutes + 100.0, "{lines} alert lines");
    let log = agent.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("alerts reported as one")).collect();
    let named = |line: &&str| line.matches(" 10.").count();
    assert_eq!(lines.iter().map(named).sum::<usize>() as f64, grouped, "each by its fingerprint");

    let pid = agent.process().pid();
    let (most, most_state) = (most_memory(pid), size(&state).max(most_state));
    let tables = kernel_memory(&log);
    println!(
        "process {pid}: at most {most} MB resident, {tables} MB of tables; at most {} MB of state",
        most_state / 1_000_000
    );
    assert!(2 * (most + tables) < memory_max(), "{most} MB and {tables} MB are not half of MemoryMax");
    assert!(most_state < MOST_STATE, "{most_state} bytes of state");
    if bound == Bound::Subjects {
        agent.process().signal(libc::SIGKILL).unwrap();
        let _ = agent.process().wait(Duration::from_secs(60)).unwrap();
        let before = starts_of_many(&agent);
        let mut agent =
            Agent::start(&lab.gateway, &agent_binary().unwrap(), lab.folder(), "agent", &options).unwrap();
        let since = Instant::now();
        let page = wait_for("a reading", Duration::from_secs(60), || {
            let page = agent.metrics()?;
            let long = since.elapsed() > Duration::from_secs(5);
            Ok((long && find(&page, "mailflow_half_open_sources_total").is_some()).then_some(page))
        })
        .unwrap();
        assert_eq!(sample(&page, "mailflow_source_flood"), 1.0, "the flood alert keeps firing");
        assert_eq!(starts_of_many(&agent), before, "and is the same incident");
        assert!(agent.stop().unwrap().success());
    } else {
        assert!(agent.stop().unwrap().success());
    }
}

/// Returns rules and start times of the grouped alerts.
fn starts_of_many(agent: &Agent) -> BTreeSet<(String, String)> {
    let alerts = agent.alerts().into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let many = alerts.filter(|alert| alert["mailflow"]["source"].is_null());
    many.map(|alert| (alert["alert"]["rule"].to_string(), alert["alert"]["starts_at"].to_string())).collect()
}

#[test]
fn spoofed_flood_within_rule_limits_hides_no_sender() {
    run(Flood::new(Bound::Subjects));
}

#[test]
fn spoofed_flood_with_full_tables_hides_no_sender() {
    run(Flood::new(Bound::Tables));
}
