//! Journal and syslog, as their servers receive messages.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    net::{TcpListener, UdpSocket},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    time::Duration,
};

use mailflow_agent::config::{AlertDestination, Profile, Syslog, SyslogDestination, SyslogMessage};
use mailflow_engine::event::Alert;
use serde_json::Value;

use crate::peer::{PATIENCE, SENTENCE, alert, event, numbers, resolved, sink, until};

fn socket_path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("mailflow-{name}-{}", std::process::id()));
    let _ = fs::remove_file(&path);
    path
}

fn receive(socket: &UnixDatagram) -> Vec<u8> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let length = socket.recv(&mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

/// Parses the fields of systemd's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).
fn fields(mut datagram: &[u8]) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut fields = BTreeMap::new();
    while !datagram.is_empty() {
        let end = datagram.iter().position(|byte| *byte == b'\n').unwrap();
        let (line, rest) = (&datagram[..end], &datagram[end + 1..]);
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            fields.insert(text(&line[..equals]), text(&line[equals + 1..]));
            datagram = rest;
        } else {
            let length = usize::try_from(u64::from_le_bytes(rest[..8].try_into().unwrap())).unwrap();
            fields.insert(text(line), text(&rest[8..8 + length]));
            assert_eq!(rest[8 + length], b'\n');
            datagram = &rest[9 + length..];
        }
    }
    fields
}

#[test]
fn journal_event_has_fields() {
    let path = socket_path("journal");
    let journal = UnixDatagram::bind(&path).unwrap();
    let sink = sink(AlertDestination::Journal { path: path.clone(), profile: Profile::Eve });
    let mut firing = alert(1);
    firing.group = Some("two\nlines".into());
    sink.push(event(&firing));
    let found = fields(&receive(&journal));
    for (name, value) in [
        ("MESSAGE", SENTENCE),
        ("PRIORITY", "3"),
        ("MAILFLOW_LIKE_A_RELAY", "30 of 31 sessions delivered mail, to 12 servers"),
        ("SYSLOG_IDENTIFIER", "mailflow-agent"),
        ("MAILFLOW_RULE", "smtp-burst"),
        ("MAILFLOW_STATE", "firing"),
        ("MAILFLOW_CONDITION", "count"),
        ("MAILFLOW_UNIT", "flows"),
        ("MAILFLOW_GATEWAY", "gw1.example"),
        ("MAILFLOW_INTERFACES", "lan0"),
        ("MAILFLOW_SOURCE", "10.0.0.9"),
        ("MAILFLOW_GROUP", "two\nlines"),
        ("MAILFLOW_FINGERPRINT", firing.fingerprint.as_str()),
        ("MAILFLOW_STARTS_AT", "2026-11-21T03:31:04.000000Z"),
    ] {
        assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}");
    }
    let event_line: Value = serde_json::from_str(&found["MAILFLOW_EVENT"]).unwrap();
    assert_eq!(event_line["flows"].as_array().unwrap().len(), 2);
    assert_eq!(found["MESSAGE_ID"].len(), 32);
    assert!(!found.contains_key("MAILFLOW_ENDS_AT"));

    // The journal restarts with another socket of the same name, and an event comes meanwhile.
    drop(journal);
    fs::remove_file(&path).unwrap();
    sink.push(event(&resolved(&firing)));
    until("an error", || sink.counters().errors.get() > 0);
    let journal = UnixDatagram::bind(&path).unwrap();
    let found = fields(&receive(&journal));
    assert_eq!((found["PRIORITY"].as_str(), found["MAILFLOW_STATE"].as_str()), ("6", "resolved"));
    assert_eq!(found["MAILFLOW_ENDS_AT"], "2026-11-21T03:31:09.000000Z");
    until("counted", || numbers(&sink) == (2, 0, 0));
    fs::remove_file(&path).unwrap();
}

#[test]
fn oversized_journal_event_omits_flows() {
    let path = socket_path("journal-long");
    let journal = UnixDatagram::bind(&path).unwrap();
    let sink = sink(AlertDestination::Journal { path: path.clone(), profile: Profile::Eve });
    let mut long = alert(1);
    // A socket accepts 208 kB.
    long.flows = vec![long.flows[0].clone(); 400];
    sink.push(event(&long));
    let found = fields(&receive(&journal));
    let line: Value = serde_json::from_str(&found["MAILFLOW_EVENT"]).unwrap();
    assert_eq!(
        (line["flows"].as_array().unwrap().len(), &line["mailflow"]["flows_omitted"]),
        (0, &400.into())
    );
    until("counted", || numbers(&sink) == (1, 0, 0));
    fs::remove_file(&path).unwrap();
}

