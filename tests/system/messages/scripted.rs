//! Estimate on sessions of named servers, whose packets run through the kernel program.
//!
//! Each class is a row of docs/understand/messages.md.

use std::collections::BTreeMap;

use mailflow_engine::time::Time;
use mailflow_kernel::Programs;
use mailflow_test_support::{
    frame::{FrameBuilder, flag::*},
    reference_dataplane::{Hook, Link, Merged, Model, Shown, Toward, Whose},
};

use super::{
    Row,
    channel::{Channel, Cut, Identity, Tls},
    probes,
    script::{Login, Mail, Mode, Order, Pace, Session, body},
    servers::{SERVERS, Server},
};
use crate::under_test;

const PROGRAM: &str = "tc_mirror";

/// Packets of a session, `true` for the client's, and the number of accepted messages.
pub(super) type Played = (Vec<(bool, Vec<u8>)>, u64);

/// Estimates the messages of sessions, each on its own port.
fn estimates(sessions: &[&Played]) -> Vec<u64> {
    // Limited by the capacity of the flow table.
    sessions.chunks(4_000).flat_map(estimated).collect()
}

fn estimated(sessions: &[&Played]) -> Vec<u64> {
    let mut kernel = under_test::load(&under_test::options(Programs::One(PROGRAM)), &[25]).unwrap();
    let mut model = Model::new(&[25], [5_000, 30_000, 300_000]);
    for (number, (packets, _)) in sessions.iter().enumerate() {
        let (client, server) = (format!("10.20.0.2:{}", 20_000 + number), "93.184.215.25:25");
        let mut sequence = [1_000u32, 9_000];
        let mut show = |up: bool, flags: u8, payload: &[u8]| {
            let (from, to) = if up { (client.as_str(), server) } else { (server, client.as_str()) };
            let next = &mut sequence[usize::from(!up)];
            let frame = FrameBuilder::tcp(from, to, flags).sequence(*next).payload(payload);
            *next = next.wrapping_add(payload.len() as u32 + u32::from(flags & SYN != 0));
            let frame = frame.build();
            kernel.run(PROGRAM, &frame, None).unwrap();
            let (link, hook) = (Link::Ethernet, Hook { toward: Toward::Both, whose: Whose::Any });
            let (merged, length) = (Merged::default(), frame.len());
            let shown = Shown { bytes: &frame, length, link, tag: None, merged, forwarded: false };
            model.count(&shown, hook).unwrap();
        };
        show(true, SYN, &[]);
        show(false, SYN | ACK, &[]);
        packets.iter().for_each(|(up, payload)| show(*up, ACK | PSH, payload));
    }
    let snapshot = kernel.snapshot(Time::from_nanos(1_000_000_000)).unwrap();
    let found: BTreeMap<u16, u64> =
        snapshot.flows.iter().map(|flow| (flow.key.client_port, u64::from(flow.messages))).collect();
    assert_eq!(found.len(), sessions.len(), "a flow a session");
    let expected: BTreeMap<u16, u64> =
        model.flows.iter().map(|(tuple, flow)| (tuple.client.1, u64::from(flow.messages))).collect();
    if let Some((port, messages)) = expected.iter().find(|(port, messages)| found[*port] != **messages) {
        let session = &sessions[usize::from(port - 20_000)];
        panic!("the program says {}, the model {messages}: {session:?}", found[port]);
    }
    found.into_values().collect()
}

const ALL_TLS: [Mode; 8] = [
    Mode::StartTls(Tls::V13, Order::EhloFirst),
    Mode::StartTls(Tls::V13, Order::TicketsFirst),
    Mode::StartTls(Tls::V12, Order::TicketsFirst),
    Mode::StartTls(Tls::V12ChaCha, Order::TicketsFirst),
    Mode::StartTls(Tls::V12Cbc, Order::TicketsFirst),
    Mode::Smtps(Tls::V13),
    Mode::Smtps(Tls::V12),
    Mode::Smtps(Tls::V12Cbc),
];

const PACES: [Pace; 5] = [Pace::Step, Pace::Group, Pace::GroupMerged, Pace::Sender, Pace::Chain];

