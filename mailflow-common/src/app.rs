//! Application facts and the classes made of them.

use crate::Facts;

/// What the first bytes of one direction were, as the kernel notes it.
pub mod opening {
    /// No payload yet.
    pub const NONE: u8 = 0;
    /// A TLS record (RFC 8446, 5.1).
    pub const TLS: u8 = 1;
    /// Server: `220`, `421`, `554` (RFC 5321, 4.3.2). Client: EHLO, HELO, LHLO.
    pub const SMTP: u8 = 2;
    /// Server: `+OK`, `-ERR` (RFC 1939, 3).
    pub const POP3: u8 = 3;
    /// Server: `* OK`, `* PREAUTH`, `* BYE` (RFC 9051, 7.1).
    pub const IMAP: u8 = 4;
    /// Bytes no mail protocol opens with.
    pub const OTHER: u8 = 5;
    /// There was payload, but its first bytes were not seen, or too few to tell.
    pub const UNREAD: u8 = 6;
}

/// How far the change to TLS in a running session (STARTTLS, STLS) has come.
pub mod upgrade {
    /// The client did not ask for it.
    pub const NONE: u8 = 0;
    /// It asked.
    pub const ASKED: u8 = 1;
    /// A TLS record of the client followed.
    pub const FOLLOWED: u8 = 2;
    /// The bits of the three values above; the others are [`super::turn`]'s.
    pub const BITS: u8 = 0x03;
}

/// State of the message estimate, in the high bits of [`Facts::upgrade`]. Only the kernel program reads it.
///
/// A turn is what the client sends until the server sends payload.
pub mod turn {
    /// The server's next packet accepts no message: it answers a handshake, or a chunk that is not the last.
    pub const QUIET: u8 = 0x04;
    /// The bits of the client's last turn inside TLS: one of the four values below.
    pub const LAST: u8 = 0x18;
    /// At most a short command, `DATA` for example.
    pub const SHORT: u8 = 0x00;
    /// One command with an argument.
    pub const COMMAND: u8 = 0x08;
    /// Several commands, or a message that was not accepted.
    pub const LONG: u8 = 0x10;
    /// A message that was accepted. In the clear: the server may still owe the reply to a last chunk.
    pub const ACCEPTED: u8 = 0x18;
    /// The bits that count turns since the handshake, the one with `EHLO` included; stops at [`MANY`].
    pub const COUNT: u8 = 0xe0;
    /// One turn.
    pub const ONE: u8 = 0x20;
    /// Two turns.
    pub const TWO: u8 = 0x40;
    /// In the clear: the client's turn begins with a command.
    pub const COMMANDS: u8 = 0x20;
    /// Four turns or more.
    pub const MANY: u8 = 0x80;
}

/// The protocol family an operator watches a port for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// SMTP, submission, LMTP.
    Smtp,
    /// POP3.
    Pop3,
    /// IMAP.
    Imap,
}

/// The application of a flow (`app_proto`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum App {
    /// SMTP in the clear.
    Smtp,
    /// SMTP that changed to TLS (RFC 3207).
    SmtpStartTls,
    /// SMTP inside TLS from the first byte (RFC 8314).
    Smtps,
    /// POP3 in the clear.
    Pop3,
    /// POP3 that changed to TLS (RFC 2595).
    Pop3Stls,
    /// POP3 inside TLS.
    Pop3s,
    /// IMAP in the clear.
    Imap,
    /// IMAP that changed to TLS (RFC 2595).
    ImapStartTls,
    /// IMAP inside TLS.
    Imaps,
    /// Not mail: the flow's SYN was seen and its first bytes contradict every mail protocol.
    Other,
    /// Not recognised; the port decides.
    Unseen,
}

impl App {
    /// Every class.
    pub const ALL: [App; 11] = [
        App::Smtp,
        App::SmtpStartTls,
        App::Smtps,
        App::Pop3,
        App::Pop3Stls,
        App::Pop3s,
        App::Imap,
        App::ImapStartTls,
        App::Imaps,
        App::Other,
        App::Unseen,
    ];

    /// The name in records and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            App::Smtp => "smtp",
            App::SmtpStartTls => "smtp+starttls",
            App::Smtps => "smtps",
            App::Pop3 => "pop3",
            App::Pop3Stls => "pop3+stls",
            App::Pop3s => "pop3s",
            App::Imap => "imap",
            App::ImapStartTls => "imap+starttls",
            App::Imaps => "imaps",
            App::Other => "other",
            App::Unseen => "unseen",
        }
    }

    /// Whether the content is, or became, encrypted.
    pub const fn encrypted(self) -> bool {
        matches!(
            self,
            App::SmtpStartTls | App::Smtps | App::Pop3Stls | App::Pop3s | App::ImapStartTls | App::Imaps
        )
    }
}

