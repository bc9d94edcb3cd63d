//! Owners of fragmented packets.

use mailflow_common::{FragmentKey, FragmentOwner};

use super::definitions::FRAGMENTS;

#[inline(always)]
pub(crate) fn lookup(key: &FragmentKey) -> Option<*mut FragmentOwner> {
    FRAGMENTS.get_ptr_mut(key)
}

#[inline(always)]
pub(crate) fn insert(key: &FragmentKey, owner: &FragmentOwner) {
    // A table that is full drops its oldest: an error leaves the fragments counted by reason.
    let _ = FRAGMENTS.insert(key, owner, 0);
}
