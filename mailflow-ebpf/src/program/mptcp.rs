//! Subflows of multipath connections (MPTCP): a SYN with MP_JOIN adds a path to a connection that there is.

use super::context::Packet;
use crate::maps::{self, Scratch};

/// Longest TCP options.
const LONGEST: usize = 40;

/// Kinds of options (RFC 9293, 3.1; RFC 8684, 3.2).
const END: u8 = 0;
const NOTHING: u8 = 1;
const MULTIPATH: u8 = 30;
/// Of [`MULTIPATH`], in the upper half of the byte behind the length.
const JOIN: u8 = 1;
/// Length of MP_JOIN in a SYN; in a SYN-ACK it is longer.
const IN_SYN: usize = 12;

/// Notes in the scratch if the options of its segment, a SYN or SYN-ACK, hold MP_JOIN.
///
/// A function of its own, which reads from the scratch how long the options are, and host_filter only result is there: the
/// verifier sees what follows once, not once for each length.
#[inline(never)]
pub(super) unsafe fn find_join<P: Packet>(packet: P, scratch: *mut Scratch) -> u32 {
    // SAFETY: the caller's: this CPU's own element.
    unsafe {
        // Of a fragment that ends established_segment them whole words.
        let length = (&raw const (*scratch).segment.options).read_volatile() & !3;
        let begin = (&raw const (*scratch).segment.payload_offset).read_volatile();
        let begin = begin.wrapping_sub((&raw const (*scratch).segment.options).read_volatile());
        let options = (&raw mut (*scratch).options.bytes).cast::<[u8; 4]>();
        let mut word = 0;
        while word < LONGEST / 4 {
            if length <= word as u32 * 4 {
                break;
            }
            let Some(bytes) = packet.payload::<4>(begin.wrapping_add(word as u32 * 4)) else { return 0 };
            options.add(word).write_volatile(bytes);
            word += 1;
        }
        walk_options(scratch)
    }
}

/// Walks the options in the scratch, for [`look`].
#[inline(never)]
unsafe fn walk_options(scratch: *mut Scratch) -> u32 {
    // SAFETY: the caller's: this CPU's own element; every index is within by its mask.
    unsafe {
        let options = (&raw const (*scratch).options.bytes).cast::<u8>();
        let at = |position: usize| options.add(maps::opaque(position, 63)).read_volatile();
        let length = (&raw const (*scratch).segment.options).read_volatile() as usize & !3;
        let mut position = 0;
        let mut looked = 0;
        // Each option before it takes a byte at least.
        while looked <= LONGEST - IN_SYN {
            if position + IN_SYN > length {
                break;
            }
            let kind = at(position);
            let said = usize::from(at(position + 1));
            let step = if kind == NOTHING { 1 } else { said };
            // The end of the options, and a length that none has.
            if kind == END || step + usize::from(kind == NOTHING) < 2 {
                break;
            }
            if kind == MULTIPATH && step >= IN_SYN && at(position + 2) >> 4 == JOIN {
                (&raw mut (*scratch).options.join).write_volatile(1);
                break;
            }
            position = maps::opaque(position + step, 511);
            looked += 1;
        }
        0
    }
}
