//! Transport layer: TCP and UDP.

use mailflow_common::{PROTOCOL_TCP, Reason};

use crate::{
    Frame, Header,
    l3::{Packet, Part},
    segment::Tcp,
};

/// RFC 9293, 3.1.
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// Furthest a transport header may begin in a frame.
const DEEPEST: usize = 0x3ff;

/// Ports, source first.
pub(crate) struct Ports {
    pub(crate) source: u16,
    pub(crate) destination: u16,
}

/// What follows the ports.
pub(crate) struct Transport {
    pub(crate) tcp: Tcp,
    /// Where its header begins in the frame.
    pub(crate) offset: usize,
    /// Length of that header.
    pub(crate) header: u32,
}

#[inline(always)]
pub(crate) fn ports<F: Frame>(frame: &F, packet: &Packet) -> Result<Ports, Reason> {
    let ports = frame.header::<4>(begin(frame, packet)).ok_or(Reason::Truncated)?;
    Ok(Ports { source: ports.be16::<0>(), destination: ports.be16::<2>() })
}

/// Where the transport header begins. It is not kept: the verifier has to see the mask close to where
/// the offset is used.
#[inline(always)]
fn begin<F: Frame>(frame: &F, packet: &Packet) -> usize {
    frame.forget(packet.start + packet.header, DEEPEST)
}

#[inline(always)]
pub(crate) fn parse<F: Frame>(frame: &F, packet: &Packet) -> Result<Transport, Reason> {
    let offset = begin(frame, packet);
    if packet.protocol != PROTOCOL_TCP {
        return Ok(Transport { tcp: Tcp::default(), offset, header: 8 });
    }
    // A fragment may end amid the header (RFC 1858, 3): of that the ports are known, its flags are not.
    if packet.part == Part::First && packet.length < packet.header as u32 + 20 {
        let header = packet.length.wrapping_sub(packet.header as u32);
        return Ok(Transport { tcp: Tcp::default(), offset, header });
    }
    let tcp = frame.header::<20>(offset).ok_or(Reason::Truncated)?;
    let header = u32::from(tcp.u8::<12>() >> 4) << 2;
    if header < 20 {
        return Err(Reason::Malformed);
    }
    let tcp = Tcp { sequence: u32::from_be(tcp.raw32::<4>()), flags: tcp.u8::<13>() };
    Ok(Transport { tcp, offset, header })
}
