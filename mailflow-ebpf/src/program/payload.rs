//! First bytes of a payload.

use mailflow_ebpf::Segment;

use super::context::Packet;

/// Returns the first eight payload bytes, with zeros for up to four missing ones; `None` for fewer than four.
#[inline(always)]
pub(super) fn first_bytes<P: Packet>(packet: &P, segment: &Segment) -> Option<[u8; 8]> {
    if segment.payload() >= 8 {
        return packet.payload::<8>(segment.payload_offset);
    }
    if segment.payload() < 4 {
        return None;
    }
    let four = packet.payload::<4>(segment.payload_offset)?;
    Some([four[0], four[1], four[2], four[3], 0, 0, 0, 0])
}

/// Mask that makes ASCII letters upper case.
pub(super) const UPPER: u32 = 0xdfdf_dfdf;

#[inline(always)]
pub(super) fn word(bytes: [u8; 8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
