//! Client commands: `status` and `reload`.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{
    args::{SocketArgs, StatusArgs},
    command::ExitStatus,
};
use crate::{
    config::{self, scalar::format_duration},
    control::{
        CallError, Client, Conservation, Durability, ListStatus, ProgramStatus, Reply, Request, Status,
        StatusNumber, UnlistedClientsStatus, WatchedEntryStatus,
    },
};

/// Maximum number of retries after a broken connection.
const MAX_RETRIES: usize = 4;

/// Returns the agent's socket: from the arguments, else from the configuration. Prints errors of the
/// configuration to `err`.
pub fn find_socket(
    config: Option<&Path>,
    args: &SocketArgs,
    err: &mut impl Write,
) -> io::Result<Option<PathBuf>> {
    if let Some(socket) = &args.socket {
        return Ok(Some(socket.clone()));
    }
    match config::load(config) {
        Ok(config) if config.control.socket.is_none() => {
            writeln!(err, "the configuration has no control socket: name one with --socket PATH")?;
            Ok(None)
        }
        Ok(config) => Ok(config.control.socket),
        Err(faults) => {
            for fault in faults.iter() {
                writeln!(err, "{fault}")?;
            }
            Ok(None)
        }
    }
}

/// Prints the status of the agent (`status`).
pub fn status(
    socket: &Path,
    args: &StatusArgs,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<ExitStatus> {
    let status = match Client::connect(socket).and_then(|mut client| client.call(&Request::Status)) {
        Ok(Reply::Status(status)) => status,
        other => return report_failure(other, err),
    };
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &status)?;
        writeln!(out)?;
    } else {
        print_status(&status, out)?;
    }
    Ok(if is_healthy(&status) { ExitStatus::Good } else { ExitStatus::Failure })
}