/// Returns sessions of every kind with one server, whose messages end with these replies.
fn with(
    server: &'static Server,
    modes: &[Mode],
    verdicts: &[&'static str],
    identity: &Identity,
) -> Vec<Played> {
    let mut sessions = Vec::new();
    for mode in modes {
        for pace in PACES {
            for (bytes, mails) in [(700, 1), (9_000, 3)] {
                let number = sessions.len();
                let verdict = |mail| verdicts[(number + mail) % verdicts.len()];
                let mail = |mail| Mail { bytes, recipients: 1, verdict: verdict(mail) };
                let mails = (0..mails).map(mail).collect();
                let login = if matches!(mode, Mode::Smtps(_)) { Login::Plain } else { Login::None };
                let session = Session { server, mode: *mode, pace, login, cut: Cut::Whole, mails, number };
                sessions.push(session.play(identity));
            }
        }
    }
    sessions
}

fn row(sessions: &[Played], estimates: &[u64]) -> Row {
    let mut row = Row::default();
    for ((_, accepted), estimated) in sessions.iter().zip(estimates) {
        row.add(*accepted, *estimated);
    }
    row
}

/// Sessions by class.
type Classes = Vec<(String, Vec<Played>)>;

/// Returns the estimates of each class.
fn judged(classes: &Classes) -> Vec<Vec<u64>> {
    let all: Vec<&Played> = classes.iter().flat_map(|(_, sessions)| sessions).collect();
    let mut estimates = estimates(&all).into_iter();
    classes.iter().map(|(_, sessions)| estimates.by_ref().take(sessions.len()).collect()).collect()
}

/// Returns sessions with each server, in plaintext and inside TLS, whose messages end with some of its
/// replies.
fn by_server(replies: fn(&Server) -> &'static [&'static str]) -> Classes {
    let identity = Identity::generate();
    let class = |server: &'static Server, modes: &[Mode], name| {
        (format!("{}, {name}", server.name), with(server, modes, replies(server), &identity))
    };
    SERVERS
        .iter()
        .flat_map(|server| [class(server, &[Mode::Clear], CLEAR), class(server, &ALL_TLS, TLS)])
        .collect()
}

const CLEAR: &str = "in the clear";
const TLS: &str = "TLS";

#[test]
fn replies_of_each_server_are_recognised() {
    let classes = by_server(|server| server.accepts);
    println!("| server | flows | accepted | estimated | exact | over | under |");
    println!("|---|---|---|---|---|---|---|");
    let (mut clear, mut tls) = (Row::default(), Row::default());
    for ((name, sessions), estimates) in classes.iter().zip(judged(&classes)) {
        let row = row(sessions, &estimates);
        row.print(name);
        if name.ends_with(CLEAR) {
            clear.join(&row);
        } else {
            tls.join(&row);
            // A bare `250` is as long as an alert.
            let least = if name.starts_with("terse") { 0.5 } else { 0.9 };
            assert!(row.exact as f64 >= least * row.sessions as f64, "{name}: {row:?}");
        }
    }
    clear.print("all, in the clear");
    tls.print("all, TLS");
    assert_eq!(clear.exact, clear.sessions, "the reply code decides");
    assert!(tls.exact as f64 >= 0.95 * tls.sessions as f64, "{tls:?}");
}

#[test]
fn plaintext_rejection_after_body_is_no_message() {
    let classes = by_server(|server| server.rejects);
    println!("| server | flows | rejected | counted | share |");
    println!("|---|---|---|---|---|");
    let (mut all, mut counted) = (0, 0);
    for ((name, sessions), estimates) in classes.iter().zip(judged(&classes)) {
        // One mail, then three.
        let rejected = sessions.len() as u64 * 2;
        let estimated: u64 = estimates.iter().sum();
        let share = estimated as f64 / rejected as f64 * 100.0;
        println!("| {name} | {} | {rejected} | {estimated} | {share:.0} % |", sessions.len());
        if name.ends_with(CLEAR) {
            assert_eq!(estimated, 0, "{name}: the reply code says no");
        } else {
            (all, counted) = (all + rejected, counted + estimated);
        }
    }
    println!("| all, TLS | | {all} | {counted} | {:.0} % |", counted as f64 / all as f64 * 100.0);
}

