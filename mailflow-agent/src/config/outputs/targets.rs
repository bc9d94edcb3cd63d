//! `outputs.alerts` and `outputs.flow_log`: one output, or a list of outputs.

use std::{
    collections::{BTreeMap, HashSet},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    receiver::{address, receiver, urls},
    types::{
        AlertDestination, DEFAULT_ALERTS_NAME, DEFAULT_FLOW_LOG_NAME, DeadLetters, FlowDestination, Ipfix,
        IpfixDestination, Profile, Syslog, SyslogDestination, SyslogMessage, Target,
    },
};
use crate::config::{
    amounts::bytes,
    diagnostics::{DiagnosticSink, quote},
    scalar::{Switch, duration_within, target},
    yaml::{
        get::{Cursor, MappingReader},
        tree::Content,
        values::{choice, entries, items, number, or_off, parsed, string},
    },
};

/// Socket of systemd's journal.
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// Default interval of resending firing alerts to Alertmanager.
const DEFAULT_REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// Longest interval that tolerates a lost request within Alertmanager's default `resolve_timeout`.
const MAX_SAFE_REFRESH_INTERVAL: Duration = Duration::from_secs(150);
const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(1);
const MAX_REFRESH_INTERVAL: Duration = Duration::from_secs(600);

/// Default maximum size of a syslog message: rsyslog cuts messages after 8,096 bytes by default. A UDP
/// datagram over IPv4 has at most 65,507 bytes.
const DEFAULT_MESSAGE_BYTES: u64 = 8_000;
const MESSAGE_BYTES_RANGE: RangeInclusive<u64> = 1_000..=65_507;

/// Facilities of RFC 5424 (table 1).
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

