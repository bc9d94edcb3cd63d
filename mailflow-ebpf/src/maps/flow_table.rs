//! The flow table: buckets, and a fallback map for flows whose bucket is full.

use aya_ebpf::bindings::BPF_NOEXIST;
use mailflow_common::{
    BUCKET_SLOTS, FlowCounters, FlowKey, FlowTableKey, SourceOverflowCounters, SourceOverflowKey,
    SupersededKey,
};

use super::{
    atomic::{add64, sub64},
    buckets::{self, InsertOutcome},
    definitions::{FLOWS, OVERFLOW, SOURCE_SKETCH, SUPERSEDED},
    scratch::Scratch,
    settings::{entries_inserted, entry_limits, source_limit},
};

/// Side whose packet inserts an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum InsertedBy {
    /// A client, whose address may be spoofed. It inserts only within the limit of
    /// [`EntryCounts`](mailflow_common::EntryCounts).
    Client,
    /// A server that sends to the client, other than RST.
    Server,
}

/// Sets the key that [`lookup`] and [`insert`] use.
#[inline(always)]
pub(crate) unsafe fn set_key(scratch: *mut Scratch, key: *const FlowKey) {
    // SAFETY: the caller's: this CPU's own element, and a key.
    unsafe { ((*scratch).table_key, (*scratch).entry.remainder) = FlowTableKey::of(&*key) }
}

/// [`set_key`] as a separate function, for slow paths.
#[inline(never)]
pub(crate) unsafe fn set_key_outlined(scratch: *mut Scratch, key: *const FlowKey) {
    // SAFETY: the caller's.
    unsafe { set_key(scratch, key) }
}

/// Returns the counters of the flow; null if there is none. Not an `Option`: the compiler may leave part of
/// one undefined, and the verifier then sees stale stack.
#[inline(never)]
pub(crate) unsafe fn lookup(scratch: *mut Scratch) -> *mut FlowCounters {
    // SAFETY: the caller's: this CPU's own element.
    unsafe {
        let found = &raw mut (*scratch).cached;
        let (place, rest) = (&raw const (*scratch).table_key, &raw const (*scratch).entry.remainder);
        (*found).way = BUCKET_SLOTS as u32;
        if let Some(bucket_of) = buckets::bucket_of(place, rest) {
            let way = bucket_of.find_slot(place, rest);
            let flow = bucket_of.counters(way);
            if !flow.is_null() || !bucket_of.has_fallback_entries() {
                (*found).set = bucket_of.number;
                (*found).way = way as u32;
                (*found).is = u32::from(!flow.is_null());
                return flow;
            }
        }
        let flow = lookup_fallback(scratch);
        (*found).is = u32::from(!flow.is_null());
        flow
    }
}

/// Returns what [`lookup`] found last.
#[inline(always)]
pub(crate) unsafe fn cached_entry(scratch: *mut Scratch) -> *mut FlowCounters {
    // SAFETY: the caller's: this CPU's own element.
    unsafe {
        let found = &raw const (*scratch).cached;
        let way = (&raw const (*found).way).read_volatile() as usize;
        if (&raw const (*found).is).read_volatile() == 0 {
            core::ptr::null_mut()
        } else if way < BUCKET_SLOTS {
            buckets::counters((&raw const (*found).set).read_volatile(), way)
        } else {
            lookup_fallback(scratch)
        }
    }
}

/// [`lookup`] for a key that is IPv4 for certain, for the fast path.
#[inline(always)]
pub(crate) unsafe fn lookup_v4(scratch: *mut Scratch) -> *mut FlowCounters {
    // SAFETY: the caller's: this CPU's own element.
    unsafe {
        let place = &raw const (*scratch).table_key;
        if let Some(bucket_of) = buckets::bucket_of(place, core::ptr::null()) {
            let flow = bucket_of.counters(bucket_of.find_slot(place, core::ptr::null()));
            if !flow.is_null() || !bucket_of.has_fallback_entries() {
                return flow;
            }
        }
        lookup_fallback(scratch)
    }
}

/// Returns the counters of the flow in the fallback map; null if it is not there.
#[inline(always)]
unsafe fn lookup_fallback(scratch: *mut Scratch) -> *mut FlowCounters {
    // SAFETY: the caller's: this CPU's own element; what is found is an element of a preallocated map.
    unsafe { FLOWS.get_ptr_mut(&*full_key(scratch)).unwrap_or(core::ptr::null_mut()) }
}

/// Writes the full key of the flow into the scratch memory.
#[inline(always)]
unsafe fn full_key(scratch: *mut Scratch) -> *const FlowKey {
    // SAFETY: the caller's: this CPU's own element.
    unsafe {
        (*scratch).full_key = (*scratch).table_key.flow(&(*scratch).entry.remainder);
        &raw const (*scratch).full_key
    }
}

/// Returns the cells of the sketch that count the flows of a source.
#[inline(always)]
fn cells(key: &FlowKey) -> Option<[*mut u64; 2]> {
    // SAFETY: words that are only ever written whole.
    let source_limit = unsafe { &*source_limit() };
    let [first, second] = source_limit.cells(&source_limit.source(&key.client));
    Some([SOURCE_SKETCH.get_ptr_mut(first)?, SOURCE_SKETCH.get_ptr_mut(second)?])
}