fn syslog(to: SyslogDestination, message: SyslogMessage) -> AlertDestination {
    AlertDestination::Syslog(Syslog { to, facility: 2, message, max_size: 8_000 })
}

/// Splits a message into header, structured data and text (RFC 5424, 6).
fn parts(message: &str) -> (Vec<&str>, &str, &str) {
    let (header, rest) = message.split_once(" [").unwrap();
    let end = rest.match_indices(']').find(|(at, _)| !rest[..*at].ends_with('\\')).unwrap().0;
    (header.split(' ').collect(), &rest[..end], &rest[end + 2..])
}

#[test]
fn syslog_message_has_every_part_of_rfc_5424() {
    let path = socket_path("syslog");
    let server = UnixDatagram::bind(&path).unwrap();
    let sink = sink(syslog(SyslogDestination::Unix(path.clone()), SyslogMessage::Text));
    let mut odd = alert(1);
    odd.rule = "a\"b]c\\d".into();
    sink.push(event(&odd));
    let message = String::from_utf8(receive(&server)).unwrap();
    let (header, data, text) = parts(&message);
    // Facility mail (2), severity error (3).
    assert_eq!(header[0], "<19>1");
    assert_eq!(header[1], "2026-11-21T03:31:05.000000Z");
    assert_eq!(header[2], "gw1.example");
    assert_eq!(header[3], "mailflow-agent");
    assert_eq!((header[4], header[5]), (std::process::id().to_string().as_str(), "alert"));
    assert!(data.starts_with("mailflow@32473 rule=\"a\\\"b\\]c\\\\d\" state=\"firing\" "), "{data}");
    assert!(
        data.contains(" source=\"10.0.0.9\" ")
            && data.contains(" condition=\"count\" unit=\"flows\" value=\"10\" "),
        "{data}"
    );
    assert!(data.ends_with(" gateway=\"gw1.example\" interfaces=\"lan0\""), "{data}");
    assert!(text.ends_with(&SENTENCE["smtp-burst firing: ".len()..]), "{text}");
    fs::remove_file(&path).unwrap();
}

#[test]
fn oversized_syslog_message_has_fewer_flows() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = SyslogDestination::Udp(server.local_addr().unwrap().to_string());
    let sink = sink(syslog(to, SyslogMessage::Json(Profile::Eve)));
    let small = alert(1);
    let mut large = alert(2);
    large.flows = vec![small.flows[0].clone(); 200];
    sink.push(event(&small));
    sink.push(event(&large));
    let mut buffer = vec![0; 1 << 16];
    let mut next = || {
        let length = server.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let (first, second) = (next(), next());
    let line: Value = serde_json::from_str(parts(&first).2).unwrap();
    assert_eq!(line["flows"].as_array().unwrap().len(), 2);
    assert!(second.len() <= 8_000, "{}", second.len());
    let line: Value = serde_json::from_str(parts(&second).2).unwrap();
    let shown = line["flows"].as_array().unwrap().len();
    assert_eq!(line["mailflow"]["flows_omitted"], 200 - shown);
    assert!(shown > 3, "as many as there is room for: {shown}");
    until("counted", || numbers(&sink) == (2, 0, 0));
}

/// Returns an alert with this many flows, and with multi-byte characters in many fields.
fn wide(number: u64, flows: usize) -> Alert {
    let mut alert = alert(number);
    alert.flows = (0..flows).map(|index| alert.flows[index % 2].clone()).collect();
    alert.group = Some("Büro \u{1f4e7}".repeat(6));
    alert.suppressed = None;
    alert.labels.insert("Straße".into(), "ä€\u{1f4e7}".repeat(11));
    alert.rule = "r\u{e9}gle".into();
    alert
}

