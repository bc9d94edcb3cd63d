//! Fragmented packets: only the first fragment has ports, the others belong to its flow.

use mailflow_common::{FlowKey, Reason, fragment_owner, pieces};
use mailflow_ebpf::{Fragment, ParsedHeaders};

use super::{
    context::Packet,
    counters::{add_to_flow, add_to_totals},
    hook::Direction,
    overflow,
};
use crate::maps::{self, PacketSum, Scratch, add32, flow_table, fragments};

/// This CPU's scratch with the key of a fragment's packet and what is known of it.
#[inline(always)]
fn prepare<P: Packet>(
    packet: &P,
    parsed: &ParsedHeaders,
    fragment: &Fragment,
    direction: Direction,
    owner: u32,
    headers: u16,
) -> Option<*mut Scratch> {
    let scratch = maps::scratch()?;
    // SAFETY: this CPU's own element.
    unsafe {
        let key = &mut (*scratch).fragment;
        (key.source, key.destination) = parsed.addresses(packet).ok()?;
        key.identification = fragment.identification;
        key.scope = fragment.scope;
        key.hook = direction as u32;
        (*scratch).owner.direction = owner as u16;
        (*scratch).owner.headers = headers;
        (*scratch).owner.waiting = 0;
        (*scratch).owner.waiting_units = 0;
        (*scratch).owner.waiting_bytes = 0;
        (*scratch).owner.waiting_payload = 0;
    }
    Some(scratch)
}

/// A packet was counted to the flow `key` or, where there is none, to its source. If it was a first
/// fragment, those that came before it are counted now, and those to come will find the same.
#[inline(always)]
pub(super) unsafe fn record_first<P: Packet>(
    packet: &P,
    parsed: &ParsedHeaders,
    direction: Direction,
    key: &FlowKey,
    up: bool,
) {
    let Some(fragment) = parsed.fragment(packet) else { return };
    let owner = if up { fragment_owner::UP } else { fragment_owner::DOWN };
    let headers = parsed.headers_end(packet);
    let Some(scratch) = prepare(packet, parsed, &fragment, direction, owner, headers) else { return };
    // SAFETY: this CPU's own element; the rest is the caller's.
    unsafe {
        (*scratch).owner.flow = *key;
        claim(scratch);
    }
}

#[inline(never)]
unsafe fn claim(scratch: *mut Scratch) {
    // SAFETY: the caller's: this CPU's own elements. What is found are elements of maps; at worst another
    // packet's, whose numbers are small. The sum of a reason over all CPUs is right though this one's
    // share may go below zero.
    unsafe {
        let key = &raw const (*scratch).fragment;
        let up = u32::from((*scratch).owner.direction) == fragment_owner::UP;
        if let Some(known) = fragments::lookup(&*key)
            && u32::from((*known).direction) == fragment_owner::UNKNOWN
        {
            let waiting = u32::from((*known).waiting);
            if (*scratch).owner.headers & pieces::LEAST != 0 && (*known).headers != 0 {
                (*scratch).owner.headers = (*known).headers;
            }
            let headers = pieces::of_headers((*known).waiting_units, (*scratch).owner.headers);
            (*scratch).sum = PacketSum {
                buffers: waiting,
                packets: waiting,
                payload: (*known).waiting_payload.saturating_sub(headers),
                bytes: u64::from((*known).waiting_bytes),
            };
            if waiting != 0 {
                if let Some(totals) = maps::totals() {
                    let reason = &raw mut (*totals).reasons[Reason::Fragment as usize];
                    *reason = (*reason).wrapping_sub(u64::from(waiting));
                }
                put(scratch, &raw const (*scratch).owner.flow, up);
            }
        }
        fragments::insert(&*key, &(*scratch).owner);
    }
}

/// Records that a first fragment was not counted, for the reason `owner`: the others will not be either.
#[inline(always)]
pub(super) fn reject_fragments<P: Packet>(
    packet: &P,
    parsed: &ParsedHeaders,
    direction: Direction,
    owner: u32,
) {
    if let Some(fragment) = parsed.fragment(packet)
        && let Some(scratch) = prepare(packet, parsed, &fragment, direction, owner, 0)
    {
        // SAFETY: both are this CPU's own elements.
        unsafe { store_rejection(scratch) };
    }
}

