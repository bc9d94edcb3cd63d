//! Transport layer: TCP and UDP.

use mailflow_common::{PROTOCOL_TCP, Reason, pieces};

use super::{
    frame::{Frame, Header},
    network::{Identity, Packet, Part},
};

/// RFC 9293, 3.1.
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// Length of the TCP header up to data offset and flags.
const FLAGS: u32 = 14;

/// Offset of the data offset field.
const LENGTH: u32 = 12;

/// Furthest a transport header may begin in a frame.
const DEEPEST: usize = 0x3ff;

/// TCP fields in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Sequence number, host byte order.
    pub sequence: u32,
    /// Flag bits.
    pub flags: u8,
}

impl Tcp {
    /// A SYN without ACK.
    #[inline(always)]
    pub const fn syn(self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }

    /// A SYN with ACK.
    #[inline(always)]
    pub const fn syn_ack(self) -> bool {
        self.flags & (SYN | ACK) == SYN | ACK
    }

    /// A SYN, with ACK or without.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.flags & SYN != 0
    }

    /// A SYN without ACK that neither ends nor resets.
    #[inline(always)]
    pub const fn bare_syn(self) -> bool {
        self.flags & (SYN | ACK | FIN | RST) == SYN
    }

    /// Returns true for SYN, FIN and RST.
    #[inline(always)]
    pub const fn notable(self) -> bool {
        self.flags & (SYN | FIN | RST) != 0
    }

    /// FIN.
    #[inline(always)]
    pub const fn fin(self) -> bool {
        self.flags & FIN != 0
    }

    /// RST.
    #[inline(always)]
    pub const fn reset(self) -> bool {
        self.flags & RST != 0
    }
}

/// Ports, source first.
pub(crate) struct Ports {
    pub(crate) source: u16,
    pub(crate) destination: u16,
}

/// Rest of the transport header.
pub(crate) struct Transport {
    pub(crate) tcp: Tcp,
    /// Offset of the header in the frame.
    pub(crate) offset: usize,
    /// Length of that header.
    pub(crate) header: u32,
}

#[inline(always)]
pub(crate) fn ports<F: Frame>(frame: &F, packet: &Packet) -> Result<Ports, Reason> {
    let ports = frame.header::<4>(begin(frame, packet)).ok_or(Reason::Truncated)?;
    Ok(Ports { source: ports.be16::<0>(), destination: ports.be16::<2>() })
}

/// Returns the offset of the transport header. Computed at each use: the verifier has to see the mask close to the use.
#[inline(always)]
fn begin<F: Frame>(frame: &F, packet: &Packet) -> usize {
    frame.opaque(packet.start + packet.header, DEEPEST)
}

#[inline(always)]
pub(crate) fn parse<F: Frame>(frame: &F, packet: &Packet) -> Result<Transport, Reason> {
    let offset = begin(frame, packet);
    if packet.protocol != PROTOCOL_TCP {
        return Ok(Transport { tcp: Tcp::default(), offset, header: 8 });
    }
    // A fragment may end within the header (RFC 1858, 3): it has the ports, and the flags where it is long enough.
    let first = packet.part == Part::First;
    let held = packet.length.wrapping_sub(packet.header as u32);
    if first && held < FLAGS {
        return Ok(Transport { tcp: Tcp::default(), offset, header: held });
    }
    let tcp = if first && held < 20 {
        frame.header::<{ FLAGS as usize }>(offset)
    } else {
        frame.header::<20>(offset)
    };
    let tcp = tcp.ok_or(Reason::Truncated)?;
    let header = u32::from(tcp.u8::<12>() >> 4) << 2;
    if header < 20 {
        return Err(Reason::Malformed);
    }
    let header = if first && header > held { held } else { header };
    let tcp = Tcp { sequence: u32::from_be(tcp.raw32::<4>()), flags: tcp.u8::<13>() };
    Ok(Transport { tcp, offset, header })
}

/// Returns the end of the headers of a fragmented packet, as far as this fragment tells: see [`pieces`]; else 0.
#[inline(always)]
pub(crate) fn end<F: Frame>(frame: &F, packet: &Packet, identity: &Identity) -> u16 {
    let held = packet.length.wrapping_sub(packet.header as u32);
    let first = packet.part == Part::First;
    let tcp = if first { packet.protocol } else { identity.protocol } == PROTOCOL_TCP;
    // Where this fragment has the byte with the TCP header's length: a second one behind a first one of eight bytes.
    let place = if first { LENGTH } else { LENGTH - 8 };
    if !tcp || held <= place || !first && identity.offset != 8 {
        return match (first, tcp) {
            (true, true) => (identity.between + 20) as u16 | pieces::LEAST,
            (true, false) => (identity.between + 8) as u16,
            _ => 0,
        };
    }
    let offset = frame.opaque(packet.start + packet.header + place as usize, DEEPEST);
    let Some(byte) = frame.header::<1>(offset) else { return 0 };
    let length = u32::from(byte.u8::<0>() >> 4) << 2;
    if length < 20 { 0 } else { (identity.between + length) as u16 }
}
