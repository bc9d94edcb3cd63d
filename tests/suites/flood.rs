//! A flood of spoofed inside sources at a running agent, and two real senders amid it: memory, state and alerts stay within
//! what the configuration says, the flood is named, and the real ones are alerted on.
//!
//! `MAILFLOW_FLOOD_SOURCES` is how many sources there are; 2,000,000 take some minutes.

use std::{fs, net::Ipv4Addr, thread, time::Duration};

use mailflow_tests::{
    frame::{FrameBuilder, flag::*},
    lab::{Agent, Lab, LabOptions, agent_binary, wait_for},
    wire::Wire,
};
use serde_json::Value;

/// Sources, unless the environment says otherwise.
const SOURCES: u32 = 100_000;
/// Frames sent in one go, and the pause after them: at most 20,000 a second.
const BATCH: usize = 400;
const PAUSE: Duration = Duration::from_millis(20);
/// Half of what the systemd unit allows, in MB.
const MOST_MEMORY: u64 = 1_000;
/// Sends mails that are taken.
const SENDER: &str = "10.255.7.7";
/// Connects to servers that do not answer.
const BOT: &str = "10.255.8.8";
/// Spoofed sources with enough of that to be alerted on.
const LOUD: u32 = 300;

/// The shipped rules, and a second for what nobody answers.
fn config(sources: u32) -> String {
    let limits = if sources > SOURCES { "" } else { "limits: { subjects: 20000, memory: 20MB }\n" };
    format!("timeouts: {{ unanswered: 1s, closed: 200ms }}\n{limits}")
}

fn limit(sources: u32) -> (f64, f64) {
    if sources > SOURCES { (1_048_576.0, 512e6) } else { (20_000.0, 20e6) }
}

fn syn(client: &str, port: u16, server: u32) -> Vec<u8> {
    let server = Ipv4Addr::from(0x5db8_d700 + server);
    FrameBuilder::tcp(&format!("{client}:{port}"), &format!("{server}:25"), SYN).build()
}

/// A session in which a mail is taken.
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

/// Frames of the flood from source `n` on.
fn spoofed(n: u32, sources: u32) -> Vec<Vec<u8>> {
    let client = Ipv4Addr::from(0x0a00_0000 + n).to_string();
    if n.is_multiple_of(sources / LOUD) {
        (0..22).map(|port| syn(&client, 4_000 + port, u32::from(port))).collect()
    } else {
        vec![syn(&client, 4_000, n % 50)]
    }
}

fn sample(page: &str, name: &str) -> f64 {
    find(page, name).unwrap_or_else(|| panic!("no {name}"))
}

/// A sample that is absent until the flow table was read once.
fn find(page: &str, name: &str) -> Option<f64> {
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(value.parse().unwrap())
}

/// Most resident memory of a process so far, in MB.
fn most_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_000
}

#[test]
fn a_flood_of_spoofed_sources_stays_within_the_limits_and_hides_no_real_sender() {
    let sources: u32 = std::env::var("MAILFLOW_FLOOD_SOURCES").map_or(SOURCES, |text| text.parse().unwrap());
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let file = lab.folder().join("flood.yaml");
    fs::write(&file, config(sources)).unwrap();
    let state = lab.folder().join("state");
    let options =
        format!("--config {} --interface lan0 --role mirror --state {}", file.display(), state.display());
    let mut agent =
        Agent::start(&lab.gateway, &agent_binary().unwrap(), lab.folder(), "agent", &options).unwrap();
    assert!(agent.log().contains("limits of each rule"), "{}", agent.log());

    let wire = Wire::open(&lab.client, "eth0").unwrap();
    let (mut frames, mut mails, mut attempts) = (Vec::new(), 0, 0);
    for n in 0..sources {
        // A machine that is busy with other work must not fill the flow table: this is about the rules.
        if n.is_multiple_of(10_000) {
            wait_for("the rules keep up with the flood", Duration::from_secs(120), || {
                let seen = find(&agent.metrics()?, "mailflow_half_open_sources_total");
                Ok(seen.filter(|seen| seen + 50_000.0 >= f64::from(n)).map(drop))
            })
            .unwrap();
        }
        frames.extend(spoofed(n, sources));
        // In the second half of the flood 12 mails, and 25 connections that nobody answers.
        let share = |part: u32| n > sources / 2 && n % (sources / 100) == part;
        if share(7) && mails < 12 {
            mails += 1;
            frames.extend(mail(5_000 + mails));
        }
        if share(9) && attempts < 25 {
            attempts += 1;
            frames.push(syn(BOT, 6_000 + attempts, 100 + u32::from(attempts)));
        }
        if frames.len() >= BATCH {
            wire.send(&frames).unwrap();
            frames.clear();
            thread::sleep(PAUSE);
        }
    }
    wire.send(&frames).unwrap();
    assert_eq!((mails, attempts), (12, 25));

    let about = |agent: &Agent, rule: &str, source: Option<&str>| {
        let alerts = agent.alerts().into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
        alerts
            .filter(|alert| alert["alert"]["rule"] == rule && alert["mailflow"]["source"].as_str() == source)
            .count()
    };
    wait_for("both real senders and the flood are alerted on", Duration::from_secs(60), || {
        let all = [about(&agent, "smtp-burst", Some(SENDER)), about(&agent, "spoofed-sources", None)];
        // Among the loud ones the bot is one of many.
        let named = about(&agent, "smtp-bulk", Some(BOT)) > 0 || agent.log().contains(&format!(" {BOT}"));
        Ok((named && all.iter().all(|number| *number > 0)).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));

    // Until the last of the flood have ended, as nobody answers.
    let page = wait_for("the rules have seen the whole flood", Duration::from_secs(120), || {
        let page = agent.metrics()?;
        Ok((sample(&page, "mailflow_half_open_sources_total") >= f64::from(sources)).then_some(page))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.metrics().unwrap_or_default()));
    let (subjects, memory) = limit(sources);
    let of_bulk = |name: &str| sample(&page, &format!("{name}{{rule=\"smtp-bulk\"}}"));
    assert!(of_bulk("mailflow_rule_subjects") <= subjects);
    assert!(of_bulk("mailflow_rule_memory_bytes") <= memory * 1.01);
    assert!(of_bulk("mailflow_rule_evicted_subjects_total") >= f64::from(sources) - subjects);
    assert_eq!(of_bulk("mailflow_rule_refused_records_total"), 0.0, "each finds room");
    assert_eq!(sample(&page, "mailflow_source_flood"), 1.0);

    // The loud ones: some a minute by themselves, the others together, and each in the log.
    let (bulk, together) = (agent.alerts().len(), about(&agent, "smtp-bulk", None));
    let grouped = of_bulk("mailflow_rule_grouped_alerts_total");
    println!("{bulk} alert lines, {together} about many, {grouped} told together");
    assert!(grouped > 0.0 && together > 0);
    let minutes = f64::from(sources) / 100_000.0 + 4.0;
    assert!((bulk as f64) < 60.0 * minutes + 100.0, "{bulk} alert lines");
    let log = agent.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("alerts told together")).collect();
    let named = |line: &&str| line.matches(" 10.").count();
    assert_eq!(lines.iter().map(named).sum::<usize>() as f64, grouped, "each by its fingerprint");

    let (most, pid) = (most_memory(agent.process().pid()), agent.process().pid());
    let kept: u64 = fs::read_dir(&state).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    println!("process {pid}: at most {most} MB resident; {} MB of state", kept / 1_000_000);
    assert!(most < MOST_MEMORY, "{most} MB");
    assert!(agent.stop().unwrap().success());
}