/// Inserts the flow with the counters in the scratch memory. Returns false if there is one already, if its
/// source has reached its limit, or if there is no room for an entry of `inserted_by`.
#[inline(always)]
pub(crate) unsafe fn insert(scratch: *mut Scratch, key: &FlowKey, inserted_by: InsertedBy) -> bool {
    // SAFETY: aligned words that are only ever written whole.
    unsafe {
        if inserted_by == InsertedBy::Client
            && (&raw const (*entries_inserted()).flows).read_volatile()
                >= (&raw const (*entry_limits()).flows).read_volatile()
        {
            return false;
        }
    }
    let Some([first, second]) = cells(key) else { return false };
    // SAFETY: elements of an array; every CPU adds to them atomically. The scratch is the caller's.
    unsafe {
        let most = (*source_limit()).max_flows;
        // Another source may share one of them, hardly both.
        if first.read_volatile() >= most && second.read_volatile() >= most {
            return false;
        }
        if !insert_entry(scratch) {
            return false;
        }
        add64(first, 1);
        add64(second, 1);
        add64(&raw mut (*entries_inserted()).flows, 1);
    }
    true
}

/// Inserts the entry into its bucket, or into the fallback map.
#[inline(never)]
unsafe fn insert_entry(scratch: *mut Scratch) -> bool {
    // SAFETY: the caller's: this CPU's own element.
    unsafe {
        let (place, entry) = (&raw const (*scratch).table_key, &raw const (*scratch).entry);
        let add = || FLOWS.insert(&*full_key(scratch), &(*entry).counters, u64::from(BPF_NOEXIST)).is_ok();
        let Some(bucket_of) = buckets::bucket_of(place, &raw const (*entry).remainder) else { return add() };
        if bucket_of.has_fallback_entries() && !lookup_fallback(scratch).is_null() {
            return false;
        }
        match bucket_of.insert(place, entry) {
            InsertOutcome::Inserted => return true,
            InsertOutcome::Exists => return false,
            InsertOutcome::Full => {}
        }
        // Incremented before the insertion: no lookup misses the entry.
        bucket_of.increment_fallback();
        if add() {
            return true;
        }
        bucket_of.decrement_fallback();
        false
    }
}

/// Returns the counters of a flow in the fallback map, without using the scratch memory: packets interrupt
/// the calls of the agent.
#[inline(always)]
pub(crate) fn fallback_entry(key: &FlowKey) -> *mut FlowCounters {
    FLOWS.get_ptr_mut(key).unwrap_or(core::ptr::null_mut())
}

/// Removes a flow from the fallback map.
#[inline(always)]
pub(crate) fn remove_fallback(key: &FlowKey) -> bool {
    if FLOWS.remove(key).is_err() {
        return false;
    }
    let (place, rest) = FlowTableKey::of(key);
    // SAFETY: both are here; the flow was in the fallback map until now.
    unsafe {
        if let Some(bucket_of) = buckets::bucket_of(&raw const place, &raw const rest) {
            bucket_of.decrement_fallback();
        }
    }
    if let Some([first, second]) = cells(key) {
        // SAFETY: as in `insert`.
        unsafe {
            sub64(first, 1);
            sub64(second, 1);
        }
    }
    true
}

/// Result of storing a superseded flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SupersedeOutcome {
    /// Stored.
    Stored,
    /// Another CPU has stored it.
    Exists,
    /// The map is full.
    Full,
}

/// Stores a copy of a superseded flow for the agent.
#[inline(always)]
pub(crate) fn supersede(key: &SupersededKey, counters: &FlowCounters) -> SupersedeOutcome {
    const EEXIST: i32 = -17;
    match SUPERSEDED.insert(key, counters, u64::from(BPF_NOEXIST)) {
        Ok(()) => SupersedeOutcome::Stored,
        Err(EEXIST) => SupersedeOutcome::Exists,
        Err(_) => SupersedeOutcome::Full,
    }
}

/// Returns the overflow counters of a source; `None` if there is no room for them.
#[inline(always)]
pub(crate) fn overflow_entry(
    key: &SourceOverflowKey,
    nothing: &SourceOverflowCounters,
    inserted_by: InsertedBy,
) -> Option<*mut SourceOverflowCounters> {
    if let Some(source) = OVERFLOW.get_ptr_mut(key) {
        return Some(source);
    }
    // SAFETY: aligned words that are only ever written whole.
    unsafe {
        if inserted_by == InsertedBy::Client
            && (&raw const (*entries_inserted()).sources).read_volatile()
                >= (&raw const (*entry_limits()).sources).read_volatile()
        {
            return None;
        }
    }
    // Of two CPUs that do so at once one fails, and finds the other's.
    if OVERFLOW.insert(key, nothing, u64::from(BPF_NOEXIST)).is_ok() {
        // SAFETY: an aligned word; every CPU adds to it atomically.
        unsafe { add64(&raw mut (*entries_inserted()).sources, 1) };
    }
    OVERFLOW.get_ptr_mut(key)
}
