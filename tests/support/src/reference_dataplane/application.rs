//! Application facts (docs/understand/applications.md).

use mailflow_common::{first_payload, upgrade};

use super::{estimate::Dialogue, flow::Flow};

/// Number of payload packets of a flow that are inspected.
const LOOKED_INTO: u8 = 16;

impl Flow {
    /// Inspects a packet's payload; `tcp` is its sequence number and flags.
    pub(super) fn look(&mut self, up: bool, payload: &[u8], tcp: Option<(u32, u8)>) {
        if let Some(tcp) = tcp
            && self.facts.inspected < LOOKED_INTO
        {
            let before = self.facts.inspected;
            self.facts.inspected += 1;
            if payload.len() >= 4 {
                self.read(up, payload, tcp, before);
            }
        }
        let known = if up { &mut self.facts.first_payload_up } else { &mut self.facts.first_payload_down };
        if *known == first_payload::NONE {
            *known = first_payload::UNREAD;
        }
    }

    fn read(&mut self, up: bool, payload: &[u8], (sequence, flags): (u32, u8), before: u8) {
        let known = if up { self.facts.first_payload_up } else { self.facts.first_payload_down };
        let begins = match self.numbers[usize::from(!up)] {
            // A SYN takes a sequence number (RFC 9293, 3.4), and may carry payload (RFC 7413).
            Some(number) => sequence.wrapping_add(u32::from(flags & 2 != 0)) == number.wrapping_add(1),
            // Without the SYN: hardly any payload came before.
            None => known == first_payload::NONE && before < 2,
        };
        if begins && (known == first_payload::NONE || known == first_payload::UNREAD) {
            if up {
                self.facts.first_payload_up = client(payload, before == 0);
            } else {
                self.facts.first_payload_down = server(payload);
            }
        }
        if up {
            self.facts.upgrade = match self.facts.upgrade {
                upgrade::ASKED if is_tls(payload) => {
                    // The next reply belongs to the TLS handshake, and accepts no message.
                    self.dialogue = Dialogue::shaking_hands(self.dialogue.turn);
                    upgrade::FOLLOWED
                }
                upgrade::NONE if asks_for_tls(payload) => upgrade::ASKED,
                as_it_was => as_it_was,
            };
        }
    }
}

/// Returns true if the payload begins with a TLS handshake or alert record (RFC 8446, 5.1) of any version.
fn is_tls(payload: &[u8]) -> bool {
    matches!(payload, [0x15 | 0x16, 3, 0..=4, ..])
}

fn client(payload: &[u8], speaks_first: bool) -> u8 {
    let word = payload[..4].to_ascii_uppercase();
    if is_tls(payload) {
        first_payload::TLS
    } else if [b"EHLO", b"HELO", b"LHLO"].iter().any(|verb| word == verb[..]) {
        first_payload::SMTP
    } else if speaks_first {
        first_payload::OTHER
    } else {
        // After the server's first bytes, the client's bytes identify no protocol.
        first_payload::UNREAD
    }
}

fn server(payload: &[u8]) -> u8 {
    let begins = |words: &[&str]| {
        words.iter().any(|word| payload[..word.len().min(4)].eq_ignore_ascii_case(word.as_bytes()))
    };
    if is_tls(payload) {
        first_payload::TLS
    } else if matches!(&payload[..4], [b'2', b'2', b'0', b' ' | b'-' | b'\r'])
        || matches!(&payload[..4], [b'4', b'2', b'1', b' ' | b'-' | b'\r'])
        || matches!(&payload[..4], [b'5', b'5', b'4', b' ' | b'-' | b'\r'])
    {
        first_payload::SMTP
    } else if payload.starts_with(b"+OK") || payload.starts_with(b"-ERR") {
        first_payload::POP3
    } else if begins(&["* OK", "* PR", "* BY"]) {
        first_payload::IMAP
    } else {
        first_payload::OTHER
    }
}

/// Returns true for STARTTLS (RFC 3207), STLS (RFC 2595), and IMAP's form with a tag (RFC 9051, 6.2.1).
fn asks_for_tls(payload: &[u8]) -> bool {
    let upper = payload.to_ascii_uppercase();
    let tagged = (11..=64).contains(&upper.len()) && upper[upper.len() - 10..].starts_with(b"STARTTLS");
    upper.starts_with(b"STARTTLS") || upper.starts_with(b"STLS") || tagged
}
