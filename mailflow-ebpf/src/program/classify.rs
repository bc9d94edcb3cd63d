//! Application facts from the first payload bytes.

use mailflow_common::{FlowCounters, first_payload, hook_orientation, turn, upgrade};
use mailflow_ebpf::{Header, Segment};

use super::{
    context::Packet,
    estimate,
    payload::{UPPER, first_bytes, word},
};

/// Number of payload packets of a flow that are inspected: enough for greeting, EHLO, STARTTLS and TLS.
const MAX_INSPECTED: u8 = 16;

/// Looks at a segment with payload.
#[inline(always)]
pub(super) unsafe fn inspect<P: Packet>(packet: &P, flow: *mut FlowCounters, segment: &Segment, up: bool) {
    // SAFETY: the caller's: an element of a preallocated map. What several CPUs may write here at
    // once are single bytes and words, each of them right.
    unsafe {
        let facts = &raw mut (*flow).facts;
        let inspected = (*facts).inspected & !hook_orientation::BITS;
        let inspects = inspected < MAX_INSPECTED && segment.is_tcp();
        if inspects {
            (*facts).inspected += 1;
        }
        if up {
            if inspects {
                inspect_client(packet, flow, segment, inspected);
            }
            estimate::sent(packet, flow, segment);
        } else {
            estimate::answered(packet, flow, segment);
            if inspects {
                inspect_server(packet, flow, segment, inspected);
            }
        }
        let known =
            if up { &raw mut (*facts).first_payload_up } else { &raw mut (*facts).first_payload_down };
        if *known == first_payload::NONE {
            *known = first_payload::UNREAD;
        }
    }
}

/// Inspects one of a flow's first payload packets, from the client; `looked` came before it.
#[inline(always)]
unsafe fn inspect_client<P: Packet>(packet: &P, flow: *mut FlowCounters, segment: &Segment, inspected: u8) {
    // SAFETY: the caller's.
    unsafe {
        let facts = &raw mut (*flow).facts;
        let Some(bytes) = first_bytes(packet, segment) else { return };
        if is_first_payload((*facts).first_payload_up, (*facts).syn, (*flow).isn_up, inspected, segment) {
            // Who speaks after the server has spoken may say anything.
            (*facts).first_payload_up = client_first_payload(bytes, inspected == 0);
        }
        let asked = (*facts).upgrade & upgrade::BITS;
        if asked == upgrade::ASKED && is_tls(bytes) {
            // The handshake comes next, which accepts no message.
            (*facts).upgrade = upgrade::FOLLOWED | turn::QUIET;
        } else if asked == upgrade::NONE && (asks_for_tls(bytes) || ends_with_starttls(packet, segment)) {
            (*facts).upgrade |= upgrade::ASKED;
        }
    }
}

/// Inspects one of a flow's first payload packets, from the server.
#[inline(always)]
unsafe fn inspect_server<P: Packet>(packet: &P, flow: *mut FlowCounters, segment: &Segment, inspected: u8) {
    // SAFETY: the caller's.
    unsafe {
        let facts = &raw mut (*flow).facts;
        if is_first_payload(
            (*facts).first_payload_down,
            (*facts).syn_ack,
            (*flow).isn_down,
            inspected,
            segment,
        ) && let Some(bytes) = first_bytes(packet, segment)
        {
            (*facts).first_payload_down = server_first_payload(bytes);
        }
    }
}

/// Returns true if `segment` has the first bytes of its direction: by its sequence number if the SYN was seen, otherwise
/// if hardly anything came before it.
#[inline(always)]
fn is_first_payload(known: u8, syn: u8, isn: u32, inspected: u8, segment: &Segment) -> bool {
    if known != first_payload::NONE && known != first_payload::UNREAD {
        return false;
    }
    let tcp = segment.tcp;
    if syn != 0 {
        // RFC 7413: a SYN may carry the first bytes itself, and so may its answer. It takes a number itself.
        tcp.sequence.wrapping_add(u32::from(tcp.opens())) == isn.wrapping_add(1)
    } else {
        known == first_payload::NONE && inspected < 2
    }
}

/// A TLS handshake or alert record (RFC 8446, 5.1).
#[inline(always)]
fn is_tls(bytes: [u8; 8]) -> bool {
    (bytes[0] == 0x16 || bytes[0] == 0x15) && bytes[1] == 3 && bytes[2] <= 4
}

#[inline(always)]
fn asks_for_tls(bytes: [u8; 8]) -> bool {
    is_starttls(bytes) || word(bytes) & UPPER == u32::from_be_bytes(*b"STLS")
}

#[inline(always)]
fn is_starttls(bytes: [u8; 8]) -> bool {
    let second = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    word(bytes) & UPPER == u32::from_be_bytes(*b"STAR") && second & UPPER == u32::from_be_bytes(*b"TTLS")
}

/// IMAP's form of the command, behind a tag of any length (RFC 9051, 6.2.1).
#[inline(always)]
fn ends_with_starttls<P: Packet>(packet: &P, segment: &Segment) -> bool {
    const COMMAND: u32 = b"STARTTLS\r\n".len() as u32;
    const LONGEST: u32 = 64;
    if segment.payload() <= COMMAND || segment.payload() > LONGEST {
        return false;
    }
    packet.payload(segment.payload_offset + segment.payload() - COMMAND).is_some_and(is_starttls)
}

#[inline(always)]
fn client_first_payload(bytes: [u8; 8], speaks_first: bool) -> u8 {
    let first = word(bytes) & UPPER;
    if is_tls(bytes) {
        first_payload::TLS
    } else if first == u32::from_be_bytes(*b"EHLO")
        || first == u32::from_be_bytes(*b"HELO")
        || first == u32::from_be_bytes(*b"LHLO")
    {
        first_payload::SMTP
    } else if speaks_first {
        first_payload::OTHER
    } else {
        first_payload::UNREAD
    }
}

#[inline(always)]
fn server_first_payload(bytes: [u8; 8]) -> u8 {
    let first = word(bytes);
    let code = first >> 8;
    let second = bytes[3];
    if is_tls(bytes) {
        first_payload::TLS
    } else if (code == u32::from_be_bytes(*b"\x00220")
        || code == u32::from_be_bytes(*b"\x00421")
        || code == u32::from_be_bytes(*b"\x00554"))
        && (second == b' ' || second == b'-' || second == b'\r')
    {
        first_payload::SMTP
    } else if code == u32::from_be_bytes(*b"\x00+OK") || first == u32::from_be_bytes(*b"-ERR") {
        first_payload::POP3
    } else if first & 0xffff_dfdf == u32::from_be_bytes(*b"* OK")
        || first & 0xffff_dfdf == u32::from_be_bytes(*b"* PR")
        || first & 0xffff_dfdf == u32::from_be_bytes(*b"* BY")
    {
        first_payload::IMAP
    } else {
        first_payload::OTHER
    }
}

/// The client's MAC address: the sender's of what goes up, the receiver's of what comes down.
#[inline(always)]
pub(super) fn client_mac<P: Packet>(packet: &P, up: bool) -> [u8; 6] {
    let Some(ethernet): Option<P::Header> = packet.header::<14>(0) else { return [0; 6] };
    let (high, low) = if up {
        (ethernet.raw32::<6>(), ethernet.be16::<10>())
    } else {
        (ethernet.raw32::<0>(), ethernet.be16::<4>())
    };
    let (high, low) = (high.to_ne_bytes(), low.to_be_bytes());
    [high[0], high[1], high[2], high[3], low[0], low[1]]
}
