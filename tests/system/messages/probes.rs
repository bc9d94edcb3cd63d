//! Sessions that deviate from the usual dialogue of a mail client and a mail server.

use super::{
    channel::{Channel, Cut, Identity, Tls},
    script::{Login, Mode, Pace, Session},
    scripted::{Played, message, written},
    servers::SERVERS,
};

/// Returns a ClientHello, with or without a post-quantum key share.
fn hello(tls: Tls, identity: &Identity) -> Vec<Vec<u8>> {
    let mut channel = Channel::new(Cut::Whole);
    channel.handshake(tls, identity, None);
    channel.packets.into_iter().take_while(|(up, _)| *up).map(|(_, packet)| packet).collect()
}

/// Returns sessions with TLS at a server that speaks plaintext, or no TLS.
pub(super) fn misplaced(identity: &Identity) -> Vec<Played> {
    let answers: [&[&[u8]]; 9] = [
        &[b"\x15\x03\x03\x00\x02\x02\x28"],
        &[b"\x15\x03\x01\x00\x02\x01\x00", b"\x15\x03\x01\x00\x02\x02\x0a"],
        &[b"500 5.5.2 Error: bad syntax\r\n"],
        &[b"502 5.5.1 Command not implemented\r\n", b"421 4.7.0 Too many errors\r\n"],
        &[b"554 5.7.0 Error: SSL_accept failed\r\n"],
        &[b"500 Syntax error, command unrecognized\r\n500 Syntax error, command unrecognized\r\n"],
        &[b"5", b"00 what\r\n"],
        &[b"\x00\x00\x00"],
        &[],
    ];
    let before: [&[(bool, &[u8])]; 7] = [
        &[(false, b"220 mx.example.org ESMTP Postfix\r\n")],
        &[(false, b"554 5.7.1 No service for you\r\n")],
        &[],
        &[(false, b"220 mx\r\n"), (true, b"EHLO a.example\r\n"), (false, b"250-mx\r\n250 STARTTLS\r\n")],
        &[
            (false, b"220 mx.example.org ESMTP\r\n"),
            (true, b"EHLO a.example\r\n"),
            (false, b"250-mx\r\n250 STARTTLS\r\n"),
            (true, b"STARTTLS\r\n"),
            (false, b"454 4.7.0 TLS not available due to local problem\r\n"),
        ],
        &[
            (false, b"220 mx.example.org ESMTP\r\n"),
            (true, b"EHLO a.example\r\n"),
            (false, b"250 mx\r\n"),
            (true, b"STARTTLS\r\n"),
            (false, b"502 5.5.1 Not implemented\r\n"),
        ],
        &[(false, b"220 mx\r\n"), (true, b"STARTTLS\r\n"), (false, b"220 2.0.0 Ready to start TLS\r\n")],
    ];
    let mut sessions = Vec::new();
    for tls in [Tls::V13, Tls::V13LongHello, Tls::V12] {
        let hello = hello(tls, identity);
        for before in before {
            for answer in answers {
                let mut packets = before.to_vec();
                packets.extend(hello.iter().map(|packet| (true, &packet[..])));
                // The greeting may arrive after the client's timeout for a ServerHello.
                if before.is_empty() {
                    packets.push((false, b"220 mx.example.org ESMTP\r\n"));
                }
                packets.extend(answer.iter().map(|packet| (false, *packet)));
                // Some clients retry once.
                packets.extend(hello.iter().map(|packet| (true, &packet[..])));
                packets.extend(answer.iter().map(|packet| (false, *packet)));
                sessions.push(written(&packets, 0));
            }
        }
    }
    sessions
}

