//! The commands that ask the running agent: `status` and `reload`.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{
    args::{SocketArgs, StatusArgs},
    command::Exit,
};
use crate::{
    config::{self, scalar::format_duration},
    control::{
        CallError, Client, Conservation, Durability, ListStatus, Number, Place, Reply, Request, Status,
        Unlisted, Watched,
    },
};

/// How often a request is repeated whose connection broke.
const RETRIES: usize = 4;

/// Where the agent listens: as told, as configured, or as shipped. Faults of the configuration go to `err`.
pub fn socket(config: Option<&Path>, args: &SocketArgs, err: &mut impl Write) -> io::Result<Option<PathBuf>> {
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

/// `status`: prints how the agent is.
pub fn status(
    socket: &Path,
    args: &StatusArgs,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<Exit> {
    let status = match Client::connect(socket).and_then(|mut client| client.call(&Request::Status)) {
        Ok(Reply::Status(status)) => status,
        other => return unexpected(other, err),
    };
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &status)?;
        writeln!(out)?;
    } else {
        show(&status, out)?;
    }
    Ok(if good(&status) { Exit::Good } else { Exit::Failure })
}

/// `reload`: lets the agent read its configuration again, and prints what came of it.
pub fn reload(socket: &Path, out: &mut impl Write, err: &mut impl Write) -> io::Result<Exit> {
    let ask = || Client::connect(socket).and_then(|mut client| client.call(&Request::Reload));
    // The connection may be closed for newer ones before the agent has read the request: then nothing was done.
    let broken = |answer: &Result<Reply, CallError>| {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(answer, Err(CallError::Broken(error)) if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
    };
    let answer = (0..RETRIES).map(|_| ask()).find(|answer| !broken(answer)).unwrap_or_else(ask);
    match answer {
        Ok(Reply::Reloaded(changes)) => {
            for change in &changes {
                writeln!(out, "{change}")?;
            }
            writeln!(out, "the configuration is in force")?;
            Ok(Exit::Good)
        }
        other => unexpected(other, err),
    }
}

/// An answer other than the one hoped for.
pub(crate) fn unexpected(
    answer: Result<Reply, crate::control::CallError>,
    err: &mut impl Write,
) -> io::Result<Exit> {
    match answer {
        Ok(Reply::Refused(reasons)) => {
            for reason in &reasons {
                writeln!(err, "{reason}")?;
            }
        }
        Ok(_) => writeln!(err, "the agent answered something else: it is of another version")?,
        Err(error) => writeln!(err, "{error}")?,
    }
    Ok(Exit::Failure)
}

/// Returns true if nothing speaks against the agent's counts and configuration.
fn good(status: &Status) -> bool {
    status.config_good
        && status.lists.as_ref().is_none_or(|lists| lists.refused.is_none())
        && status.interfaces.iter().all(|place| place.attached)
        && balanced(&status.conservation)
        && status.durability.as_ref().is_none_or(|durability| durability.durable)
        && undelivered(status).next().is_none()
}

/// What receivers refuse, in words.
fn undelivered(status: &Status) -> impl Iterator<Item = String> {
    status.sinks.iter().flat_map(|sink| {
        let number = |name| sink.numbers.get(name).copied().unwrap_or(0);
        let name = &sink.name;
        let dead = match number("dead_letters") {
            0 => None,
            dead => Some(format!(
                "{name}: {dead} events that the receiver refuses are dead letters (see the agent's log, then empty the \
                 file)"
            )),
        };
        let refused = match number("refused_alerts") {
            0 => None,
            refused => Some(format!(
                "{name}: the receiver refuses {refused} alerts, which are posted again (see the agent's log)"
            )),
        };
        dead.into_iter().chain(refused)
    })
}

fn balanced(conservation: &Conservation) -> bool {
    let Conservation { packets, bytes, .. } = conservation;
    [packets, bytes].iter().all(|ways| ways.up == 0 && ways.down == 0)
}

fn show(status: &Status, out: &mut impl Write) -> io::Result<()> {
    let seconds = |seconds: f64| format_duration(std::time::Duration::from_secs(seconds as u64));
    let mut line = |name: &str, text: String| writeln!(out, "{name:<13} {text}");
    line("agent", format!("{}, process {}, up {}", status.version, status.pid, age(status.uptime_seconds)))?;
    let file = status.config.as_deref().unwrap_or("built in");
    let good = if status.config_good { "in force" } else { "the last attempt to load it was refused" };
    line("configuration", format!("{file}: {good}"))?;
    match &status.lists {
        Some(ListStatus { networks, refused: None }) => line("networks", networks.to_string())?,
        Some(ListStatus { networks, refused: Some(fault) }) => {
            line("networks", format!("{networks}; the changed lists are REFUSED: {fault}"))?;
        }
        None => {}
    }
    for place in &status.interfaces {
        line("interface", shown(place))?;
    }
    for entry in &status.watched {
        if let Some(text) = missing(entry) {
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
        let Unlisted { flows, clients, .. } = &status.unlisted;
        let text = format!("{flows} flows of clients in no internal network, such as {}", clients.join(", "));
        line("WARNING", text)?;
    }
    if status.lookout.is_some_and(|lookout| lookout.process.is_none()) {
        line("WARNING", "nobody looks at the hooks: who comes first at TCX is not known".to_owned())?;
    }
    let flows = &status.flows;
    line("flows", format!("{} of {}, read every {}s", flows.entries, flows.capacity, status.poll_seconds))?;
    let overflow = &status.overflow;
    line("overflow", format!("{} of {} sources and services", overflow.entries, overflow.capacity))?;
    line("sources", status.sources.to_string())?;
    line("conservation", conservation(&status.conservation))?;
    if let Some(durability) = &status.durability {
        line("state", state(durability))?;
    }
    for (reason, buffers) in &status.uncounted {
        line("not counted", format!("{reason}: {buffers}"))?;
    }
    if status.delivered_twice {
        line("WARNING", "packets come twice, and are counted so".to_owned())?;
    }
    for rule in &status.rules {
        let highest = match &rule.highest_source {
            Some(source) => {
                let amount =
                    of(&rule.highest_condition, rule.highest, rule.highest_threshold, &rule.highest_unit);
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
        let amount = of(&alert.condition, alert.value, alert.threshold, &alert.unit);
        line("FIRING", format!("{}: {}, {amount}{bound}", alert.rule, alert.source))?;
    }
    if status.alerts.is_empty() {
        line("alerts", "none fires".to_owned())?;
    }
    for sink in &status.sinks {
        // What hardly ever happens is shown where it does.
        let rare = |name: &str| matches!(name, "files_replaced" | "waits_for_room");
        let numbers: Vec<String> = sink
            .numbers
            .iter()
            .filter(|(name, number)| **number > 0 || !rare(name))
            .map(|(name, number)| format!("{} {number}", name.replace('_', " ")))
            .collect();
        line("sink", format!("{}: {}", sink.name, numbers.join(", ")))?;
    }
    for warning in undelivered(status) {
        line("WARNING", warning)?;
    }
    for note in &status.notes {
        line("life", note.clone())?;
    }
    Ok(())
}

/// `count 28 of 10 flows`: a value and its threshold, with the term and the unit that both are of.
fn of(condition: &Option<String>, value: Number, threshold: Number, unit: &Option<String>) -> String {
    let condition = condition.as_ref().map_or_else(String::new, |condition| format!("{condition} "));
    let unit =
        unit.as_ref().filter(|unit| !unit.is_empty()).map_or_else(String::new, |unit| format!(" {unit}"));
    format!("{condition}{value} of {threshold}{unit}")
}

/// Returns the line about an entry that is bound to no interface.
fn missing(entry: &Watched) -> Option<String> {
    let since = age(entry.missing_seconds?);
    let Watched { entry, pattern, .. } = entry;
    Some(match pattern {
        true => format!("{entry}: no interface matches, for {since} now"),
        false => format!("{entry}: WAITING, there is no such interface for {since} now"),
    })
}

fn shown(place: &Place) -> String {
    let Place { interface, hook, direction, .. } = place;
    let standing = match (place.attached, place.position) {
        (false, _) => "NOT ATTACHED".to_owned(),
        (true, None) => "attached".to_owned(),
        (true, Some(position)) => format!("attached, position {position}"),
    };
    let again =
        if place.again == 0 { String::new() } else { format!(", attached again {} times", place.again) };
    format!("{interface} {direction} by {hook}: {standing}{again}")
}

fn state(durability: &Durability) -> String {
    let Durability { durable, since, cause, in_memory, journal } = durability;
    if *durable {
        return "written".to_owned();
    }
    let consequence = if *in_memory {
        "detection goes on without it; a crash loses what the rules learn"
    } else if *journal {
        "the journal is written on, and grows"
    } else {
        "flows wait in the kernel's table"
    };
    let since = utc(*since);
    format!("NOT WRITTEN since {since}: {}; {consequence}", cause.as_deref().unwrap_or("no cause is known"))
}

/// A moment, in UTC.
fn utc(unix_seconds: f64) -> String {
    jiff::Timestamp::from_second(unix_seconds as i64).map_or_else(|_| "?".to_owned(), |time| time.to_string())
}

fn conservation(conservation: &Conservation) -> String {
    let Conservation { packets, bytes, unattributed_packets: lost } = conservation;
    let held = if balanced(conservation) {
        "every packet counted is held".to_owned()
    } else {
        format!(
            "MISSING {} packets up, {} down; {} bytes up, {} down",
            packets.up, packets.down, bytes.up, bytes.down
        )
    };
    if lost.up == 0 && lost.down == 0 {
        held
    } else {
        format!("{held}; unattributed: {} up, {} down", lost.up, lost.down)
    }
}

/// A time as people say it: its two largest units.
fn age(seconds: f64) -> String {
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
    use crate::control::{FiringAlert, RuleStatus, Sink, Ways};

    fn text(status: &Status) -> String {
        let mut out = Vec::new();
        show(status, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn ages_have_two_units() {
        let shown: Vec<_> = [0.4, 59.0, 61.0, 3_600.0, 90_061.0].into_iter().map(age).collect();
        assert_eq!(shown, ["0s", "59s", "1m 1s", "1h 0m", "1d 1h"]);
    }

    #[test]
    fn what_is_not_good_shows() {
        let place = |attached| Place {
            interface: "eth1".into(),
            hook: "tcx".into(),
            direction: "egress".into(),
            attached,
            position: Some(2),
            again: 1,
        };
        let mut status = Status { config_good: true, interfaces: vec![place(true)], ..Status::default() };
        assert!(good(&status));
        assert!(text(&status).contains("eth1 egress by tcx: attached, position 2, attached again 1 times"));
        status.conservation.packets = Ways { up: 3, down: 0 };
        assert!(!good(&status) && text(&status).contains("MISSING 3 packets up, 0 down"));
        status = Status { config_good: true, interfaces: vec![place(false)], ..Status::default() };
        assert!(!good(&status) && text(&status).contains("NOT ATTACHED"));
        let durability = |durable| Durability {
            durable,
            since: 1_790_000_000.0,
            cause: (!durable).then(|| "No space left".to_owned()),
            in_memory: true,
            journal: false,
        };
        status = Status { config_good: true, durability: Some(durability(true)), ..Status::default() };
        assert!(good(&status) && text(&status).contains("state         written"));
        status.durability = Some(durability(false));
        let shown = text(&status);
        assert!(!good(&status), "{shown}");
        assert!(
            shown.contains("NOT WRITTEN since 2026-09-21T14:13:20Z: No space left; detection goes on"),
            "{shown}"
        );
        for name in ["dead_letters", "refused_alerts"] {
            let sink = |number| Sink { name: "hook".into(), numbers: [(name.to_owned(), number)].into() };
            status = Status { config_good: true, sinks: vec![sink(0)], ..Status::default() };
            assert!(good(&status) && !text(&status).contains("WARNING"));
            status.sinks = vec![sink(3)];
            assert!(!good(&status) && text(&status).contains("WARNING       hook: "), "{}", text(&status));
        }
        status = Status { config_good: false, ..Status::default() };
        assert!(!good(&status) && text(&status).contains("refused"));
        let lists = ListStatus { networks: 7, refused: Some("a.txt:1:1: oops".to_owned()) };
        status = Status { config_good: true, lists: Some(lists), ..Status::default() };
        let refused = "networks      7; the changed lists are REFUSED: a.txt:1:1: oops";
        assert!(!good(&status) && text(&status).contains(refused), "{}", text(&status));
    }

    #[test]
    fn rules_and_alerts_show() {
        let rule = RuleStatus {
            name: "r".into(),
            version: 2,
            severity: "high".into(),
            window_seconds: 3_600,
            sources: 1,
            highest: Number::Whole(22_543_958),
            highest_source: Some("10.0.0.1".into()),
            highest_condition: Some("sum payload_up".into()),
            highest_unit: Some("bytes".into()),
            highest_threshold: Number::Whole(20_000_000),
        };
        let alert = FiringAlert {
            rule: "r".into(),
            source: "10.0.0.1".into(),
            condition: Some("count".into()),
            unit: Some("flows".into()),
            value: Number::Whole(28),
            threshold: Number::Whole(10),
            ..FiringAlert::default()
        };
        let share = FiringAlert {
            condition: Some("ratio failed/attempts".into()),
            unit: Some(String::new()),
            value: Number::Part(0.75),
            at_bound: true,
            threshold: Number::Part(0.5),
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
