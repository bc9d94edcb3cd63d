//! The message estimate (docs/understand/messages.md).

use mailflow_common::{first_payload, upgrade};

use super::flow::Flow;

/// Number of turns after the TLS handshake up to which the estimate distinguishes them.
const SETTLED: u32 = 4;

/// State of the message estimate.
#[derive(Clone, Debug, Default)]
pub(super) struct Dialogue {
    /// The client's payload since the server's last payload, or since `DATA`.
    pub(super) turn: u64,
    /// The server's next packet accepts no message.
    quiet: bool,
    /// Plaintext: the reply to a last chunk may still follow.
    owed: bool,
    /// Plaintext: the client's turn begins with a command.
    commands: bool,
    /// Inside TLS: the client's previous turn.
    last: Option<Last>,
    /// Inside TLS: number of the server's replies to turns after the handshake.
    replies: u32,
}

impl Dialogue {
    /// Returns the state at the start of TLS, with `turn` bytes of the current turn.
    pub(super) fn shaking_hands(turn: u64) -> Self {
        Self { turn, quiet: true, ..Self::default() }
    }
}

/// Turn inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Bytes(u64),
    Accepted,
}

/// Basis of the estimate.
enum Ground {
    Codes,
    Sizes,
    Records,
    Any,
}

/// First bytes of a server's packet.
enum Head<'a> {
    OutOfReach,
    /// Fewer than four bytes.
    Cut(u8),
    /// Up to eight bytes.
    Bytes(&'a [u8]),
}

impl Flow {
    fn ground(&self) -> Ground {
        let facts = &self.facts;
        if facts.upgrade == upgrade::FOLLOWED
            || [facts.first_payload_up, facts.first_payload_down].contains(&first_payload::TLS)
        {
            return Ground::Records;
        }
        match facts.first_payload_down {
            first_payload::SMTP => Ground::Codes,
            first_payload::POP3 | first_payload::IMAP => Ground::Sizes,
            _ => Ground::Any,
        }
    }

    /// Adds payload of the client that cannot be read: a fragment.
    pub(super) fn sent_unread(&mut self, length: u64) {
        self.dialogue.turn += length;
    }

    /// Adds a packet of the client with this length, of which `payload` can be read.
    pub(super) fn sent(&mut self, payload: &[u8], length: u64) {
        let begins = self.dialogue.turn == 0;
        self.dialogue.turn += length;
        match self.ground() {
            Ground::Records => {
                let shakes_hands = match head(payload, length) {
                    Head::Bytes(bytes) => matches!(bytes, [0x14 | 0x16, 3, 0..=4, ..]),
                    _ => false,
                };
                if begins && self.dialogue.replies < SETTLED && shakes_hands {
                    self.dialogue.quiet = true;
                }
            }
            Ground::Codes if self.dialogue.turn <= 4096 => self.commanded(payload, length, begins),
            _ => {}
        }
    }

    fn commanded(&mut self, payload: &[u8], length: u64, begins: bool) {
        let text = payload.to_ascii_uppercase();
        let small = self.dialogue.turn < 300;
        if length < 8 {
            if length == 3 && small && text.starts_with(b".\r") {
                self.dialogue.turn = 300;
            }
            if length == 6 && self.dialogue.commands && text.starts_with(b"DATA") {
                self.dialogue.turn = 0;
            }
            return;
        }
        let word = |word: &[u8; 4]| text.starts_with(word) && [b' ', b'\r', 0].contains(&text[4]);
        if begins {
            if text.len() < 8 {
                return;
            }
            if [b"MAIL", b"RCPT", b"RSET", b"EHLO"].iter().any(|command| word(command)) {
                self.dialogue.commands = true;
            } else if word(b"BDAT") {
                let parameter: Option<&[u8]> = match length {
                    ..16 => (text.len() as u64 == length).then(|| &text[text.len() - 6..text.len() - 2]),
                    _ => text.get(5..16),
                };
                let last = parameter.is_some_and(|parameter| match length {
                    ..16 => parameter == b"LAST",
                    _ => parameter.iter().find(|byte| [b'\r', b'L'].contains(byte)) == Some(&b'L'),
                });
                if !last {
                    self.dialogue.quiet = true;
                } else if small {
                    self.dialogue.turn = 300;
                }
                return;
            }
        }
        if (text.len() as u64) < length {
            return;
        }
        if self.dialogue.commands && (text.ends_with(b"\nDATA\r\n") || text.ends_with(b">\r\n")) {
            self.dialogue.turn = 0;
        } else if small && text.ends_with(b"\r\n.\r\n") {
            self.dialogue.turn = 300;
        }
    }