#[inline(never)]
unsafe fn store_rejection(scratch: *const Scratch) {
    // SAFETY: the caller's, and as in `claim`.
    unsafe {
        let (key, owner) = (&(*scratch).fragment, &(*scratch).owner);
        if let Some(known) = fragments::lookup(key)
            && u32::from((*known).direction) == fragment_owner::UNKNOWN
            && let Some(totals) = maps::totals()
        {
            let waiting = u64::from((*known).waiting);
            let reasons = &raw mut (*totals).reasons;
            (*reasons)[Reason::Fragment as usize] =
                (*reasons)[Reason::Fragment as usize].wrapping_sub(waiting);
            let reason = refusal(u32::from(owner.direction)).unwrap_or(Reason::NotWatched);
            (*reasons)[reason as usize & 15] += waiting;
        }
        fragments::insert(key, owner);
    }
}

/// Counts a fragment without ports.
#[inline(always)]
pub(super) fn count_later<P: Packet>(
    packet: &P,
    parsed: &ParsedHeaders,
    direction: Direction,
) -> Result<(), Reason> {
    let fragment = parsed.later(packet)?;
    let headers = parsed.headers_end(packet);
    let scratch = prepare(packet, parsed, &fragment, direction, fragment_owner::UNKNOWN, headers)
        .ok_or(Reason::Fragment)?;
    // SAFETY: both are this CPU's own elements.
    match unsafe { follow(scratch, fragment.length, fragment.bytes(), fragment.units()) } {
        COUNTED => Ok(()),
        owner => Err(refusal(owner).unwrap_or(Reason::Fragment)),
    }
}

/// Returns why the fragments of such a packet are not counted, if that is known.
#[inline(always)]
fn refusal(owner: u32) -> Option<Reason> {
    match owner {
        fragment_owner::UNWATCHED => Some(Reason::NotWatched),
        fragment_owner::FOREIGN => Some(Reason::NotLocal),
        fragment_owner::TUNNELLED => Some(Reason::UdpTunnel),
        _ => None,
    }
}

/// Answer of [`follow`] if it has counted the fragment; otherwise it is the owner of the packet.
const COUNTED: u32 = u32::MAX;

/// Counts a fragment to the flow of its first one, or lets it wait for that.
#[inline(never)]
unsafe fn follow(scratch: *mut Scratch, bytes: u32, payload: u32, units: u16) -> u32 {
    // SAFETY: the caller's; what is found are elements of maps: words that are read and written whole.
    unsafe {
        let Some(known) = fragments::lookup(&(*scratch).fragment) else {
            (*scratch).owner.waiting = 1;
            (*scratch).owner.waiting_units = units;
            (*scratch).owner.waiting_bytes = bytes;
            (*scratch).owner.waiting_payload = payload;
            fragments::insert(&(*scratch).fragment, &(*scratch).owner);
            return fragment_owner::UNKNOWN;
        };
        let direction = u32::from((*known).direction);
        let told = (*scratch).owner.headers;
        if told != 0 && ((*known).headers == 0 || (*known).headers & pieces::LEAST != 0) {
            (*known).headers = told;
        }
        if direction == fragment_owner::UNKNOWN {
            // With the half word behind it, as additions to less than a word are not atomic.
            add32((&raw mut (*known).waiting).cast(), 1);
            (*known).waiting_units |= units;
            add32(&raw mut (*known).waiting_bytes, bytes);
            add32(&raw mut (*known).waiting_payload, payload);
        }
        if direction != fragment_owner::UP && direction != fragment_owner::DOWN {
            return direction;
        }
        let up = direction == fragment_owner::UP;
        let payload = payload.saturating_sub(pieces::of_headers(units, (*known).headers));
        (*scratch).sum = PacketSum { buffers: 1, packets: 1, payload, bytes: u64::from(bytes) };
        put(scratch, &raw const (*known).flow, up);
        COUNTED
    }
}

/// Adds the scratch's sum to a flow or, where it has no place in the table, to its source.
#[inline(always)]
unsafe fn put(scratch: *mut Scratch, key: *const FlowKey, up: bool) {
    // SAFETY: the caller's: this CPU's own element.
    unsafe {
        flow_table::set_key_outlined(scratch, key);
        let flow = flow_table::lookup(scratch);
        if flow.is_null() {
            overflow::count_fragments(scratch, &*key, up);
        } else {
            add_to_flow(flow, up, &(*scratch).sum, maps::now());
            add_to_totals(up, &(*scratch).sum);
        }
    }
}