/// Returns two sessions for each login and mode with every third server, with this many mails.
fn logins(modes: &[Mode], logins: &[Login], mails: usize, identity: &Identity) -> Vec<Played> {
    let mut sessions = Vec::new();
    for server in SERVERS.iter().step_by(3) {
        for mode in modes {
            for login in logins {
                for pace in [Pace::Step, Pace::GroupMerged] {
                    let number = sessions.len();
                    let mail = |_| Mail { bytes: 1_500, recipients: 1, verdict: server.accepts[0] };
                    let mails = (0..mails).map(mail).collect();
                    let cut = Cut::Whole;
                    let session = Session { server, mode: *mode, pace, login: *login, cut, mails, number };
                    sessions.push(session.play(identity));
                }
            }
        }
    }
    sessions
}

const GOOD: &str = "235 2.7.0 Authentication successful";
const BAD: &str = "535 5.7.8 Error: authentication failed";
const ERROR: &str = "334 eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiYmVhcmVyIiwic2NvcGUiOiJtYWlsIn0=";
const TOKENS: [Login; 6] = [
    Login::Token(400, GOOD),
    Login::Token(2_200, GOOD),
    Login::Token(1_400, BAD),
    Login::Token(2_200, ERROR),
    Login::Challenged(1_200, BAD),
    Login::Challenged(2_200, GOOD),
];