    /// Adds a packet of the server with this length, of which `payload` can be read.
    pub(super) fn answered(&mut self, payload: &[u8], length: u64) {
        let turn = std::mem::take(&mut self.dialogue.turn);
        // If the client spoke first, the server's first packet answers no message.
        if self.facts.first_payload_down == first_payload::NONE {
            return;
        }
        let accepted = match self.ground() {
            Ground::Records => turn != 0 && self.accepted_record(payload, length, turn),
            Ground::Codes => {
                let chunk = turn != 0 && self.dialogue.quiet;
                let owed = turn == 0 && self.dialogue.owed;
                let whole = turn >= 300 && !chunk;
                self.dialogue.owed = chunk;
                self.dialogue.quiet = false;
                self.dialogue.commands = false;
                let accepted = (owed || whole) && accepts(payload, length, false);
                self.rejected += u32::from((owed || whole) && !accepted && rejects(payload, length));
                accepted
            }
            Ground::Sizes => turn >= 300 && length <= 200,
            Ground::Any => turn >= 300 && accepts(payload, length, true),
        };
        self.messages += u32::from(accepted);
    }

    fn accepted_record(&mut self, payload: &[u8], length: u64, turn: u64) -> bool {
        let head = head(payload, length);
        let mailbox = [first_payload::POP3, first_payload::IMAP].contains(&self.facts.first_payload_down)
            || [110, 143, 993, 995].contains(&self.tuple.server.1);
        let dialogue = &mut self.dialogue;
        if std::mem::take(&mut dialogue.quiet) {
            let encrypted = matches!(head, Head::Bytes([0x17, 3, 0..=4, ..]));
            // A Finished message has at most 80 bytes; more bytes contain a command.
            dialogue.replies = u32::from(encrypted && turn > 80);
            dialogue.last = Some(Last::Bytes(if encrypted && turn > 170 { 1_000 } else { 40 }));
            return false;
        }
        let before = dialogue.last.unwrap_or(Last::Bytes(0));
        dialogue.replies += 1;
        let record = match head {
            Head::Bytes([0x17, 3, 0..=4, high, low, ..]) => Some(u64::from(*high) * 256 + u64::from(*low)),
            Head::Bytes(_) if length >= 8 => None,
            // Not readable, or truncated.
            _ => (length <= 200).then_some(44),
        };
        // The size limits of a command depend on the number of earlier replies: EHLO, then AUTH, then any
        // command.
        let command = |bytes| match dialogue.replies {
            2 => bytes <= 96,
            3 => bytes <= 69,
            _ => (36..=80).contains(&bytes),
        };
        let may = |record: u64| match before {
            _ if dialogue.replies < 2 => false,
            Last::Bytes(bytes) if command(bytes) => {
                dialogue.replies >= SETTLED && (record <= 195 || record * 2 <= turn)
            }
            Last::Bytes(_) => true,
            Last::Accepted => record >= 44 && record * 2 <= turn,
        };
        let accepted = turn >= 300
            && record.is_some_and(|record| match mailbox {
                true => (25..=195).contains(&record),
                false => (25..=480).contains(&record) && may(record),
            });
        dialogue.last = Some(if accepted { Last::Accepted } else { Last::Bytes(turn) });
        accepted
    }
}

fn head(payload: &[u8], length: u64) -> Head<'_> {
    let wanted = match length {
        8.. => 8,
        4.. => 4,
        _ => 1,
    };
    match payload.get(..wanted) {
        None => Head::OutOfReach,
        Some([byte]) => Head::Cut(*byte),
        Some(bytes) => Head::Bytes(bytes),
    }
}

/// Returns true if the reply accepts a message, by its code or its size.
fn accepts(payload: &[u8], length: u64, by_size: bool) -> bool {
    match head(payload, length) {
        Head::OutOfReach => length <= 200,
        Head::Cut(byte) => by_size || byte == b'2',
        Head::Bytes(
            [first @ b'2'..=b'5', second @ b'0'..=b'9', b'0'..=b'9', b' ' | b'-' | b'\r' | b'\n', ..],
        ) => *first == b'2' && ![b'2', b'3'].contains(second),
        Head::Bytes([0x17, 3, 0..=4, high, rest @ ..]) => {
            let low = rest.first().copied().unwrap_or(0);
            (25..=480).contains(&(u32::from(*high) * 256 + u32::from(low)))
        }
        Head::Bytes(_) => by_size && length <= 200,
    }
}

/// Returns true if the reply's code is a transient or permanent rejection.
fn rejects(payload: &[u8], length: u64) -> bool {
    match head(payload, length) {
        Head::Bytes([b'4' | b'5', b'0'..=b'9', b'0'..=b'9', end, ..]) => {
            [b' ', b'-', b'\r', b'\n'].contains(end)
        }
        _ => false,
    }
}
