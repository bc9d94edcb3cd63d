//! Estimate of the messages that a server has accepted (docs/understand/messages.md).
//!
//! In the clear the reply code decides. Inside TLS there are record lengths and turns: a turn is what the client
//! sends until the server sends payload.

use mailflow_common::{FlowCounters, first_payload, turn, upgrade};
use mailflow_ebpf::Segment;

use super::{
    context::Packet,
    payload::{UPPER, first_bytes, word},
};
use crate::maps::add32;

/// Least payload of a message and its envelope in one turn of the client.
const MESSAGE: u32 = 300;
/// Longest reply to a message where neither its code nor its record can be read.
const REPLY: u32 = 200;
/// Bytes of a turn that are searched for `DATA` and the end of a small message.
const COMMANDS: u32 = 4096;

/// Shortest TLS record that holds a reply: an alert and a key update of TLS 1.3 are shorter.
const LEAST_RECORD: u32 = 25;
/// Longest TLS record of a reply that accepts, whatever came before ...
const SHORT_RECORD: u32 = 195;
/// ... and where what came before is what comes before a message.
const LONG_RECORD: u32 = 480;
/// A message has at least this many times the bytes of its reply, where the turn may hold many commands instead.
const TIMES: u32 = 2;
/// Shortest record that accepts the second of two messages of which one begins where the other ends: replies to
/// commands are shorter.
const NEXT_RECORD: u32 = 44;
/// Longest EHLO inside TLS ...
const EHLO_TURN: u32 = 96;
/// ... longest AUTH without an initial response: a group of MAIL, RCPT and DATA is longer ...
const AUTH_TURN: u32 = 69;
/// ... DATA alone is shorter than this ...
const SHORT_TURN: u32 = 36;
/// ... and most commands with an argument are no longer than this.
const COMMAND_TURN: u32 = 80;
/// The client's last handshake flight in TLS 1.3 without a certificate: at most this long (RFC 8446, 4.4.4).
const FINISHED: u32 = 80;
/// Longest such flight with `EHLO` behind it.
const FINISHED_AND_COMMAND: u32 = 170;

/// Method of reading the replies of a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// SMTP in the clear.
    Smtp,
    /// Another mail protocol in the clear: only sizes count.
    Sizes,
    /// TLS from the handshake on.
    Tls,
    /// Unknown: the beginning was not seen.
    Unknown,
}

#[inline(always)]
unsafe fn stage(flow: *const FlowCounters) -> Stage {
    // SAFETY: the caller's: an element of a preallocated map.
    unsafe {
        let facts = &raw const (*flow).facts;
        let down = (*facts).first_payload_down;
        if (*facts).upgrade & upgrade::BITS == upgrade::FOLLOWED
            || (*facts).first_payload_up == first_payload::TLS
            || down == first_payload::TLS
        {
            Stage::Tls
        } else if down == first_payload::SMTP {
            Stage::Smtp
        } else if down == first_payload::POP3 || down == first_payload::IMAP {
            Stage::Sizes
        } else {
            Stage::Unknown
        }
    }
}

/// Notes what a segment of the client means for the server's next reply. Its payload is not yet added.
#[inline(always)]
pub(super) unsafe fn sent<P: Packet>(packet: &P, flow: *mut FlowCounters, segment: &Segment) {
    // SAFETY: the caller's.
    unsafe {
        let before = ((*flow).up.payload as u32).wrapping_sub((*flow).mark);
        // Most packets are in the middle of a message.
        if before > COMMANDS {
            return;
        }
        match stage(flow) {
            Stage::Tls => {
                let facts = &raw mut (*flow).facts;
                if before == 0
                    && (*facts).upgrade & turn::COUNT < turn::MANY
                    && let Some(bytes) = first_bytes(packet, segment)
                    && (is_record(bytes, HANDSHAKE) || is_record(bytes, CHANGE_CIPHER_SPEC))
                {
                    (*facts).upgrade |= turn::QUIET;
                }
            }
            Stage::Smtp if before + segment.payload() <= COMMANDS => command(packet, flow, segment, before),
            _ => {}
        }
    }
}