/// Output, with the default name of its type.
type NamedOutput<T> = (&'static str, T);

/// Reads `off`, a file, an output, or a list of outputs. Each has a name that is not in `names` yet.
pub(crate) fn read<T>(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    names: &mut HashSet<String>,
    mut one: impl FnMut(&Cursor<'_>, &mut DiagnosticSink) -> Option<(Option<String>, NamedOutput<T>)>,
) -> Option<Vec<(String, T)>> {
    let mut output = |cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink| {
        let (name, (default, to)) = one(cursor, diagnostics)?;
        let name = name.unwrap_or_else(|| default.to_owned());
        if names.insert(name.clone()) {
            return Some((name, to));
        }
        cursor.reject_contents(
            diagnostics,
            format!("another output has the name {name}; give this one its own `name`"),
        )
    };
    match cursor.content() {
        Content::List(_) => items(cursor, diagnostics, output)?.into_iter().collect(),
        Content::Map(_) => Some(vec![output(cursor, diagnostics)?]),
        _ => match or_off(
            cursor,
            diagnostics,
            "a file, - for standard output, an output, a list of them",
            target,
        )? {
            Some(_) => Some(vec![output(cursor, diagnostics)?]),
            None => Some(Vec::new()),
        },
    }
}

/// Reads an output of alerts.
pub(crate) fn alerts(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    directory: &Path,
) -> Option<(Option<String>, NamedOutput<AlertDestination>)> {
    if cursor.text().is_some() {
        let target = parsed(cursor, diagnostics, "a file, or - for standard output", file)?;
        return Some((
            None,
            (DEFAULT_ALERTS_NAME, AlertDestination::Lines { target, profile: Profile::Eve }),
        ));
    }
    MappingReader::read(cursor, diagnostics, |mapping| {
        let name = mapping.optional("name", None, name);
        const KINDS: [&str; 5] = ["file", "journal", "syslog", "alertmanager", "webhook"];
        let to = match kind(mapping, &KINDS)? {
            "file" => {
                let (target, profile) = (mapping.required("path", path), profile(mapping));
                (DEFAULT_ALERTS_NAME, AlertDestination::Lines { target: target?, profile: profile? })
            }
            "journal" => {
                let path = mapping.optional("socket", JOURNAL_SOCKET.into(), |cursor, diagnostics| {
                    string(cursor, diagnostics).map(PathBuf::from)
                });
                let profile = profile(mapping);
                ("alerts_journal", AlertDestination::Journal { path: path?, profile: profile? })
            }
            "syslog" => ("alerts_syslog", AlertDestination::Syslog(syslog(mapping)?)),
            "alertmanager" => {
                let urls = mapping.required("urls", urls);
                let labels = mapping.optional("labels", BTreeMap::new(), labels);
                let every = mapping.optional("every", DEFAULT_REFRESH_INTERVAL, |cursor, diagnostics| {
                    let every =
                        parsed(cursor, diagnostics, "a duration", |text| duration_within(text, [MIN_REFRESH_INTERVAL, MAX_REFRESH_INTERVAL]))?;
                    if every > MAX_SAFE_REFRESH_INTERVAL {
                        cursor.warn(
                            diagnostics,
                            "Alertmanager may resolve alerts that still fire, unless its resolve_timeout (5m by default) is longer than twice this interval",
                        );
                    }
                    Some(every)
                });
                let receiver = receiver(mapping, directory);
                (
                    "alerts_alertmanager",
                    AlertDestination::Alertmanager {
                        urls: urls?,
                        labels: labels?,
                        every: every?,
                        receiver: receiver?,
                    },
                )
            }
            _ => {
                let (url, profile) = (address(mapping, directory), profile(mapping));
                let receiver = receiver(mapping, directory);
                let dead_letters =
                    mapping.optional("dead_letters", DeadLetters::InState, |cursor, diagnostics| {
                        let file = or_off(cursor, diagnostics, "a file", |text| match text {
                            "" | "-" => Err("expected a file, or off".to_owned()),
                            "off" => Ok(Switch::Off),
                            file => Ok(Switch::To(PathBuf::from(file))),
                        })?;
                        Some(file.map_or(DeadLetters::Off, DeadLetters::File))
                    });
                let (url, receiver, profile) = (url?, receiver?, profile?);
                let to = AlertDestination::Webhook { url, receiver, profile, dead_letters: dead_letters? };
                ("alerts_webhook", to)
            }
        };
        Some((name?, to))
    })
}

/// Reads an output of flow records.
pub(crate) fn flows(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
) -> Option<(Option<String>, NamedOutput<FlowDestination>)> {
    if cursor.text().is_some() {
        let target = parsed(cursor, diagnostics, "a file, or - for standard output", file)?;
        return Some((
            None,
            (DEFAULT_FLOW_LOG_NAME, FlowDestination::Lines { target, profile: Profile::Eve }),
        ));
    }
    MappingReader::read(cursor, diagnostics, |mapping| {
        let name = mapping.optional("name", None, name);
        let to = match kind(mapping, &["file", "ipfix"])? {
            "file" => {
                let (target, profile) = (mapping.required("path", path), profile(mapping));
                (DEFAULT_FLOW_LOG_NAME, FlowDestination::Lines { target: target?, profile: profile? })
            }
            _ => {
                let to = mapping.required("to", |cursor, diagnostics| {
                    let expected = "udp:HOST:PORT or tcp:HOST:PORT";
                    parsed(cursor, diagnostics, expected, |text| match text.split_once(':') {
                        Some(("udp", address)) => host_port(address).map(IpfixDestination::Udp),
                        Some(("tcp", address)) => host_port(address).map(IpfixDestination::Tcp),
                        _ => Err(format!("expected {expected}, such as udp:192.0.2.1:4739")),
                    })
                });
                let domain = mapping
                    .optional("domain", 1, |cursor, diagnostics| number(cursor, diagnostics, 0..=u32::MAX));
                ("flow_log_ipfix", FlowDestination::Ipfix(Ipfix { to: to?, domain: domain? }))
            }
        };
        Some((name?, to))
    })
}

/// Reads `type`, which must be one of `kinds`.
fn kind(mapping: &mut MappingReader<'_, '_>, kinds: &'static [&'static str]) -> Option<&'static str> {
    let found = mapping.required("type", |cursor, diagnostics| {
        let named = kinds.iter().map(|kind| (*kind, *kind)).collect::<Vec<_>>();
        choice(cursor, diagnostics, &named)
    });
    // The known keys depend on the type.
    if found.is_none() {
        mapping.accept_all_keys();
    }
    found
}

