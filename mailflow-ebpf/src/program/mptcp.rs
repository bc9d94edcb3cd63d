//! MPTCP subflows: a SYN with MP_JOIN adds a path to an existing connection.

use super::context::Packet;
use crate::maps::{self, Scratch};

/// Longest TCP options.
const LONGEST: usize = 40;

/// Option kinds (RFC 9293, 3.1; RFC 8684, 3.2).
const END: u8 = 0;
const NOTHING: u8 = 1;
const MULTIPATH: u8 = 30;
/// Subtype MP_JOIN, in the upper half of the third byte of a [`MULTIPATH`] option.
const JOIN: u8 = 1;
/// Length of MP_JOIN in a SYN. In a SYN-ACK it is longer.
const IN_SYN: usize = 12;

/// Records in the scratch memory if the options of a SYN or SYN-ACK contain MP_JOIN.
///
/// A separate function that reads the length of the options from the scratch memory, so that the verifier
/// follows the rest once, not once for each length.
#[inline(never)]
pub(super) unsafe fn find_join<P: Packet>(packet: P, scratch: *mut Scratch) -> u32 {
    // SAFETY: the caller's: this CPU's own element.
    unsafe {
        // A fragment may end within the options: only whole words are read.
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

/// Walks the options in the scratch memory, for [`find_join`].
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
