//! Scripted SMTP dialogues that no program of the lab produces.

use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

/// Connection after the greeting.
pub(super) struct Dialogue {
    stream: TcpStream,
    replies: BufReader<TcpStream>,
}

impl Dialogue {
    /// Connects. Call on a thread of the namespace.
    pub(super) fn open(server: SocketAddr) -> Self {
        Self::greeted(TcpStream::connect(server).unwrap())
    }

    /// Connects from one of the host's addresses.
    #[allow(dead_code, reason = "this file is part of two suites")]
    pub(super) fn from(source: IpAddr, server: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
        socket.connect(&server.into()).unwrap();
        Self::greeted(socket.into())
    }

    fn greeted(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let replies = BufReader::new(stream.try_clone().unwrap());
        let mut dialogue = Self { stream, replies };
        dialogue.expect(220);
        dialogue
    }

    /// Sends `text` and reads a reply for each of these codes.
    pub(super) fn say(&mut self, text: &str, codes: &[u16]) -> &mut Self {
        self.stream.write_all(text.as_bytes()).unwrap();
        codes.iter().for_each(|code| self.expect(*code));
        self
    }

    /// Sends MAIL, RCPT and DATA, each with its reply, and a message of about `size` bytes.
    pub(super) fn mail(&mut self, size: usize) -> &mut Self {
        self.say("MAIL FROM:<alice@corp.example>\r\n", &[250]).say("RCPT TO:<bob@example.org>\r\n", &[250]);
        self.say("DATA\r\n", &[354]).say(&format!("{}.\r\n", message(size)), &[250])
    }

    /// Sends QUIT.
    pub(super) fn end(&mut self) -> &mut Self {
        self.say("QUIT\r\n", &[221])
    }

    /// Reads a reply to its last line (RFC 5321, 4.2.1).
    fn expect(&mut self, code: u16) {
        loop {
            let mut line = String::new();
            self.replies.read_line(&mut line).unwrap();
            assert!(line.starts_with(&code.to_string()), "expected {code}, got {line:?}");
            if line.as_bytes()[3] == b' ' {
                return;
            }
        }
    }
}

/// Does several transactions, each group of commands in one write (RFC 2920).
pub(super) fn pipelined(d: &mut Dialogue, mails: usize) {
    d.say("EHLO client.example\r\n", &[250]);
    let group = "MAIL FROM:<alice@corp.example>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n";
    d.say(group, &[250, 250, 354]);
    for _ in 1..mails {
        // The end of the message and the next group together.
        d.say(&format!("{}.\r\n{group}", message(1_800)), &[250, 250, 250, 354]);
    }
    d.say(&format!("{}.\r\nQUIT\r\n", message(1_800)), &[250, 221]);
}

/// Sends recipients that are rejected: all of them, or some before an accepted one.
pub(super) fn rejected(number: usize, d: &mut Dialogue) {
    d.say("EHLO client.example\r\n", &[250]).say("MAIL FROM:<alice@corp.example>\r\n", &[250]);
    for _ in 0..1 + number % 6 {
        d.say("RCPT TO:<nobody@elsewhere.example>\r\n", &[554]);
    }
    if number.is_multiple_of(3) {
        d.say("RSET\r\n", &[250]).mail(2_000);
    }
    d.end();
}

/// Tries passwords; this server has no accounts.
pub(super) fn refused_logins(d: &mut Dialogue) {
    d.say("EHLO client.example\r\n", &[250]);
    for _ in 0..8 {
        d.say("AUTH PLAIN AGFsaWNlAGd1ZXNzZWQtcGFzc3dvcmQ=\r\n", &[503]);
    }
    d.end();
}

/// Sends two mails in chunks of 4 kB, each with its reply (RFC 3030).
pub(super) fn chunked(d: &mut Dialogue, chunks: usize) {
    d.say("EHLO client.example\r\n", &[250]);
    for _ in 0..2 {
        d.say("MAIL FROM:<alice@corp.example>\r\n", &[250]).say("RCPT TO:<bob@example.org>\r\n", &[250]);
        for chunk in 1..=chunks {
            let (text, last) = (message(4_000), if chunk == chunks { " LAST" } else { "" });
            d.say(&format!("BDAT {}{last}\r\n{text}", text.len()), &[250]);
        }
    }
    d.end();
}

/// Returns a message of about `size` bytes.
fn message(size: usize) -> String {
    let mut text = "From: <alice@corp.example>\r\nSubject: figures\r\n\r\n".to_owned();
    while text.len() < size {
        let line = (size - text.len()).clamp(2, 76) - 2;
        text.push_str(&"x".repeat(line));
        text.push_str("\r\n");
    }
    text
}
