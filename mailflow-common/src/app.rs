//! Application facts and the classes made of them.

use crate::Facts;

/// Class of the first payload bytes of a direction.
pub mod first_payload {
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
    /// Bytes with which no mail protocol begins.
    pub const OTHER: u8 = 5;
    /// Payload whose first bytes were not seen, or too few to classify.
    pub const UNREAD: u8 = 6;
}

/// Progress of STARTTLS or STLS.
pub mod upgrade {
    /// Not requested.
    pub const NONE: u8 = 0;
    /// Requested by the client.
    pub const ASKED: u8 = 1;
    /// Followed by a TLS record of the client.
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

    /// Returns true if the content is, or became, encrypted.
    pub const fn encrypted(self) -> bool {
        matches!(
            self,
            App::SmtpStartTls | App::Smtps | App::Pop3Stls | App::Pop3s | App::ImapStartTls | App::Imaps
        )
    }
}

/// Returns the class of a flow, by its facts and the family of its server port.
///
/// TLS from the first byte has the family of the port. Otherwise the words of a mail protocol win over a
/// contradiction (a PROXY header before a greeting is still SMTP).
pub fn classify(facts: &Facts, family: Family) -> App {
    // Also where the server answers the client's TLS in the clear: it is what the client speaks.
    if facts.first_payload_up == first_payload::TLS || facts.first_payload_down == first_payload::TLS {
        return match family {
            Family::Smtp => App::Smtps,
            Family::Pop3 => App::Pop3s,
            Family::Imap => App::Imaps,
        };
    }
    let spoken = match (facts.first_payload_down, facts.first_payload_up) {
        (first_payload::SMTP, _) => Some(Family::Smtp),
        (first_payload::POP3, _) => Some(Family::Pop3),
        (first_payload::IMAP, _) => Some(Family::Imap),
        (_, first_payload::SMTP) => Some(Family::Smtp),
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
        // A subflow of an MPTCP connection begins in the middle of a dialogue.
        None if facts.syn != 0
            && !facts.subflow()
            && (facts.first_payload_up == first_payload::OTHER
                || facts.first_payload_down == first_payload::OTHER) =>
        {
            App::Other
        }
        None => App::Unseen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(first_payload_up: u8, first_payload_down: u8) -> Facts {
        Facts { syn: 1, first_payload_up, first_payload_down, ..Facts::default() }
    }

    #[test]
    fn the_servers_words_decide_whatever_the_port() {
        for family in [Family::Smtp, Family::Pop3, Family::Imap] {
            assert_eq!(classify(&facts(first_payload::SMTP, first_payload::SMTP), family), App::Smtp);
            assert_eq!(classify(&facts(first_payload::OTHER, first_payload::SMTP), family), App::Smtp);
            assert_eq!(classify(&facts(first_payload::NONE, first_payload::POP3), family), App::Pop3);
            assert_eq!(classify(&facts(first_payload::NONE, first_payload::IMAP), family), App::Imap);
        }
    }

    #[test]
    fn tls_from_the_first_byte_takes_the_ports_family() {
        let tls = facts(first_payload::TLS, first_payload::TLS);
        assert_eq!(classify(&tls, Family::Smtp), App::Smtps);
        assert_eq!(classify(&tls, Family::Pop3), App::Pop3s);
        assert_eq!(classify(&tls, Family::Imap), App::Imaps);
        assert_eq!(
            classify(&facts(first_payload::TLS, first_payload::SMTP), Family::Smtp),
            App::Smtps,
            "in the clear"
        );
    }

    #[test]
    fn an_upgrade_counts_when_tls_followed() {
        let mut asked = facts(first_payload::SMTP, first_payload::SMTP);
        asked.upgrade = upgrade::ASKED;
        assert_eq!(classify(&asked, Family::Smtp), App::Smtp);
        asked.upgrade = upgrade::FOLLOWED;
        assert_eq!(classify(&asked, Family::Smtp), App::SmtpStartTls);
    }

    #[test]
    fn a_subflow_begins_amid_what_is_said() {
        use crate::seen::{DOWN, MPTCP_JOIN, MPTCP_JOINED};
        let joining = |first_payload_up, first_payload_down, seen| Facts {
            seen,
            ..facts(first_payload_up, first_payload_down)
        };
        let agreed = DOWN | MPTCP_JOIN | MPTCP_JOINED;
        for (first_payload_up, first_payload_down) in
            [(first_payload::OTHER, first_payload::OTHER), (first_payload::UNREAD, first_payload::NONE)]
        {
            let facts = joining(first_payload_up, first_payload_down, agreed);
            assert_eq!((facts.subflow(), classify(&facts, Family::Smtp)), (true, App::Unseen));
        }
        // The server says what it begins with: where it agreed to join, that is chance.
        let tls = joining(first_payload::OTHER, first_payload::TLS, agreed);
        assert_eq!((tls.subflow(), classify(&tls, Family::Smtp)), (true, App::Smtps));
        // It did not agree: then unreadable bytes are no sign of a subflow.
        let alone = DOWN | MPTCP_JOIN;
        for (first_payload_up, first_payload_down, subflow) in [
            (first_payload::NONE, first_payload::NONE, true),
            (first_payload::OTHER, first_payload::NONE, true),
            (first_payload::OTHER, first_payload::OTHER, true),
            (first_payload::UNREAD, first_payload::OTHER, true),
            (first_payload::UNREAD, first_payload::NONE, false),
            (first_payload::SMTP, first_payload::NONE, false),
            (first_payload::SMTP, first_payload::OTHER, false),
            (first_payload::TLS, first_payload::OTHER, false),
            (first_payload::OTHER, first_payload::UNREAD, false),
            (first_payload::NONE, first_payload::SMTP, false),
            (first_payload::NONE, first_payload::TLS, false),
            (first_payload::NONE, first_payload::POP3, false),
            (first_payload::NONE, first_payload::IMAP, false),
        ] {
            let facts = joining(first_payload_up, first_payload_down, alone);
            assert_eq!(facts.subflow(), subflow, "{first_payload_up} {first_payload_down}");
        }
        assert!(
            !joining(first_payload::OTHER, first_payload::OTHER, DOWN | MPTCP_JOINED).subflow(),
            "nobody asked"
        );
    }

    #[test]
    fn other_needs_the_syn() {
        let mut http = facts(first_payload::OTHER, first_payload::OTHER);
        assert_eq!(classify(&http, Family::Smtp), App::Other);
        http.syn = 0;
        assert_eq!(classify(&http, Family::Smtp), App::Unseen);
        assert_eq!(classify(&facts(first_payload::NONE, first_payload::NONE), Family::Smtp), App::Unseen);
        assert_eq!(classify(&facts(99, 99), Family::Smtp), App::Unseen, "an unknown byte is no fact");
    }
}
