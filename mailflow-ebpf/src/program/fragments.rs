//! Packets that come in fragments: only the first one has ports, the others belong to its flow.

use mailflow_common::{FlowCounters, FlowKey, FragmentKey, Reason, Totals, owner};
use mailflow_ebpf::{Fragment, Located};

use super::{
    count::{Sum, Toward, add, add32},
    maps::{self, Scratch, fragments, table},
    spill,
};

/// This CPU's scratch with the key of a fragment's packet and what is known of it.
#[inline(always)]
fn prepare(fragment: &Fragment, toward: Toward, direction: u32) -> Option<*mut Scratch> {
    let scratch = maps::scratch()?;
    // SAFETY: this CPU's own element.
    unsafe {
        (*scratch).fragment = FragmentKey {
            source: fragment.source,
            destination: fragment.destination,
            identification: fragment.identification,
            scope: fragment.scope,
            hook: toward as u32,
        };
        (*scratch).owner.direction = direction;
        (*scratch).owner.waiting = 0;
        (*scratch).owner.waiting_bytes = 0;
        (*scratch).owner.waiting_payload = 0;
    }
    Some(scratch)
}

/// A first fragment was counted, to its flow or, where that is null, to its source: those that came
/// before it are counted now, and those to come will find the same.
#[inline(always)]
pub(super) unsafe fn first(
    fragment: &Fragment,
    toward: Toward,
    key: &FlowKey,
    flow: *mut FlowCounters,
    up: bool,
    totals: *mut Totals,
) {
    let direction = if up { owner::UP } else { owner::DOWN };
    let Some(scratch) = prepare(fragment, toward, direction) else { return };
    // SAFETY: this CPU's own element; the rest is the caller's.
    unsafe {
        (*scratch).owner.flow = *key;
        claim(scratch, flow, totals);
    }
}

#[inline(never)]
unsafe fn claim(scratch: *mut Scratch, flow: *mut FlowCounters, totals: *mut Totals) {
    // SAFETY: the caller's: this CPU's own elements, and one of a preallocated map. What is found is an
    // element of the map; at worst another packet's, whose numbers are small. The sum of a reason over
    // all CPUs is right though this one's share may go below zero.
    unsafe {
        let key = &raw const (*scratch).fragment;
        let up = (*scratch).owner.direction == owner::UP;
        if let Some(known) = fragments::find(&*key)
            && (*known).direction == owner::UNKNOWN
        {
            let waiting = (*known).waiting;
            (*scratch).sum = Sum {
                buffers: waiting,
                packets: waiting,
                payload: (*known).waiting_payload,
                bytes: u64::from((*known).waiting_bytes),
            };
            if waiting != 0 {
                let reason = &raw mut (*totals).reasons[Reason::Fragment as usize];
                *reason = (*reason).wrapping_sub(u64::from(waiting));
                if flow.is_null() {
                    spill::fragments(scratch, &(*scratch).owner.flow, up, totals);
                } else {
                    add(flow, totals, up, &(*scratch).sum);
                    if up {
                        add32(&raw mut (*flow).pending, (*scratch).sum.payload);
                    }
                }
            }
        }
        fragments::note(&*key, &(*scratch).owner);
    }
}

/// A first fragment was not counted, for what `owner` says: the others will not be either.
#[inline(always)]
pub(super) fn refused(located: &Located, toward: Toward, owner: u32, totals: *mut Totals) {
    if let Some(fragment) = located.fragment()
        && let Some(scratch) = prepare(&fragment, toward, owner)
    {
        // SAFETY: both are this CPU's own elements.
        unsafe { disown(scratch, totals) };
    }
}

#[inline(never)]
unsafe fn disown(scratch: *const Scratch, totals: *mut Totals) {
    // SAFETY: the caller's, and as in `claim`.
    unsafe {
        let (key, owner) = (&(*scratch).fragment, &(*scratch).owner);
        if let Some(known) = fragments::find(key)
            && (*known).direction == owner::UNKNOWN
        {
            let waiting = u64::from((*known).waiting);
            let reasons = &raw mut (*totals).reasons;
            (*reasons)[Reason::Fragment as usize] =
                (*reasons)[Reason::Fragment as usize].wrapping_sub(waiting);
            let reason =
                if owner.direction == owner::FOREIGN { Reason::NotLocal } else { Reason::NotWatched };
            (*reasons)[reason as usize & 15] += waiting;
        }
        fragments::note(key, owner);
    }
}

/// Counts a fragment without ports.
#[inline(always)]
pub(super) fn later(located: &Located, toward: Toward, totals: *mut Totals) -> Result<(), Reason> {
    let fragment = located.later()?;
    let scratch = prepare(&fragment, toward, owner::UNKNOWN).ok_or(Reason::Fragment)?;
    // SAFETY: both are this CPU's own elements.
    match unsafe { follow(scratch, fragment.length, fragment.length - fragment.headers, totals) } {
        COUNTED => Ok(()),
        owner::UNWATCHED => Err(Reason::NotWatched),
        owner::FOREIGN => Err(Reason::NotLocal),
        _ => Err(Reason::Fragment),
    }
}

/// What [`follow`] answers where it has counted; else it is what is known of the packet.
const COUNTED: u32 = u32::MAX;

/// Counts a fragment to the flow of its first one, or lets it wait for that.
#[inline(never)]
unsafe fn follow(scratch: *mut Scratch, bytes: u32, payload: u32, totals: *mut Totals) -> u32 {
    // SAFETY: the caller's; what is found are elements of maps: words that are read and written whole.
    unsafe {
        let Some(known) = fragments::find(&(*scratch).fragment) else {
            (*scratch).owner.waiting = 1;
            (*scratch).owner.waiting_bytes = bytes;
            (*scratch).owner.waiting_payload = payload;
            fragments::note(&(*scratch).fragment, &(*scratch).owner);
            return owner::UNKNOWN;
        };
        let direction = (*known).direction;
        if direction == owner::UNKNOWN {
            add32(&raw mut (*known).waiting, 1);
            add32(&raw mut (*known).waiting_bytes, bytes);
            add32(&raw mut (*known).waiting_payload, payload);
        }
        if direction != owner::UP && direction != owner::DOWN {
            return direction;
        }
        let up = direction == owner::UP;
        (*scratch).sum = Sum { buffers: 1, packets: 1, payload, bytes: u64::from(bytes) };
        let Some(flow) = table::find(&(*known).flow) else {
            spill::fragments(scratch, &(*known).flow, up, totals);
            return COUNTED;
        };
        add(flow, totals, up, &(*scratch).sum);
        if up {
            add32(&raw mut (*flow).pending, payload);
        }
        COUNTED
    }
}
