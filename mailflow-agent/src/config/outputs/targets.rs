//! `outputs.alerts` and `outputs.flow_log`: one output or a list of them.

use std::{
    collections::{BTreeMap, HashSet},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    receiver::{address, receiver, urls},
    types::{
        ALERTS, AlertTo, DeadLetters, FLOW_LOG, FlowTo, Ipfix, IpfixTo, Profile, Syslog, SyslogMessage,
        SyslogTo, Target,
    },
};
use crate::config::{
    amounts::bytes,
    diagnostics::{Collector, quote},
    scalar::{Switch, duration_within, target},
    yaml::{
        get::{At, Fields},
        tree::Content,
        values::{choice, entries, items, number, or_off, parsed, string},
    },
};

/// Where systemd's journal listens.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// How often Alertmanager is told what fires, and the bounds of that.
const EVERY: Duration = Duration::from_secs(60);
/// The longest one that leaves room for a lost post within an Alertmanager's default `resolve_timeout`.
const SAFE: Duration = Duration::from_secs(150);
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(600);

/// Most bytes of a syslog message, and the bounds of that: rsyslog keeps 8,096 of a message unless told otherwise,
/// and a UDP datagram over IPv4 has at most 65,507.
const MAX_SIZE: u64 = 8_000;
const SIZES: RangeInclusive<u64> = 1_000..=65_507;

/// RFC 5424's facilities, by their numbers (table 1).
const FACILITIES: [(&str, u8); 20] = [
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

/// What one kind of output is, with its default name.
type Named<T> = (&'static str, T);

/// Reads `off`, a file, an output, or a list of them, each with its name. No two have the same in `names`.
pub(crate) fn read<T>(
    at: &At<'_>,
    faults: &mut Collector,
    names: &mut HashSet<String>,
    mut one: impl FnMut(&At<'_>, &mut Collector) -> Option<(Option<String>, Named<T>)>,
) -> Option<Vec<(String, T)>> {
    let mut output = |at: &At<'_>, faults: &mut Collector| {
        let (name, (default, to)) = one(at, faults)?;
        let name = name.unwrap_or_else(|| default.to_owned());
        if names.insert(name.clone()) {
            return Some((name, to));
        }
        at.fault_inside(faults, format!("another output is called {name}; give this one a `name`"))
    };
    match at.content() {
        Content::List(_) => items(at, faults, output)?.into_iter().collect(),
        Content::Map(_) => Some(vec![output(at, faults)?]),
        _ => match or_off(at, faults, "a file, - for standard output, an output, a list of them", target)? {
            Some(_) => Some(vec![output(at, faults)?]),
            None => Some(Vec::new()),
        },
    }
}

/// An output for alerts.
pub(crate) fn alerts(
    at: &At<'_>,
    faults: &mut Collector,
    directory: &Path,
) -> Option<(Option<String>, Named<AlertTo>)> {
    if at.text().is_some() {
        let target = parsed(at, faults, "a file, or - for standard output", file)?;
        return Some((None, (ALERTS, AlertTo::Lines { target, profile: Profile::Eve })));
    }
    Fields::read(at, faults, |fields| {
        let name = fields.or("name", None, name);
        const KINDS: [&str; 5] = ["file", "journal", "syslog", "alertmanager", "webhook"];
        let to = match kind(fields, &KINDS)? {
            "file" => {
                let (target, profile) = (fields.needed("path", path), profile(fields));
                (ALERTS, AlertTo::Lines { target: target?, profile: profile? })
            }
            "journal" => {
                let path =
                    fields.or("socket", JOURNAL.into(), |at, faults| string(at, faults).map(PathBuf::from));
                let profile = profile(fields);
                ("alerts_journal", AlertTo::Journal { path: path?, profile: profile? })
            }
            "syslog" => ("alerts_syslog", AlertTo::Syslog(syslog(fields)?)),
            "alertmanager" => {
                let urls = fields.needed("urls", urls);
                let labels = fields.or("labels", BTreeMap::new(), labels);
                let every = fields.or("every", EVERY, |at, faults| {
                    let every =
                        parsed(at, faults, "a duration", |text| duration_within(text, [SHORTEST, LONGEST]))?;
                    if every > SAFE {
                        at.warn(
                            faults,
                            "an Alertmanager whose resolve_timeout is not longer than twice this (it is 5m unless \
                             configured) ends alerts that still fire",
                        );
                    }
                    Some(every)
                });
                let receiver = receiver(fields, directory);
                (
                    "alerts_alertmanager",
                    AlertTo::Alertmanager {
                        urls: urls?,
                        labels: labels?,
                        every: every?,
                        receiver: receiver?,
                    },
                )
            }
            _ => {
                let (url, profile) = (address(fields, directory), profile(fields));
                let receiver = receiver(fields, directory);
                let dead_letters = fields.or("dead_letters", DeadLetters::InState, |at, faults| {
                    let file = or_off(at, faults, "a file", |text| match text {
                        "" | "-" => Err("expected a file, or off".to_owned()),
                        "off" => Ok(Switch::Off),
                        file => Ok(Switch::To(PathBuf::from(file))),
                    })?;
                    Some(file.map_or(DeadLetters::Off, DeadLetters::File))
                });
                let (url, receiver, profile) = (url?, receiver?, profile?);
                let to = AlertTo::Webhook { url, receiver, profile, dead_letters: dead_letters? };
                ("alerts_webhook", to)
            }
        };
        Some((name?, to))
    })
}

/// An output for flow records.
pub(crate) fn flows(at: &At<'_>, faults: &mut Collector) -> Option<(Option<String>, Named<FlowTo>)> {
    if at.text().is_some() {
        let target = parsed(at, faults, "a file, or - for standard output", file)?;
        return Some((None, (FLOW_LOG, FlowTo::Lines { target, profile: Profile::Eve })));
    }
    Fields::read(at, faults, |fields| {
        let name = fields.or("name", None, name);
        let to = match kind(fields, &["file", "ipfix"])? {
            "file" => {
                let (target, profile) = (fields.needed("path", path), profile(fields));
                (FLOW_LOG, FlowTo::Lines { target: target?, profile: profile? })
            }
            _ => {
                let to = fields.needed("to", |at, faults| {
                    let expected = "udp:HOST:PORT or tcp:HOST:PORT";
                    parsed(at, faults, expected, |text| match text.split_once(':') {
                        Some(("udp", address)) => host_port(address).map(IpfixTo::Udp),
                        Some(("tcp", address)) => host_port(address).map(IpfixTo::Tcp),
                        _ => Err(format!("expected {expected}, such as udp:192.0.2.1:4739")),
                    })
                });
                let domain = fields.or("domain", 1, |at, faults| number(at, faults, 0..=u32::MAX));
                ("flow_log_ipfix", FlowTo::Ipfix(Ipfix { to: to?, domain: domain? }))
            }
        };
        Some((name?, to))
    })
}

/// What `type` says, which must be one of `kinds`.
fn kind(fields: &mut Fields<'_, '_>, kinds: &'static [&'static str]) -> Option<&'static str> {
    let found = fields.needed("type", |at, faults| {
        let named = kinds.iter().map(|kind| (*kind, *kind)).collect::<Vec<_>>();
        choice(at, faults, &named)
    });
    // Without it nothing can be said of the other keys.
    if found.is_none() {
        fields.know_all();
    }
    found
}