/// Looks at the edges of what the client sends in the clear.
#[inline(always)]
unsafe fn command<P: Packet>(packet: &P, flow: *mut FlowCounters, segment: &Segment, before: u32) {
    // SAFETY: the caller's.
    unsafe {
        let state = &raw mut (*flow).facts.upgrade;
        let length = segment.payload();
        let behind = ((*flow).up.payload as u32).wrapping_add(length);
        // As though the message had the least size.
        let enough = behind.wrapping_sub(MESSAGE);
        let small = before + length < MESSAGE;
        if length < 8 {
            if length == 3 && small && packet.payload::<2>(segment.payload_offset) == Some(*b".\r") {
                (*flow).mark = enough;
            } else if length == 6
                && *state & turn::COMMANDS != 0
                && first_bytes(packet, segment).is_some_and(|bytes| is_word(bytes, b"DATA"))
            {
                (*flow).mark = behind;
            }
            return;
        }
        if before == 0 {
            let Some(bytes) = first_bytes(packet, segment) else { return };
            if is_word(bytes, b"MAIL")
                || is_word(bytes, b"RCPT")
                || is_word(bytes, b"RSET")
                || is_word(bytes, b"EHLO")
            {
                *state |= turn::COMMANDS;
            } else if is_word(bytes, b"BDAT") {
                // RFC 3030: each chunk is answered, and the last one's reply is the message's.
                if !is_last_chunk(packet, segment) {
                    *state |= turn::QUIET;
                } else if small {
                    (*flow).mark = enough;
                }
                return;
            }
        }
        let Some(tail) = packet.payload::<8>(segment.payload_offset + length - 8) else { return };
        let [_, before_command, command @ .., cr, lf] = tail;
        if cr != b'\r' || lf != b'\n' {
            return;
        }
        let asks =
            before_command == b'\n' && u32::from_be_bytes(command) & UPPER == u32::from_be_bytes(*b"DATA");
        if *state & turn::COMMANDS != 0 && (asks || tail[5] == b'>') {
            // None of these commands belongs to the message that comes next.
            (*flow).mark = behind;
        } else if small && tail[3] == b'\r' && tail[4] == b'\n' && tail[5] == b'.' {
            (*flow).mark = enough;
        }
    }
}

/// Returns true if a `BDAT` command says `LAST`.
#[inline(always)]
fn is_last_chunk<P: Packet>(packet: &P, segment: &Segment) -> bool {
    if segment.payload() < 16 {
        // The command alone: `BDAT 0 LAST`.
        let tail = packet.payload::<8>(segment.payload_offset + segment.payload() - 8);
        return tail.is_some_and(|tail| {
            u32::from_be_bytes([tail[2], tail[3], tail[4], tail[5]]) & UPPER == u32::from_be_bytes(*b"LAST")
        });
    }
    let Some(bytes) = packet.payload::<16>(segment.payload_offset) else { return false };
    let mut at = 5;
    while at < 16 {
        if bytes[at] == b'\r' {
            return false;
        }
        if bytes[at] & 0xdf == b'L' {
            return true;
        }
        at += 1;
    }
    false
}

/// Counts a message where a segment of the server accepts one, and begins the client's next turn.
#[inline(always)]
pub(super) unsafe fn answered<P: Packet>(packet: &P, flow: *mut FlowCounters, segment: &Segment) {
    // SAFETY: the caller's.
    unsafe {
        let payload = (*flow).up.payload as u32;
        let turn = payload.wrapping_sub((*flow).mark);
        let enough = turn >= MESSAGE;
        (*flow).mark = payload;
        // The first packet of a server that was spoken to first answers no message.
        if (*flow).facts.first_payload_down == first_payload::NONE {
            return;
        }
        let accepts = match stage(flow) {
            Stage::Tls => turn != 0 && accepts_in_tls(packet, flow, segment, turn),
            Stage::Smtp => accepts_in_the_clear(packet, flow, segment, turn),
            Stage::Sizes => enough && segment.payload() <= REPLY,
            Stage::Unknown => enough && is_accepting(packet, segment, true),
        };
        if accepts {
            add32(&raw mut (*flow).messages, 1);
        }
    }
}