#[test]
fn syslog_message_is_within_limit_and_complete() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = SyslogDestination::Udp(server.local_addr().unwrap().to_string());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let forms = Profile::ALL.map(SyslogMessage::Json).into_iter().chain([SyslogMessage::Text]);
    let (mut lines, mut sentences) = (0, 0);
    for form in forms {
        for max_size in [1_000, 1_400, 2_048, 3_001, 8_000, 20_000, 65_507] {
            let settings = |to| AlertDestination::Syslog(Syslog { to, facility: 2, message: form, max_size });
            let sink = self::sink(settings(to.clone()));
            let tcp =
                self::sink(settings(SyslogDestination::Tcp(listener.local_addr().unwrap().to_string())));
            for flows in [0, 1, 12, 20, 200] {
                let whole = wide(1, flows);
                sink.push(event(&whole));
                let mut buffer = vec![0; 1 << 17];
                let length = server.recv(&mut buffer).unwrap();
                assert!(length <= max_size, "{length} of {max_size}, {form:?}, {flows} flows");
                let message = std::str::from_utf8(&buffer[..length]).unwrap();
                let Some((_, json)) = message.split_once(" {") else {
                    sentences += 1;
                    assert!(message.contains("has count 10 flows") || message.ends_with("..."), "{message}");
                    continue;
                };
                lines += 1;
                let line: Value = serde_json::from_str(&format!("{{{json}")).unwrap();
                let (ours, shown) = match form {
                    SyslogMessage::Json(Profile::Ocsf) => {
                        (&line["unmapped"]["mailflow"], &line["unmapped"]["flows"])
                    }
                    SyslogMessage::Json(Profile::Ecs) => (&line["mailflow"], &line["mailflow"]["flows"]),
                    _ => (&line["mailflow"], &line["flows"]),
                };
                let shown = shown.as_array().unwrap().len();
                assert_eq!(ours["flows_omitted"], flows - shown);
                assert!(
                    shown == flows || length + 1_000 > max_size,
                    "{shown} of {flows} in {length} of {max_size}"
                );
                // Over TCP the message is equal, with its length before it.
                if flows == 200 {
                    let mut connection = BufReader::new(listener.accept_after(|| tcp.push(event(&whole))));
                    assert_eq!(self::message(&mut connection), message);
                }
            }
        }
    }
    assert!(lines > 60 && sentences > 35, "{lines} {sentences}");
}

#[test]
fn tcp_syslog_has_lengths_and_resumes_after_reconnect() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let sink = sink(syslog(SyslogDestination::Tcp(addr.to_string()), SyslogMessage::Text));
    let mut connection = BufReader::new(listener.accept_after(|| sink.push(event(&alert(1)))));
    sink.push(event(&alert(2)));
    let read = |connection: &mut BufReader<_>| message(connection);
    assert!(read(&mut connection).contains("fingerprint=\"0000000000000001\""));
    assert!(read(&mut connection).contains("fingerprint=\"0000000000000002\""));
    until("counted", || numbers(&sink) == (2, 0, 0));

    drop(connection);
    drop(listener);
    for number in 3..10 {
        sink.push(event(&alert(number)));
    }
    until("an error", || sink.counters().errors.get() > 0);
    let listener = TcpListener::bind(addr).unwrap();
    let mut connection = BufReader::new(listener.accept_after(|| ()));
    for number in 3..10 {
        let message = read(&mut connection);
        assert!(message.contains(&format!("fingerprint=\"{number:016x}\"")), "{message}");
    }
    until("counted", || numbers(&sink) == (9, 0, 0));
}

/// Accepts the connection that `cause` triggers.
trait AcceptAfter {
    fn accept_after(&self, cause: impl FnOnce()) -> std::net::TcpStream;
}

impl AcceptAfter for TcpListener {
    fn accept_after(&self, cause: impl FnOnce()) -> std::net::TcpStream {
        cause();
        let stream = self.accept().unwrap().0;
        stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        stream
    }
}

/// Reads a message with its length before it (RFC 6587, 3.4.1).
fn message(connection: &mut impl BufRead) -> String {
    let mut length = Vec::new();
    connection.read_until(b' ', &mut length).unwrap();
    let length: usize = String::from_utf8(length).unwrap().trim_end().parse().unwrap();
    let mut message = vec![0; length];
    connection.read_exact(&mut message).unwrap();
    String::from_utf8(message).unwrap()
}
