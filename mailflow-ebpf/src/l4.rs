//! Transport layer: TCP and UDP.

use mailflow_common::{PROTOCOL_TCP, Reason};

use crate::{Frame, Header, l3::Packet, segment::Tcp};

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
    /// Where the transport header begins.
    pub(crate) offset: usize,
}

/// What follows the ports.
pub(crate) struct Transport {
    pub(crate) tcp: Tcp,
    /// Length of the transport header.
    pub(crate) header: u32,
}

#[inline(always)]
pub(crate) fn ports<F: Frame>(frame: &F, packet: &Packet) -> Result<Ports, Reason> {
    let offset = frame.forget(packet.start + packet.header, DEEPEST);
    let ports = frame.header::<4>(offset).ok_or(Reason::Truncated)?;
    Ok(Ports { source: ports.be16::<0>(), destination: ports.be16::<2>(), offset })
}

#[inline(always)]
pub(crate) fn parse<F: Frame>(frame: &F, packet: &Packet, ports: &Ports) -> Result<Transport, Reason> {
    if packet.protocol != PROTOCOL_TCP {
        return Ok(Transport { tcp: Tcp::default(), header: 8 });
    }
    let tcp = frame.header::<20>(ports.offset).ok_or(Reason::Truncated)?;
    let header = u32::from(tcp.u8::<12>() >> 4) << 2;
    if header < 20 {
        return Err(Reason::Malformed);
    }
    Ok(Transport { tcp: Tcp { sequence: u32::from_be(tcp.raw32::<4>()), flags: tcp.u8::<13>() }, header })
}