fn syslog(fields: &mut Fields<'_, '_>) -> Option<Syslog> {
    let to = fields.needed("to", |at, faults| {
        let expected = "unix:PATH, udp:HOST:PORT or tcp:HOST:PORT";
        parsed(at, faults, expected, |text| match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(SyslogTo::Unix(path.into())),
            Some(("udp", address)) => host_port(address).map(SyslogTo::Udp),
            Some(("tcp", address)) => host_port(address).map(SyslogTo::Tcp),
            _ => Err(format!("expected {expected}, such as udp:192.0.2.1:514")),
        })
    });
    let facility = fields.or("facility", 3, |at, faults| choice(at, faults, &FACILITIES));
    let mut messages = vec![("text", SyslogMessage::Text)];
    messages.extend(Profile::ALL.map(|profile| (profile.name(), SyslogMessage::Json(profile))));
    let message = fields.or("message", SyslogMessage::Text, |at, faults| choice(at, faults, &messages));
    let max_size = fields.or("max_size", MAX_SIZE, |at, faults| bytes(at, faults, SIZES));
    let max_size = usize::try_from(max_size?).unwrap_or(usize::MAX);
    Some(Syslog { to: to?, facility: facility?, message: message?, max_size })
}

fn profile(fields: &mut Fields<'_, '_>) -> Option<Profile> {
    let profiles = Profile::ALL.map(|profile| (profile.name(), profile));
    fields.or("profile", Profile::Eve, |at, faults| choice(at, faults, &profiles))
}

fn path(at: &At<'_>, faults: &mut Collector) -> Option<Target> {
    parsed(at, faults, "a file, or - for standard output", file)
}

fn file(text: &str) -> Result<Target, String> {
    match Option::from(target(text)?) {
        Some(target) => Ok(target),
        None => Err("expected a file, or - for standard output".to_owned()),
    }
}

/// The name of an output: it is a label's value and stands in logs.
fn name(at: &At<'_>, faults: &mut Collector) -> Option<Option<String>> {
    let name = string(at, faults)?;
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.".contains(&byte);
    if (1..=40).contains(&name.len()) && name.bytes().all(fits) {
        return Some(Some(name.to_owned()));
    }
    at.fault(faults, "expected a name of at most 40 of a-z, 0-9, _, - and .")
}

fn labels(at: &At<'_>, faults: &mut Collector) -> Option<BTreeMap<String, String>> {
    let read = entries(at, faults, |name, at, faults| {
        let mut letters = name.bytes();
        let first = letters.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        if !first || !letters.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return at.fault_inside(faults, "a label's name has letters, digits and underscores");
        }
        Some((name.to_owned(), string(at, faults)?.to_owned()))
    })?;
    Some(read.into_iter().collect())
}

/// `HOST:PORT`, checked as far as that goes without asking anybody.
fn host_port(text: &str) -> Result<String, String> {
    let expected =
        || format!("expected HOST:PORT after the colon, such as 192.0.2.1:514, not {}", quote(text));
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let bare = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
    let port = port.parse::<u16>().is_ok_and(|port| port > 0);
    let host = !host.is_empty() && bare && !host.contains(char::is_whitespace) && !host.contains('/');
    if host && port { Ok(text.to_owned()) } else { Err(expected()) }
}
