//! Counts a packet: parse, fast path, slow path, or the reason why it is not counted.

use mailflow_common::{PROTOCOL_UDP, Reason, fragment_owner, is_tunnel};
use mailflow_ebpf::{Link, ParsedHeaders, parse_fast, parse_headers};

use super::{
    context::Packet,
    fast_path::count_established,
    fragments,
    hook::{Direction, Hook, HostFilter},
    log,
    slow_path::{self, update_flow},
};
use crate::maps;

/// Counts one frame: to its flow, or to the reason why not.
#[inline(always)]
pub(super) fn count<P: Packet>(packet: P, link: Link, direction: Direction, host_filter: HostFilter) {
    let mut pulled = false;
    loop {
        match count_packet(&packet, link, direction, host_filter) {
            Ok(()) => return,
            // Headers may lie outside the linear area (drivers that receive into pages).
            Err(Reason::Truncated) if !pulled && packet.pull() => pulled = true,
            Err(reason) => {
                let Some(totals) = maps::totals() else { return };
                // SAFETY: this CPU's own element.
                unsafe { (*totals).reasons[reason as usize & 15] += 1 };
                log::log_uncounted(reason, || packet.length());
                return;
            }
        }
    }
}

#[inline(always)]
fn count_packet<P: Packet>(
    packet: &P,
    link: Link,
    direction: Direction,
    host_filter: HostFilter,
) -> Result<(), Reason> {
    match &parse_fast(packet, link, packet.metadata()) {
        Some(plain) if !is_watched(direction, plain.source_port, plain.destination_port) => {
            return Err(unwatched_reason(plain.protocol, plain.destination_port));
        }
        Some(plain) => {
            if !(host_filter == HostFilter::LocalOut && maps::count_local_only())
                && let Some(totals) = maps::totals()
                && let Some(scratch) = maps::scratch()
                // SAFETY: this CPU's own elements.
                && unsafe { count_established(packet, plain, direction, scratch, totals) }
            {
                return Ok(());
            }
            store_headers(packet, plain.parsed(packet), direction, host_filter)?;
        }
        None => {
            let parsed = parse_headers(packet, link, packet.metadata())?;
            let Some((source, destination)) = parsed.ports() else {
                return fragments::count_later(packet, &parsed, direction);
            };
            if !is_watched(direction, source, destination) {
                let reason = unwatched_reason(parsed.protocol(), destination);
                let owner = if reason == Reason::UdpTunnel {
                    fragment_owner::TUNNELLED
                } else {
                    fragment_owner::UNWATCHED
                };
                fragments::reject_fragments(packet, &parsed, direction, owner);
                return Err(reason);
            }
            store_headers(packet, parsed, direction, host_filter)?;
        }
    }
    let (Some(scratch), Some(totals)) = (maps::scratch(), maps::totals()) else { return Ok(()) };
    let hook = Hook::new(link, direction, host_filter);
    // SAFETY: both are this CPU's own; what is found is an element of a preallocated map.
    let answer = unsafe {
        match slow_path::find_or_create(*packet, scratch, totals, hook) {
            slow_path::FOUND => update_flow(*packet, scratch, totals, hook),
            answer => answer,
        }
    };
    match answer {
        slow_path::COUNTED => Ok(()),
        slow_path::NOT_LOCAL => Err(Reason::NotLocal),
        slow_path::NOT_WATCHED => Err(Reason::NotWatched),
        _ => Err(Reason::Truncated),
    }
}

/// Parses the headers, and stores them in the scratch memory.
#[inline(always)]
fn store_headers<P: Packet>(
    packet: &P,
    parsed: ParsedHeaders,
    direction: Direction,
    host_filter: HostFilter,
) -> Result<(), Reason> {
    let segment = parsed.segment(packet)?;
    if host_filter == HostFilter::LocalOut && maps::count_local_only() && packet.ingress_interface() != 0 {
        fragments::reject_fragments(packet, &parsed, direction, fragment_owner::FOREIGN);
        return Err(Reason::NotLocal);
    }
    if let Some(scratch) = maps::scratch() {
        // SAFETY: this CPU's own.
        unsafe {
            (&raw mut (*scratch).parsed).write(parsed.of(&segment));
            (&raw mut (*scratch).segment).write(segment);
        }
    }
    Ok(())
}

/// Returns the reason for a packet to this port that is not counted.
#[inline(always)]
fn unwatched_reason(protocol: u8, destination: u16) -> Reason {
    if protocol == PROTOCOL_UDP && is_tunnel(destination) { Reason::UdpTunnel } else { Reason::NotWatched }
}

/// Returns true if packets between these ports are counted.
#[inline(always)]
fn is_watched(direction: Direction, source: u16, destination: u16) -> bool {
    match direction {
        Direction::ToServer => maps::watched(destination),
        Direction::FromServer => maps::watched(source),
        Direction::Both => maps::watched(destination) || maps::watched(source),
    }
}