/// A reply in the clear. Each of several chunks is answered, also where the client did not wait for that: then the
/// last reply comes without a turn before it.
#[inline(always)]
unsafe fn accepts_in_the_clear<P: Packet>(
    packet: &P,
    flow: *mut FlowCounters,
    segment: &Segment,
    turn: u32,
) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let facts = &raw mut (*flow).facts;
        let state = (*facts).upgrade;
        let owed = turn == 0 && state & turn::LAST != 0;
        let quiet = turn != 0 && state & turn::QUIET != 0;
        if state & !upgrade::BITS != 0 {
            (*facts).upgrade = state & upgrade::BITS | if quiet { turn::ACCEPTED } else { 0 };
        }
        if !owed && (turn < MESSAGE || quiet) {
            return false;
        }
        let accepts = is_accepting(packet, segment, false);
        if !accepts && is_rejecting(packet, segment) {
            add32(&raw mut (*flow).rejected, 1);
        }
        accepts
    }
}

/// A reply by its code, or by its record where it is one. Where neither can be read its length decides, if `by_size`
/// or if its bytes are out of reach.
#[inline(always)]
fn is_accepting<P: Packet>(packet: &P, segment: &Segment, by_size: bool) -> bool {
    if segment.payload() < 4 {
        // The beginning of a reply that was cut.
        return packet.payload::<1>(segment.payload_offset).is_none_or(|first| by_size || first[0] == b'2');
    }
    let Some(bytes) = first_bytes(packet, segment) else { return segment.payload() <= REPLY };
    if is_code(bytes) {
        // RFC 5321, 4.2.1: the second digit of 2 is of a connection, of 3 of authentication (RFC 4954).
        return bytes[0] == b'2' && bytes[1] != b'2' && bytes[1] != b'3';
    }
    if is_record(bytes, APPLICATION_DATA) {
        return (LEAST_RECORD..=LONG_RECORD).contains(&record(bytes));
    }
    by_size && segment.payload() <= REPLY
}

/// Returns true if a reply's code is of a failure, for now or for good (RFC 5321, 4.2.1).
#[inline(always)]
fn is_rejecting<P: Packet>(packet: &P, segment: &Segment) -> bool {
    let bytes = first_bytes(packet, segment);
    bytes.is_some_and(|bytes| is_code(bytes) && (bytes[0] == b'4' || bytes[0] == b'5'))
}

/// A reply inside TLS to a turn of this many bytes.
#[inline(always)]
unsafe fn accepts_in_tls<P: Packet>(
    packet: &P,
    flow: *mut FlowCounters,
    segment: &Segment,
    turn: u32,
) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let facts = &raw mut (*flow).facts;
        let state = (*facts).upgrade;
        if state & turn::QUIET != 0 {
            (*facts).upgrade = state & upgrade::BITS | after_handshake(packet, segment, turn);
            return false;
        }
        let mut count = state & turn::COUNT;
        if count < turn::MANY {
            count += turn::ONE;
        }
        let record = if turn >= MESSAGE { reply_record(packet, segment) } else { 0 };
        let accepts = record >= LEAST_RECORD
            && if is_mailbox((*facts).first_payload_down, segment.source_port) {
                record <= SHORT_RECORD
            } else {
                record <= LONG_RECORD && fits(record, turn, count, state & turn::LAST)
            };
        let last = if accepts { turn::ACCEPTED } else { kind(turn, count) };
        let next = state & upgrade::BITS | count | last;
        if next != state {
            (*facts).upgrade = next;
        }
        accepts
    }
}

