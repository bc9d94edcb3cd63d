//! The counter: from a frame to what is counted.

use mailflow_common::{PROTOCOL_UDP, Reason, is_tunnel, owner};
use mailflow_ebpf::{Link, Located, glance, locate};

use super::{
    context::Packet,
    fast_path::known,
    fragments,
    hook::{Hook, Toward, Whose},
    log,
    slow_path::{self, join},
};
use crate::maps;

/// Counts one frame: to its flow, or to the reason why not.
#[inline(always)]
pub(super) fn count<P: Packet>(packet: P, link: Link, toward: Toward, whose: Whose) {
    let mut pulled = false;
    loop {
        match book(&packet, link, toward, whose) {
            Ok(()) => return,
            // Headers may lie outside the linear area (drivers that receive into pages).
            Err(Reason::Truncated) if !pulled && packet.pull() => pulled = true,
            Err(reason) => {
                let Some(totals) = maps::totals() else { return };
                // SAFETY: this CPU's own element.
                unsafe { (*totals).reasons[reason as usize & 15] += 1 };
                log::lost(reason, || packet.length());
                return;
            }
        }
    }
}

#[inline(always)]
fn book<P: Packet>(packet: &P, link: Link, toward: Toward, whose: Whose) -> Result<(), Reason> {
    match &glance(packet, link, packet.metadata()) {
        Some(plain) if !wanted(toward, plain.source_port, plain.destination_port) => {
            return Err(unwanted(plain.protocol, plain.destination_port));
        }
        Some(plain) => {
            if !(whose == Whose::Made && maps::local_only())
                && let Some(totals) = maps::totals()
                && let Some(scratch) = maps::scratch()
                // SAFETY: this CPU's own elements.
                && unsafe { known(packet, plain, toward, scratch, totals) }
            {
                return Ok(());
            }
            note_packet(packet, plain.located(packet), toward, whose)?;
        }
        None => {
            let located = locate(packet, link, packet.metadata())?;
            let Some((source, destination)) = located.ports() else {
                return fragments::later(packet, &located, toward);
            };
            if !wanted(toward, source, destination) {
                let reason = unwanted(located.protocol(), destination);
                let owner = if reason == Reason::UdpTunnel { owner::TUNNELLED } else { owner::UNWATCHED };
                fragments::refused(packet, &located, toward, owner);
                return Err(reason);
            }
            note_packet(packet, located, toward, whose)?;
        }
    }
    let (Some(scratch), Some(totals)) = (maps::scratch(), maps::totals()) else { return Ok(()) };
    let hook = Hook::new(link, toward, whose);
    // SAFETY: both are this CPU's own; what is found is an element of a preallocated map.
    let answer = unsafe {
        match slow_path::owner(*packet, scratch, totals, hook) {
            slow_path::OPEN => join(*packet, scratch, totals, hook),
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

/// Follows a packet to the end of its headers, and notes in the scratch what is known of it.
#[inline(always)]
fn note_packet<P: Packet>(packet: &P, located: Located, toward: Toward, whose: Whose) -> Result<(), Reason> {
    let segment = located.segment(packet)?;
    if whose == Whose::Made && maps::local_only() && packet.came_by() != 0 {
        fragments::refused(packet, &located, toward, owner::FOREIGN);
        return Err(Reason::NotLocal);
    }
    if let Some(scratch) = maps::scratch() {
        // SAFETY: this CPU's own.
        unsafe {
            (&raw mut (*scratch).located).write(located.of(&segment));
            (&raw mut (*scratch).segment).write(segment);
        }
    }
    Ok(())
}

/// Returns the reason for a packet to this port that is not counted.
#[inline(always)]
fn unwanted(protocol: u8, destination: u16) -> Reason {
    if protocol == PROTOCOL_UDP && is_tunnel(destination) { Reason::UdpTunnel } else { Reason::NotWatched }
}

/// Whether a packet between these ports is counted.
#[inline(always)]
fn wanted(toward: Toward, source: u16, destination: u16) -> bool {
    match toward {
        Toward::Server => maps::watched(destination),
        Toward::Client => maps::watched(source),
        Toward::Both => maps::watched(destination) || maps::watched(source),
    }
}