/// The class of a flow from its facts and the family its server port is watched for.
///
/// TLS from the first byte takes its family from the port. Otherwise a mail protocol's own words win
/// over a contradiction (a PROXY header before a greeting is still SMTP).
pub fn classify(facts: &Facts, family: Family) -> App {
    // Also where the server answers the client's TLS in the clear: it is what the client speaks.
    if facts.opening_up == opening::TLS || facts.opening_down == opening::TLS {
        return match family {
            Family::Smtp => App::Smtps,
            Family::Pop3 => App::Pop3s,
            Family::Imap => App::Imaps,
        };
    }
    let spoken = match (facts.opening_down, facts.opening_up) {
        (opening::SMTP, _) => Some(Family::Smtp),
        (opening::POP3, _) => Some(Family::Pop3),
        (opening::IMAP, _) => Some(Family::Imap),
        (_, opening::SMTP) => Some(Family::Smtp),
        _ => None,
    };
    let upgraded = facts.upgrade & upgrade::BITS == upgrade::FOLLOWED;
    match spoken {
        Some(Family::Smtp) if upgraded => App::SmtpStartTls,
        Some(Family::Smtp) => App::Smtp,
        Some(Family::Pop3) if upgraded => App::Pop3Stls,
        Some(Family::Pop3) => App::Pop3,
        Some(Family::Imap) if upgraded => App::ImapStartTls,
        Some(Family::Imap) => App::Imap,
        // A subflow of a multipath connection begins amid what is said.
        None if facts.syn != 0
            && !facts.subflow()
            && (facts.opening_up == opening::OTHER || facts.opening_down == opening::OTHER) =>
        {
            App::Other
        }
        None => App::Unseen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(opening_up: u8, opening_down: u8) -> Facts {
        Facts { syn: 1, opening_up, opening_down, ..Facts::default() }
    }

    #[test]
    fn the_servers_words_decide_whatever_the_port() {
        for family in [Family::Smtp, Family::Pop3, Family::Imap] {
            assert_eq!(classify(&facts(opening::SMTP, opening::SMTP), family), App::Smtp);
            assert_eq!(classify(&facts(opening::OTHER, opening::SMTP), family), App::Smtp);
            assert_eq!(classify(&facts(opening::NONE, opening::POP3), family), App::Pop3);
            assert_eq!(classify(&facts(opening::NONE, opening::IMAP), family), App::Imap);
        }
    }

    #[test]
    fn tls_from_the_first_byte_takes_the_ports_family() {
        let tls = facts(opening::TLS, opening::TLS);
        assert_eq!(classify(&tls, Family::Smtp), App::Smtps);
        assert_eq!(classify(&tls, Family::Pop3), App::Pop3s);
        assert_eq!(classify(&tls, Family::Imap), App::Imaps);
        assert_eq!(classify(&facts(opening::TLS, opening::SMTP), Family::Smtp), App::Smtps, "in the clear");
    }

    #[test]
    fn an_upgrade_counts_when_tls_followed() {
        let mut asked = facts(opening::SMTP, opening::SMTP);
        asked.upgrade = upgrade::ASKED;
        assert_eq!(classify(&asked, Family::Smtp), App::Smtp);
        asked.upgrade = upgrade::FOLLOWED;
        assert_eq!(classify(&asked, Family::Smtp), App::SmtpStartTls);
    }

    #[test]
    fn a_subflow_begins_amid_what_is_said() {
        use crate::answered::{JOINED, JOINS, YES};
        let joining =
            |opening_up, opening_down, answered| Facts { answered, ..facts(opening_up, opening_down) };
        let agreed = YES | JOINS | JOINED;
        for (opening_up, opening_down) in [(opening::OTHER, opening::OTHER), (opening::UNREAD, opening::NONE)]
        {
            let facts = joining(opening_up, opening_down, agreed);
            assert_eq!((facts.subflow(), classify(&facts, Family::Smtp)), (true, App::Unseen));
        }
        // The server says what it begins with: where it agreed to join, that is chance.
        let tls = joining(opening::OTHER, opening::TLS, agreed);
        assert_eq!((tls.subflow(), classify(&tls, Family::Smtp)), (true, App::Smtps));
        // It did not agree: then bytes of which nothing can be told are no sign of another path.
        let alone = YES | JOINS;
        for (opening_up, opening_down, subflow) in [
            (opening::NONE, opening::NONE, true),
            (opening::OTHER, opening::NONE, true),
            (opening::OTHER, opening::OTHER, true),
            (opening::UNREAD, opening::OTHER, true),
            (opening::UNREAD, opening::NONE, false),
            (opening::SMTP, opening::NONE, false),
            (opening::SMTP, opening::OTHER, false),
            (opening::TLS, opening::OTHER, false),
            (opening::OTHER, opening::UNREAD, false),
            (opening::NONE, opening::SMTP, false),
            (opening::NONE, opening::TLS, false),
            (opening::NONE, opening::POP3, false),
            (opening::NONE, opening::IMAP, false),
        ] {
            let facts = joining(opening_up, opening_down, alone);
            assert_eq!(facts.subflow(), subflow, "{opening_up} {opening_down}");
        }
        assert!(!joining(opening::OTHER, opening::OTHER, YES | JOINED).subflow(), "nobody asked");
    }

    #[test]
    fn other_needs_the_syn() {
        let mut http = facts(opening::OTHER, opening::OTHER);
        assert_eq!(classify(&http, Family::Smtp), App::Other);
        http.syn = 0;
        assert_eq!(classify(&http, Family::Smtp), App::Unseen);
        assert_eq!(classify(&facts(opening::NONE, opening::NONE), Family::Smtp), App::Unseen);
        assert_eq!(classify(&facts(99, 99), Family::Smtp), App::Unseen, "an unknown byte is no fact");
    }
}