/// Reloads the agent's configuration, and prints the changes (`reload`).
pub fn reload(socket: &Path, out: &mut impl Write, err: &mut impl Write) -> io::Result<ExitStatus> {
    let ask = || Client::connect(socket).and_then(|mut client| client.call(&Request::Reload));
    // The server may close the connection in favour of newer ones before it has read the request. Then
    // nothing was done.
    let broken = |answer: &Result<Reply, CallError>| {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(answer, Err(CallError::Broken(error)) if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
    };
    let answer = (0..MAX_RETRIES).map(|_| ask()).find(|answer| !broken(answer)).unwrap_or_else(ask);
    match answer {
        Ok(Reply::Reloaded(changes)) => {
            for change in &changes {
                writeln!(out, "{change}")?;
            }
            writeln!(out, "the configuration is in force")?;
            Ok(ExitStatus::Good)
        }
        other => report_failure(other, err),
    }
}

/// Prints an unexpected reply or an error.
pub(crate) fn report_failure(
    answer: Result<Reply, crate::control::CallError>,
    err: &mut impl Write,
) -> io::Result<ExitStatus> {
    match answer {
        Ok(Reply::Refused(reasons)) => {
            for reason in &reasons {
                writeln!(err, "{reason}")?;
            }
        }
        Ok(_) => writeln!(err, "unexpected reply: the agent has another version")?,
        Err(error) => writeln!(err, "{error}")?,
    }
    Ok(ExitStatus::Failure)
}

/// Returns true if the agent's counts and configuration have no problem.
fn is_healthy(status: &Status) -> bool {
    status.config_good
        && status.lists.as_ref().is_none_or(|lists| lists.refused.is_none())
        && status.interfaces.iter().all(|program| program.attached)
        && is_balanced(&status.conservation)
        && status.durability.as_ref().is_none_or(|durability| durability.durable)
        && delivery_problems(status).next().is_none()
}

/// Describes dead letters and rejected alerts.
fn delivery_problems(status: &Status) -> impl Iterator<Item = String> {
    status.outputs.iter().flat_map(|sink| {
        let name = &sink.name;
        let dead = match sink.dead_letters {
            0 => None,
            dead => Some(format!(
                "{name}: {dead} events were rejected by the receiver and are dead letters (see the agent's log, then empty the \
                 file)"
            )),
        };
        let rejected = match sink.rejected_alerts {
            0 => None,
            rejected => Some(format!(
                "{name}: the receiver rejects {rejected} alerts, which are sent again (see the agent's log)"
            )),
        };
        dead.into_iter().chain(rejected)
    })
}

fn is_balanced(conservation: &Conservation) -> bool {
    let Conservation { packets, bytes, .. } = conservation;
    [packets, bytes].iter().all(|counts| counts.up == 0 && counts.down == 0)
}

fn print_status(status: &Status, out: &mut impl Write) -> io::Result<()> {
    let seconds = |seconds: f64| format_duration(std::time::Duration::from_secs(seconds as u64));
    let mut line = |name: &str, text: String| writeln!(out, "{name:<13} {text}");
    line(
        "agent",
        format!("{}, process {}, up {}", status.version, status.pid, format_age(status.uptime_seconds)),
    )?;
    let file = status.config.as_deref().unwrap_or("built in");
    let load_state = if status.config_good { "in force" } else { "the last attempt to load it was refused" };
    line("configuration", format!("{file}: {load_state}"))?;
    match &status.lists {
        Some(ListStatus { networks, refused: None }) => line("networks", networks.to_string())?,
        Some(ListStatus { networks, refused: Some(fault) }) => {
            line("networks", format!("{networks}; the changed lists are REFUSED: {fault}"))?;
        }
        None => {}
    }
    for program in &status.interfaces {
        line("interface", describe_program(program))?;
    }
    for entry in &status.watched {
        if let Some(text) = describe_missing(entry) {
            line("interface", text)?;
        }
    }
    for warning in &status.warnings {
        line("WARNING", warning.clone())?;
    }
    for prefix in &status.unlisted.prefixes {
        line("WARNING", format!("{prefix} is behind an inside interface and in no internal network"))?;
    }
    if status.unlisted.flows > 0 {
        let UnlistedClientsStatus { flows, clients, .. } = &status.unlisted;
        let text = format!("{flows} flows of clients in no internal network, such as {}", clients.join(", "));
        line("WARNING", text)?;
    }
    if status.hook_monitor.is_some_and(|helper| helper.process.is_none()) {
        line(
            "WARNING",
            "the helper process is not running: the order of programs at TCX is unknown".to_owned(),
        )?;
    }
    let flows = &status.flows;
    line("flows", format!("{} of {}, read every {}s", flows.entries, flows.capacity, status.poll_seconds))?;
    let overflow = &status.overflow;
    line("overflow", format!("{} of {} sources and services", overflow.entries, overflow.capacity))?;
    line("sources", status.sources.to_string())?;
    line("conservation", describe_conservation(&status.conservation))?;
    if let Some(durability) = &status.durability {
        line("state", describe_durability(durability))?;
    }
    for (reason, buffers) in &status.uncounted {
        line("not counted", format!("{reason}: {buffers}"))?;
    }
    if status.duplicate_delivery {
        line("WARNING", "packets are delivered twice, and counted twice".to_owned())?;
    }
    for rule in &status.rules {
        let highest = match &rule.highest_source {
            Some(source) => {
                let amount = format_value(
                    &rule.highest_condition,
                    rule.highest,
                    rule.highest_threshold,
                    &rule.highest_unit,
                );
                format!("highest {amount} ({source})")
            }
            None => "all windows empty".to_owned(),
        };
        let window = seconds(rule.window_seconds as f64);
        line(
            "rule",
            format!(
                "{} v{}, {}, {window}: {} sources, {highest}",
                rule.name, rule.version, rule.severity, rule.sources
            ),
        )?;
    }
    for alert in &status.alerts {
        let bound = if alert.at_bound { ", or more" } else { "" };
        let amount = format_value(&alert.condition, alert.value, alert.threshold, &alert.unit);
        line("FIRING", format!("{}: {}, {amount}{bound}", alert.rule, alert.source))?;
    }
    if status.alerts.is_empty() {
        line("alerts", "none fires".to_owned())?;
    }
    for sink in &status.outputs {
        let rare = sink.rare_values().into_iter().filter(|(_, value)| *value > 0);
        let values = sink.usual_values().into_iter().chain(rare);
        let values: Vec<String> = values.map(|(name, value)| format!("{name} {value}")).collect();
        line("output", format!("{}: {}", sink.name, values.join(", ")))?;
    }
    for warning in delivery_problems(status) {
        line("WARNING", warning)?;
    }
    for note in &status.notes {
        line("note", note.clone())?;
    }
    Ok(())
}

/// Formats a value with its term, threshold and unit: `count 28 of 10 flows`.
fn format_value(
    condition: &Option<String>,
    value: StatusNumber,
    threshold: StatusNumber,
    unit: &Option<String>,
) -> String {
    let condition = condition.as_ref().map_or_else(String::new, |condition| format!("{condition} "));
    let unit =
        unit.as_ref().filter(|unit| !unit.is_empty()).map_or_else(String::new, |unit| format!(" {unit}"));
    format!("{condition}{value} of {threshold}{unit}")
}

/// Describes a configured entry without an interface.
fn describe_missing(entry: &WatchedEntryStatus) -> Option<String> {
    let since = format_age(entry.missing_seconds?);
    let WatchedEntryStatus { entry, pattern, .. } = entry;
    Some(match pattern {
        true => format!("{entry}: no interface matches, for {since}"),
        false => format!("{entry}: WAITING, no such interface for {since}"),
    })
}

fn describe_program(program: &ProgramStatus) -> String {
    let ProgramStatus { interface, hook, direction, .. } = program;
    let state = match (program.attached, program.position) {
        (false, _) => "NOT ATTACHED".to_owned(),
        (true, None) => "attached".to_owned(),
        (true, Some(position)) => format!("attached, position {position}"),
    };
    let reattach_count = if program.reattach_count == 0 {
        String::new()
    } else {
        format!(", attached again {} times", program.reattach_count)
    };
    format!("{interface} {direction} by {hook}: {state}{reattach_count}")
}

fn describe_durability(durability: &Durability) -> String {
    let Durability { durable, since, cause, in_memory, journal } = durability;
    if *durable {
        return "written".to_owned();
    }
    let consequence = if *in_memory {
        "rules are evaluated without it; a crash loses their state"
    } else if *journal {
        "the journal is still written, and grows"
    } else {
        "flows stay in the kernel's table"
    };
    let since = format_utc(*since);
    format!("NOT WRITTEN since {since}: {}; {consequence}", cause.as_deref().unwrap_or("unknown cause"))
}

/// Formats a time in UTC.
fn format_utc(unix_seconds: f64) -> String {
    jiff::Timestamp::from_second(unix_seconds as i64).map_or_else(|_| "?".to_owned(), |time| time.to_string())
}

fn describe_conservation(conservation: &Conservation) -> String {
    let Conservation { packets, bytes, unattributed_packets: lost } = conservation;
    let balance = if is_balanced(conservation) {
        "every counted packet is accounted for".to_owned()
    } else {
        format!(
            "MISSING {} packets up, {} down; {} bytes up, {} down",
            packets.up, packets.down, bytes.up, bytes.down
        )
    };
    if lost.up == 0 && lost.down == 0 {
        balance
    } else {
        format!("{balance}; unattributed: {} up, {} down", lost.up, lost.down)
    }
}

/// Formats a duration with its two largest units.
fn format_age(seconds: f64) -> String {
    let seconds = seconds as u64;
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let parts = units.iter().scan(seconds, |left, (unit, name)| {
        let number = *left / unit;
        *left %= unit;
        Some((number, name))
    });
    let parts: Vec<String> = parts
        .skip_while(|(number, _)| *number == 0)
        .take(2)
        .map(|(number, name)| format!("{number}{name}"))
        .collect();
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{DirectionCounts, FiringAlert, OutputStatus, RuleStatus};

    fn text(status: &Status) -> String {
        let mut out = Vec::new();
        print_status(status, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn ages_have_two_units() {
        let shown: Vec<_> = [0.4, 59.0, 61.0, 3_600.0, 90_061.0].into_iter().map(format_age).collect();
        assert_eq!(shown, ["0s", "59s", "1m 1s", "1h 0m", "1d 1h"]);
    }

    #[test]
    fn problems_are_printed() {
        let program = |attached| ProgramStatus {
            interface: "eth1".into(),
            hook: "tcx".into(),
            direction: "egress".into(),
            attached,
            position: Some(2),
            reattach_count: 1,
        };
        let mut status = Status { config_good: true, interfaces: vec![program(true)], ..Status::default() };
        assert!(is_healthy(&status));
        assert!(text(&status).contains("eth1 egress by tcx: attached, position 2, attached again 1 times"));
        status.conservation.packets = DirectionCounts { up: 3, down: 0 };
        assert!(!is_healthy(&status) && text(&status).contains("MISSING 3 packets up, 0 down"));
        status = Status { config_good: true, interfaces: vec![program(false)], ..Status::default() };
        assert!(!is_healthy(&status) && text(&status).contains("NOT ATTACHED"));
        let durability = |durable| Durability {
            durable,
            since: 1_790_000_000.0,
            cause: (!durable).then(|| "No space left".to_owned()),
            in_memory: true,
            journal: false,
        };
        status = Status { config_good: true, durability: Some(durability(true)), ..Status::default() };
        assert!(is_healthy(&status) && text(&status).contains("state         written"));
        status.durability = Some(durability(false));
        let shown = text(&status);
        assert!(!is_healthy(&status), "{shown}");
        assert!(
            shown.contains("NOT WRITTEN since 2026-09-21T14:13:20Z: No space left; rules are evaluated"),
            "{shown}"
        );
        for name in ["dead_letters", "rejected_alerts"] {
            let sink = |value| OutputStatus::new("hook".into(), &[(name.to_owned(), value)].into());
            status = Status { config_good: true, outputs: vec![sink(0)], ..Status::default() };
            assert!(is_healthy(&status) && !text(&status).contains("WARNING"));
            status.outputs = vec![sink(3)];
            assert!(
                !is_healthy(&status) && text(&status).contains("WARNING       hook: "),
                "{}",
                text(&status)
            );
        }
        status = Status { config_good: false, ..Status::default() };
        assert!(!is_healthy(&status) && text(&status).contains("refused"));
        let lists = ListStatus { networks: 7, refused: Some("a.txt:1:1: oops".to_owned()) };
        status = Status { config_good: true, lists: Some(lists), ..Status::default() };
        let refused = "networks      7; the changed lists are REFUSED: a.txt:1:1: oops";
        assert!(!is_healthy(&status) && text(&status).contains(refused), "{}", text(&status));
    }

    #[test]
    fn rules_and_alerts_show() {
        let rule = RuleStatus {
            name: "r".into(),
            version: 2,
            severity: "high".into(),
            window_seconds: 3_600,
            sources: 1,
            highest: StatusNumber::Whole(22_543_958),
            highest_source: Some("10.0.0.1".into()),
            highest_condition: Some("sum payload_up".into()),
            highest_unit: Some("bytes".into()),
            highest_threshold: StatusNumber::Whole(20_000_000),
        };
        let alert = FiringAlert {
            rule: "r".into(),
            source: "10.0.0.1".into(),
            condition: Some("count".into()),
            unit: Some("flows".into()),
            value: StatusNumber::Whole(28),
            threshold: StatusNumber::Whole(10),
            ..FiringAlert::default()
        };
        let share = FiringAlert {
            condition: Some("ratio failed/attempts".into()),
            unit: Some(String::new()),
            value: StatusNumber::Part(0.75),
            at_bound: true,
            threshold: StatusNumber::Part(0.5),
            ..alert.clone()
        };
        let status = Status { rules: vec![rule], alerts: vec![alert, share], ..Status::default() };
        let text = text(&status);
        for shown in [
            "r v2, high, 1h: 1 sources, highest sum payload_up 22543958 of 20000000 bytes (10.0.0.1)",
            "FIRING        r: 10.0.0.1, count 28 of 10 flows\n",
            "FIRING        r: 10.0.0.1, ratio failed/attempts 0.75 of 0.5, or more\n",
        ] {
            assert!(text.contains(shown), "{shown}: {text}");
        }
    }
}
