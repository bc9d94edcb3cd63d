//! Scripted sessions of a mail client with a server.

use super::{
    channel::{Channel, Cut, Identity, Tls},
    servers::Server,
};

/// Protection of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Clear,
    /// STARTTLS. The client's EHLO follows its last flight at once, or waits for the server's session
    /// tickets.
    StartTls(Tls, Order),
    Smtps(Tls),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    EhloFirst,
    TicketsFirst,
}

/// Grouping of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// One at a time.
    Step,
    /// MAIL, RCPT and DATA together (RFC 2920), each reply in its own packet.
    Group,
    /// MAIL, RCPT and DATA together, with all replies in one packet.
    GroupMerged,
    /// MAIL, then RCPT and DATA together.
    Sender,
    /// The end of a message together with the next mail's MAIL, RCPT and DATA, or with QUIT.
    Chain,
    /// MAIL and all RCPT together, DATA after their replies.
    Recipients,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Login {
    None,
    Plain,
    /// XOAUTH2 with a token of this length in the command, and the server's reply.
    Token(usize, &'static str),
    /// XOAUTH2 with the token after a challenge.
    Challenged(usize, &'static str),
    /// GSSAPI (RFC 4752).
    Gssapi,
    Ntlm,
}

pub(super) struct Mail {
    pub(super) bytes: usize,
    pub(super) recipients: usize,
    /// The server's reply to the message.
    pub(super) verdict: &'static str,
}

pub(super) struct Session<'a> {
    pub(super) server: &'a Server,
    pub(super) mode: Mode,
    pub(super) pace: Pace,
    pub(super) login: Login,
    pub(super) cut: Cut,
    pub(super) mails: Vec<Mail>,
    /// Number of the session, for distinct ids.
    pub(super) number: usize,
}

impl Session<'_> {
    /// Returns the packets, and the number of messages that the server accepted.
    pub(super) fn play(&self, identity: &Identity) -> (Vec<(bool, Vec<u8>)>, u64) {
        let mut channel = self.start(identity);
        for (number, mail) in self.mails.iter().enumerate() {
            self.mail(&mut channel, mail, number == 0, self.mails.get(number + 1));
        }
        if self.pace != Pace::Chain || self.mails.is_empty() {
            self.say(&mut channel, "QUIT", &[self.server.quit]);
        }
        let accepted = self.mails.iter().filter(|mail| mail.verdict.starts_with('2')).count();
        (channel.packets, accepted as u64)
    }

    /// Plays everything before the first mail.
    pub(super) fn start(&self, identity: &Identity) -> Channel {
        let mut channel = Channel::new(self.cut);
        self.begin(&mut channel, identity);
        self.log_in(&mut channel);
        channel
    }

    fn line(&self, text: &str) -> String {
        format!("{}\r\n", text.replace("{id}", &format!("{:04x}", 0x1a2b + self.number * 7)))
    }

    fn ehlo(&self, channel: &Channel) -> String {
        let mut lines = self.server.extensions.to_vec();
        if !channel.is_encrypted() {
            lines.push("STARTTLS");
        }
        if self.login != Login::None {
            lines.push("AUTH PLAIN LOGIN XOAUTH2 GSSAPI NTLM");
        }
        let last = lines.len() - 1;
        let line = |(number, line): (usize, &&str)| {
            format!("250{}{}\r\n", if number == last { ' ' } else { '-' }, line)
        };
        lines.iter().enumerate().map(line).collect()
    }

    pub(super) fn reply(&self, channel: &mut Channel, replies: &[&str]) {
        let lines: Vec<String> = replies.iter().map(|reply| self.line(reply)).collect();
        if matches!(self.pace, Pace::GroupMerged | Pace::Chain) {
            channel.send(false, lines.concat().as_bytes());
        } else {
            lines.iter().for_each(|line| channel.send(false, line.as_bytes()));
        }
    }

    pub(super) fn say(&self, channel: &mut Channel, command: &str, replies: &[&str]) {
        channel.send(true, format!("{command}\r\n").as_bytes());
        self.reply(channel, replies);
    }

    fn begin(&self, channel: &mut Channel, identity: &Identity) {
        const EHLO: &str = "EHLO client-0042.corp.example\r\n";
        let greeting = self.line(self.server.greeting);
        let mut is_greeted = false;
        match self.mode {
            Mode::Clear => channel.send(false, greeting.as_bytes()),
            Mode::Smtps(tls) => {
                channel.handshake(tls, identity, None);
                channel.send(false, greeting.as_bytes());
            }
            Mode::StartTls(tls, order) => {
                channel.send(false, greeting.as_bytes());
                channel.send(true, EHLO.as_bytes());
                let reply = self.ehlo(channel);
                channel.send(false, reply.as_bytes());
                self.say(channel, "STARTTLS", &["220 2.0.0 Ready to start TLS"]);
                let behind = (order == Order::EhloFirst).then_some(EHLO.as_bytes());
                is_greeted = channel.handshake(tls, identity, behind);
            }
        }
        if !is_greeted {
            channel.send(true, EHLO.as_bytes());
        }
        let reply = self.ehlo(channel);
        channel.send(false, reply.as_bytes());
    }

    fn log_in(&self, channel: &mut Channel) {
        let token = |length: usize| {
            "dXNlcj1hbGljZQFhdXRoPUJlYXJlciB5YTI5".chars().cycle().take(length).collect::<String>()
        };
        match self.login {
            Login::None => {}
            Login::Plain => {
                self.say(
                    channel,
                    &format!("AUTH PLAIN {}", token(44)),
                    &["235 2.7.0 Authentication successful"],
                );
            }
            Login::Token(length, reply) => {
                self.say(channel, &format!("AUTH XOAUTH2 {}", token(length)), &[reply]);
                if reply.starts_with('3') {
                    self.say(channel, "", &["535 5.7.3 Authentication unsuccessful"]);
                }
            }
            Login::Challenged(length, reply) => {
                self.say(channel, "AUTH XOAUTH2", &["334 "]);
                self.say(channel, &token(length), &[reply]);
                if reply.starts_with('3') {
                    self.say(channel, "", &["535 5.7.3 Authentication unsuccessful"]);
                }
            }
            Login::Gssapi => {
                self.say(
                    channel,
                    &format!("AUTH GSSAPI {}", token(2_600)),
                    &[&format!("334 {}", token(200))],
                );
                self.say(channel, "", &[&format!("334 {}", token(44))]);
                self.say(channel, &token(60), &["235 2.7.0 Authentication successful"]);
            }
            Login::Ntlm => {
                self.say(channel, "AUTH NTLM", &["334 ntlm supported"]);
                self.say(channel, &token(56), &[&format!("334 {}", token(280))]);
                self.say(channel, &token(520), &["235 2.7.0 Authentication successful"]);
            }
        }
    }

    fn envelope(&self, mail: &Mail) -> (String, Vec<String>) {
        let recipient = |number| format!("RCPT TO:<bob.{number:02}@example.org>\r\n");
        let sender = format!("MAIL FROM:<alice@corp.example> SIZE={}\r\n", mail.bytes);
        (sender, (0..mail.recipients).map(recipient).collect())
    }

    /// Returns the replies to a group of envelope commands.
    fn replies(&self, mail: &Mail) -> Vec<&str> {
        let recipients = vec![self.server.recipient; mail.recipients];
        [&[self.server.sender][..], &recipients, &[self.server.data]].concat()
    }

    fn mail(&self, channel: &mut Channel, mail: &Mail, first: bool, next: Option<&Mail>) {
        let (sender, recipients) = self.envelope(mail);
        let server = self.server;
        let group = |mail: &Mail| {
            let (sender, recipients) = self.envelope(mail);
            format!("{sender}{}DATA\r\n", recipients.concat())
        };
        match self.pace {
            Pace::Step => {
                channel.send(true, sender.as_bytes());
                self.reply(channel, &[server.sender]);
                for recipient in &recipients {
                    channel.send(true, recipient.as_bytes());
                    self.reply(channel, &[server.recipient]);
                }
                self.say(channel, "DATA", &[server.data]);
            }
            Pace::Recipients => {
                channel.send(true, format!("{sender}{}", recipients.concat()).as_bytes());
                let replies = self.replies(mail);
                self.reply(channel, &replies[..replies.len() - 1]);
                self.say(channel, "DATA", &[server.data]);
            }
            Pace::Sender => {
                channel.send(true, sender.as_bytes());
                self.reply(channel, &[server.sender]);
                channel.send(true, format!("{}DATA\r\n", recipients.concat()).as_bytes());
                self.reply(channel, &self.replies(mail)[1..]);
            }
            Pace::Chain if !first => {}
            Pace::Group | Pace::GroupMerged | Pace::Chain => {
                channel.send(true, group(mail).as_bytes());
                self.reply(channel, &self.replies(mail));
            }
        }
        let mut text = body(mail.bytes);
        let mut replies = vec![mail.verdict];
        if self.pace == Pace::Chain {
            match next {
                Some(next) => {
                    text.push_str(&group(next));
                    replies.extend(self.replies(next));
                }
                None => {
                    text.push_str("QUIT\r\n");
                    replies.push(server.quit);
                }
            }
        }
        // Mail programs write in blocks.
        text.as_bytes().chunks(4_096).for_each(|block| channel.send(true, block));
        self.reply(channel, &replies);
    }
}

/// Returns a message of at least this many bytes, with its end.
pub(super) fn body(bytes: usize) -> String {
    let mut text =
        "From: <alice@corp.example>\r\nTo: <bob@example.org>\r\nSubject: figures\r\n\r\n".to_owned();
    while text.len() < bytes {
        let line = (bytes - text.len()).clamp(2, 76) - 2;
        text.push_str(&"x".repeat(line));
        text.push_str("\r\n");
    }
    text + ".\r\n"
}