/// Returns two mails in chunks (RFC 3030), with a reply before the next chunk or all sent at once.
pub(super) fn chunks(mode: Mode, chunks: usize, at_once: bool, identity: &Identity) -> Vec<Played> {
    let play = |(number, server)| {
        let session = Session {
            server,
            mode,
            pace: Pace::Step,
            login: Login::None,
            cut: Cut::Whole,
            mails: vec![],
            number,
        };
        let mut channel = session.start(identity);
        for _ in 0..2 {
            session.say(&mut channel, "MAIL FROM:<alice@corp.example> BODY=BINARYMIME", &[server.sender]);
            session.say(&mut channel, "RCPT TO:<bob@example.org>", &[server.recipient]);
            for chunk in 1..=chunks {
                let text =
                    message([40, 4_000][usize::from(chunk != chunks || chunks == 1 || number % 2 == 0)]);
                let last = if chunk == chunks { " LAST" } else { "" };
                let command = format!("BDAT {}{last}\r\n", text.len());
                if number % 3 == 0 {
                    channel.send(true, command.as_bytes());
                    channel.send(true, &text);
                } else {
                    channel.send(true, &[command.as_bytes(), &text].concat());
                }
                if !at_once {
                    let reply = if chunk == chunks { server.accepts[0] } else { "250 2.0.0 chunk received" };
                    session.reply(&mut channel, &[reply]);
                }
            }
            if at_once {
                let replies = vec!["250 2.0.0 chunk received"; chunks - 1];
                session.reply(&mut channel, &[&replies[..], &[server.accepts[0]]].concat());
            }
        }
        session.say(&mut channel, "QUIT", &[server.quit]);
        (channel.packets, 2)
    };
    SERVERS.iter().enumerate().filter(|(_, server)| server.name != "terse server").map(play).collect()
}

/// Returns LMTP deliveries (RFC 2033): a reply for each recipient, in one packet or several.
pub(super) fn lmtp() -> Vec<Played> {
    let replies: [&[u8]; 3] = [
        b"250 2.0.0 <ann@example.org> a1b2 Saved\r\n",
        b"250 2.0.0 <bob@example.org> a1b2 Saved\r\n",
        b"550 5.1.1 <eve@example.org> No such user\r\n",
    ];
    let text = message(2_000);
    let before: [(bool, &[u8]); 8] = [
        (false, b"220 mail.example.org LMTP ready\r\n"),
        (true, b"LHLO mx.example.org\r\n"),
        (false, b"250-mail\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 PIPELINING\r\n"),
        (
            true,
            b"MAIL FROM:<a@b.example>\r\nRCPT TO:<ann@example.org>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n",
        ),
        (false, b"250 2.1.0 OK\r\n"),
        (false, b"250 2.1.5 OK\r\n250 2.1.5 OK\r\n354 OK\r\n"),
        (true, &text),
        (true, b"QUIT\r\n"),
    ];
    let merged = replies.concat();
    let apart: Vec<(bool, &[u8])> = replies.iter().map(|reply| (false, *reply)).collect();
    [apart, vec![(false, &merged[..])]].map(|replies| written(&[&before[..], &replies].concat(), 1)).into()
}

/// Returns sessions that append to a mailbox (RFC 9051, 6.3.12): each append counts as a message.
pub(super) fn imap() -> Vec<Played> {
    let text = message(2_000);
    [&b"a4 OK [APPENDUID 1 2] APPEND completed\r\n"[..], b"250 OK [APPENDUID 1 2] APPEND completed\r\n"]
        .map(|reply| {
            let packets: [(bool, &[u8]); 8] = [
                (false, b"* OK [CAPABILITY IMAP4rev1] ready\r\n"),
                (true, b"a1 LOGIN bob secret\r\n"),
                (false, b"a1 OK Logged in\r\n"),
                (true, b"a4 APPEND Sent (\\Seen) {2000}\r\n"),
                (false, b"+ OK\r\n"),
                (true, &text),
                (false, reply),
                (true, b"a5 LOGOUT\r\n"),
            ];
            written(&packets, 1)
        })
        .into()
}

/// Returns the same sessions inside TLS, with the append in the third turn.
pub(super) fn imap_in_tls(identity: &Identity) -> Vec<Played> {
    let play = |tls| {
        let mut channel = Channel::new(Cut::Whole);
        channel.send(false, b"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n");
        channel.send(true, b"a1 STARTTLS\r\n");
        channel.send(false, b"a1 OK Begin TLS negotiation now.\r\n");
        channel.handshake(tls, identity, None);
        let turns: [(&[u8], &[u8]); 4] = [
            (b"a2 LOGIN bob secret\r\n", b"a2 OK Logged in\r\n"),
            (b"a3 APPEND Sent (\\Seen) {2000}\r\n", b"+ OK\r\n"),
            (&message(2_000), b"a3 OK [APPENDUID 1 2] APPEND completed\r\n"),
            (b"a4 LOGOUT\r\n", b"* BYE\r\na4 OK\r\n"),
        ];
        for (command, reply) in turns {
            channel.send(true, command);
            channel.send(false, reply);
        }
        (channel.packets, 1)
    };
    [Tls::V13, Tls::V12, Tls::V12Cbc].map(play).into()
}