fn syslog(mapping: &mut MappingReader<'_, '_>) -> Option<Syslog> {
    let to = mapping.required("to", |cursor, diagnostics| {
        let expected = "unix:PATH, udp:HOST:PORT or tcp:HOST:PORT";
        parsed(cursor, diagnostics, expected, |text| match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(SyslogDestination::Unix(path.into())),
            Some(("udp", address)) => host_port(address).map(SyslogDestination::Udp),
            Some(("tcp", address)) => host_port(address).map(SyslogDestination::Tcp),
            _ => Err(format!("expected {expected}, such as udp:192.0.2.1:514")),
        })
    });
    let facility =
        mapping.optional("facility", 3, |cursor, diagnostics| choice(cursor, diagnostics, &FACILITIES));
    let mut messages = vec![("text", SyslogMessage::Text)];
    messages.extend(Profile::ALL.map(|profile| (profile.name(), SyslogMessage::Json(profile))));
    let message = mapping.optional("message", SyslogMessage::Text, |cursor, diagnostics| {
        choice(cursor, diagnostics, &messages)
    });
    let max_size = mapping.optional("max_size", DEFAULT_MESSAGE_BYTES, |cursor, diagnostics| {
        bytes(cursor, diagnostics, MESSAGE_BYTES_RANGE)
    });
    let max_size = usize::try_from(max_size?).unwrap_or(usize::MAX);
    Some(Syslog { to: to?, facility: facility?, message: message?, max_size })
}

fn profile(mapping: &mut MappingReader<'_, '_>) -> Option<Profile> {
    let profiles = Profile::ALL.map(|profile| (profile.name(), profile));
    mapping.optional("profile", Profile::Eve, |cursor, diagnostics| choice(cursor, diagnostics, &profiles))
}

fn path(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<Target> {
    parsed(cursor, diagnostics, "a file, or - for standard output", file)
}

fn file(text: &str) -> Result<Target, String> {
    match Option::from(target(text)?) {
        Some(target) => Ok(target),
        None => Err("expected a file, or - for standard output".to_owned()),
    }
}

/// Reads the name of an output, which is a label value in metrics and appears in logs.
fn name(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<Option<String>> {
    let name = string(cursor, diagnostics)?;
    let is_valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.".contains(&byte);
    if (1..=40).contains(&name.len()) && name.bytes().all(is_valid) {
        return Some(Some(name.to_owned()));
    }
    cursor.reject(diagnostics, "expected a name of at most 40 of a-z, 0-9, _, - and .")
}

fn labels(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<BTreeMap<String, String>> {
    let read = entries(cursor, diagnostics, |name, cursor, diagnostics| {
        let mut letters = name.bytes();
        let first = letters.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        if !first || !letters.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return cursor
                .reject_contents(diagnostics, "expected a label name of letters, digits and underscores");
        }
        Some((name.to_owned(), string(cursor, diagnostics)?.to_owned()))
    })?;
    Some(read.into_iter().collect())
}

/// Checks the form of `HOST:PORT`, without resolving the name.
fn host_port(text: &str) -> Result<String, String> {
    let expected =
        || format!("expected HOST:PORT after the colon, such as 192.0.2.1:514, not {}", quote(text));
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let bare = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
    let port = port.parse::<u16>().is_ok_and(|port| port > 0);
    let host = !host.is_empty() && bare && !host.contains(char::is_whitespace) && !host.contains('/');
    if host && port { Ok(text.to_owned()) } else { Err(expected()) }
}