#[test]
fn other_sessions_are_estimated() {
    let identity = Identity::generate();
    let starttls = |tls| Mode::StartTls(tls, Order::EhloFirst);
    let many = |modes: &[Mode], pace: Pace| -> Vec<Played> {
        let sessions = SERVERS.iter().flat_map(|server| {
            modes.iter().flat_map(move |mode| [7, 12, 40].map(|recipients| (server, *mode, recipients)))
        });
        let played = sessions.enumerate().map(|(number, (server, mode, recipients))| {
            let mail = || Mail { bytes: 3_000, recipients, verdict: server.accepts[0] };
            let mails = (0..1 + number % 3).map(|_| mail()).collect();
            let (login, cut) = (Login::None, Cut::Whole);
            Session { server, mode, pace, login, cut, mails, number }.play(&identity)
        });
        played.collect()
    };
    let cuts = |modes: &[Mode]| -> Vec<Played> {
        let mut sessions = Vec::new();
        for server in &SERVERS {
            for mode in modes {
                for (cut, pace) in [1, 2, 3, 4, 5, 7, 30, 120].into_iter().zip(PACES.iter().cycle()) {
                    let number = sessions.len();
                    let verdict = server.accepts[number % server.accepts.len()];
                    let mails = (0..2).map(|_| Mail { bytes: 900, recipients: 1, verdict }).collect();
                    let (mode, pace, login, cut) = (*mode, *pace, Login::None, Cut::After(cut));
                    sessions.push(Session { server, mode, pace, login, cut, mails, number }.play(&identity));
                }
            }
        }
        sessions
    };
    let small = |mode: Mode| -> Vec<Played> {
        let session = |(number, server): (usize, &'static Server)| {
            let mails =
                [90, 150, 250].map(|bytes| Mail { bytes, recipients: 1, verdict: server.accepts[0] }).into();
            let (pace, login, cut) = (PACES[number % 4], Login::None, Cut::Whole);
            Session { server, mode, pace, login, cut, mails, number }.play(&identity)
        };
        SERVERS.iter().enumerate().map(session).collect()
    };
    let handshakes =
        [Tls::V13Certificate, Tls::V13Retry, Tls::V13LongHello, Tls::V12Certificate, Tls::V12Cbc];
    let modes: Vec<Mode> = handshakes
        .iter()
        .flat_map(|tls| [starttls(*tls), Mode::StartTls(*tls, Order::TicketsFirst), Mode::Smtps(*tls)])
        .collect();
    let none = &[Login::None, Login::Plain][..];
    let clear = &[Mode::Clear][..];

    println!("| class | flows | accepted | estimated | exact | over | under |");
    println!("|---|---|---|---|---|---|---|");
    let mut classes = Classes::new();
    let mut least = Vec::new();
    // The minimum share of exact flows of a class; 0 for the documented limits of docs/understand/messages.md.
    let mut judge = |name: &str, sessions: Vec<Played>, share: f64| {
        classes.push((name.to_owned(), sessions));
        least.push(share);
    };
    judge("replies in two packets, in the clear", cuts(clear), 1.0);
    judge("replies in two packets, TLS", cuts(&ALL_TLS), 0.98);
    judge("many recipients in a group, in the clear", many(clear, Pace::Group), 1.0);
    judge("many recipients in a group, replies merged, in the clear", many(clear, Pace::GroupMerged), 1.0);
    judge("many recipients in a group, TLS", many(&ALL_TLS, Pace::Group), 0.6);
    judge("many recipients in a group, replies merged, TLS", many(&ALL_TLS, Pace::GroupMerged), 0.8);
    judge("many recipients, DATA apart, in the clear", many(clear, Pace::Recipients), 1.0);
    judge("mails of less than 300 B, in the clear", small(Mode::Clear), 1.0);
    judge("mails of less than 300 B, TLS", small(starttls(Tls::V13)), 0.0);
    judge("AUTH with long tokens and no mail, in the clear", logins(clear, &TOKENS, 0, &identity), 1.0);
    judge("AUTH with long tokens and a mail, in the clear", logins(clear, &TOKENS, 1, &identity), 1.0);
    judge("AUTH with long tokens and no mail, TLS", logins(&ALL_TLS, &TOKENS, 0, &identity), 1.0);
    judge("AUTH with long tokens and a mail, TLS", logins(&ALL_TLS, &TOKENS, 1, &identity), 1.0);
    judge("GSSAPI and no mail, TLS", logins(&ALL_TLS, &[Login::Gssapi], 0, &identity), 1.0);
    judge("NTLM and no mail, TLS", logins(&ALL_TLS, &[Login::Ntlm], 0, &identity), 0.0);
    judge("handshakes of other kinds and no mail", logins(&modes, none, 0, &identity), 1.0);
    judge("handshakes of other kinds and a mail", logins(&modes, none, 1, &identity), 0.9);
    judge("TLS where the server spoke in the clear", probes::misplaced(&identity), 1.0);
    judge("BDAT, one chunk a mail, in the clear", probes::chunks(Mode::Clear, 1, false, &identity), 1.0);
    judge(
        "BDAT, four chunks, each awaited, in the clear",
        probes::chunks(Mode::Clear, 4, false, &identity),
        1.0,
    );
    judge("BDAT, four chunks at once, in the clear", probes::chunks(Mode::Clear, 4, true, &identity), 1.0);
    judge("BDAT, one chunk a mail, TLS", probes::chunks(starttls(Tls::V13), 1, false, &identity), 1.0);
    judge(
        "BDAT, four chunks, each awaited, TLS",
        probes::chunks(starttls(Tls::V13), 4, false, &identity),
        0.0,
    );
    judge("LMTP, three recipients", probes::lmtp(), 1.0);
    judge("IMAP, APPEND of 2 kB, in the clear", probes::imap(), 1.0);
    judge("IMAP, APPEND of 2 kB, TLS", probes::imap_in_tls(&identity), 1.0);
    let mut missed = Vec::new();
    for (((name, sessions), estimates), least) in classes.iter().zip(judged(&classes)).zip(least) {
        let row = row(sessions, &estimates);
        row.print(name);
        if (row.exact as f64) < least * row.sessions as f64 {
            missed.push((name, row));
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}

/// Returns a session of exactly these packets.
pub(super) fn written(packets: &[(bool, &[u8])], accepted: u64) -> Played {
    let mut channel = Channel::new(Cut::Whole);
    packets.iter().for_each(|(up, bytes)| channel.push(*up, bytes));
    (channel.packets, accepted)
}

/// Returns a message for [`written`].
pub(super) fn message(bytes: usize) -> Vec<u8> {
    body(bytes).into_bytes()
}