/// State after the reply to a handshake flight. In TLS 1.3 the client may say EHLO right behind its Finished.
#[inline(always)]
fn after_handshake<P: Packet>(packet: &P, segment: &Segment, turn: u32) -> u8 {
    let encrypted = first_bytes(packet, segment).is_some_and(|bytes| is_record(bytes, APPLICATION_DATA));
    if !encrypted || turn <= FINISHED {
        turn::COMMAND
    } else if turn <= FINISHED_AND_COMMAND {
        turn::ONE | turn::COMMAND
    } else {
        turn::ONE | turn::LONG
    }
}

/// Returns the kind of a turn of this size inside TLS; `count` is its number since the handshake.
#[inline(always)]
fn kind(turn: u32, count: u8) -> u8 {
    let (short, command) = match count {
        turn::ONE => (0, EHLO_TURN),
        turn::TWO => (0, AUTH_TURN),
        _ => (SHORT_TURN, COMMAND_TURN),
    };
    if turn < short {
        turn::SHORT
    } else if turn <= command {
        turn::COMMAND
    } else {
        turn::LONG
    }
}

/// Length of the record with which a reply begins; 0 where it begins otherwise.
#[inline(always)]
fn reply_record<P: Packet>(packet: &P, segment: &Segment) -> u32 {
    match first_bytes(packet, segment) {
        Some(bytes) if segment.payload() >= READ => {
            if is_record(bytes, APPLICATION_DATA) {
                record(bytes)
            } else {
                0
            }
        }
        // Out of reach, or cut in or right behind the header.
        _ if segment.payload() <= REPLY => NEXT_RECORD,
        _ => 0,
    }
}

/// Returns true for POP3 and IMAP: their sessions have other first turns.
#[inline(always)]
fn is_mailbox(first_payload_down: u8, server_port: u16) -> bool {
    first_payload_down == first_payload::POP3
        || first_payload_down == first_payload::IMAP
        || matches!(server_port, 110 | 143 | 993 | 995)
}

/// Returns true if a message fits between the client's `last` turn and a reply of this length.
#[inline(always)]
fn fits(record: u32, turn: u32, count: u8, last: u8) -> bool {
    // The first turns are EHLO and AUTH: a message follows on several commands only (RFC 2920).
    if count == turn::ONE || count < turn::MANY && last != turn::LONG && last != turn::ACCEPTED {
        return false;
    }
    // These turns may be many commands instead: then the reply is long compared with them, or that of a command.
    match last {
        turn::ACCEPTED => record >= NEXT_RECORD && turn >= record * TIMES,
        turn::COMMAND if record > SHORT_RECORD => turn >= record * TIMES,
        _ => true,
    }
}

/// Bytes that are read of a packet which has them.
const READ: u32 = 8;
const CHANGE_CIPHER_SPEC: u8 = 0x14;
const HANDSHAKE: u8 = 0x16;
const APPLICATION_DATA: u8 = 0x17;

/// Returns true if bytes begin a TLS record of this type (RFC 8446, 5.1).
#[inline(always)]
fn is_record(bytes: [u8; 8], kind: u8) -> bool {
    bytes[0] == kind && bytes[1] == 3 && bytes[2] <= 4
}

/// Length of a TLS record without its header.
#[inline(always)]
fn record(bytes: [u8; 8]) -> u32 {
    u32::from(u16::from_be_bytes([bytes[3], bytes[4]]))
}

/// Returns true if bytes begin with a reply code (RFC 5321, 4.2.1).
#[inline(always)]
fn is_code(bytes: [u8; 8]) -> bool {
    matches!(bytes[0], b'2'..=b'5')
        && bytes[1].is_ascii_digit()
        && bytes[2].is_ascii_digit()
        && matches!(bytes[3], b' ' | b'-' | b'\r' | b'\n')
}

/// Returns true if bytes begin with a word of four letters and a blank or the line's end.
#[inline(always)]
fn is_word(bytes: [u8; 8], letters: &[u8; 4]) -> bool {
    word(bytes) & UPPER == u32::from_be_bytes(*letters) && matches!(bytes[4], b' ' | b'\r' | 0)
}
