//! A segment: what one buffer says about its flow.

use core::mem::MaybeUninit;

use mailflow_common::{Address, FlowKey, PROTOCOL_TCP, Reason, Scope, pieces};

use super::{
    frame::Frame,
    link::{self, Link, Metadata},
    network,
    transport::{self, Tcp},
};

/// Segmentation facts of a merged buffer, as `struct __sk_buff` has them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gso {
    /// Payload bytes of each segment; 0 where the buffer is one packet.
    pub size: u32,
    /// Number of segments; 0 where a VM host did not say.
    pub segments: u32,
}

/// A TCP or UDP packet toward or from a watched port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The sender's port.
    pub source_port: u16,
    /// The receiver's port.
    pub destination_port: u16,
    /// VLAN zone, protocol, IP version.
    pub scope: Scope,
    /// IP total length of the buffer.
    pub length: u32,
    /// IP and transport headers.
    pub headers: u32,
    /// Offset of the payload in the frame.
    pub payload_offset: u32,
    /// Length of the TCP options, which end there.
    pub options: u32,
    /// TCP's own; all zeros for UDP. Not an option: where the compiler leaves the fields of one undefined,
    /// the verifier sees what lay there before.
    pub tcp: Tcp,
}

impl Segment {
    /// Returns true for TCP.
    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.scope.protocol() == PROTOCOL_TCP
    }

    /// Transport payload in the buffer.
    #[inline(always)]
    pub const fn payload(&self) -> u32 {
        self.length - self.headers
    }

    /// Packets on the wire that the buffer stands for. A host may leave `segments` unset.
    #[inline(always)]
    pub const fn packets(&self, gso: Gso) -> u32 {
        if gso.size == 0 {
            1
        } else if gso.segments != 0 {
            gso.segments
        } else {
            // At least one: a buffer of headers only is a packet too.
            let whole = self.payload().div_ceil(gso.size);
            if whole == 0 { 1 } else { whole }
        }
    }

    /// IP bytes on the wire: each of `packets` carries the headers again.
    #[inline(always)]
    pub const fn bytes(&self, packets: u32) -> u64 {
        self.length as u64 + (packets as u64 - 1) * self.headers as u64
    }
}

/// Headers up to the ports.
pub struct ParsedHeaders {
    pub(crate) packet: network::Packet,
    pub(crate) ports: Option<transport::Ports>,
    pub(crate) scope: Scope,
}

/// A fragment of a packet that came in several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification that the packet's fragments share.
    pub identification: u32,
    /// VLAN zone, protocol and IP version that they share.
    pub scope: Scope,
    /// IP total length of this fragment.
    pub length: u32,
    /// IP headers of this fragment.
    pub headers: u32,
    /// Offset in the fragmented part.
    pub offset: u32,
}

impl Fragment {
    /// Bytes behind the IP headers.
    #[inline(always)]
    pub const fn bytes(&self) -> u32 {
        self.length - self.headers
    }

    /// Units of the fragment: see [`pieces`].
    #[inline(always)]
    pub const fn units(&self) -> u16 {
        pieces::units(self.offset, self.bytes())
    }
}

/// Follows a frame to its ports.
///
/// Headers are followed as they stand in the frame, from the outside in, and the first fault met is
/// the reason: what the frame does not hold of a header; the IP header's version and length; more
/// extension headers than are followed; the protocol; the total length, against the headers so far
/// and against the frame. Ports that are not watched end it there. What follows them is held against
/// the total length by [`ParsedHeaders::segment`].
///
/// # Errors
/// The reason why it counts to no flow. [`Reason::Truncated`] means that the readable part ended
/// first: a caller that can make more of the frame readable may try again.
#[inline(always)]
pub fn parse_headers<F: Frame>(frame: &F, link: Link, metadata: Metadata) -> Result<ParsedHeaders, Reason> {
    let network = link::parse(frame, link, metadata)?;
    let packet = network::parse(frame, &network)?;
    let ports = match packet.part {
        network::Part::Later => None,
        _ => Some(transport::ports(frame, &packet)?),
    };
    let scope = Scope::new(network.vlans, packet.protocol, packet.v6);
    Ok(ParsedHeaders { packet, ports, scope })
}

impl ParsedHeaders {
    /// Returns the headers with the ports of `segment`, which was made from them.
    #[inline(always)]
    pub fn of(self, segment: &Segment) -> Self {
        let ports = transport::Ports { source: segment.source_port, destination: segment.destination_port };
        Self { ports: Some(ports), ..self }
    }

    /// IANA protocol number.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        self.scope.protocol()
    }

    /// Source and destination port; `None` for a fragment without them.
    #[inline(always)]
    pub fn ports(&self) -> Option<(u16, u16)> {
        self.ports.as_ref().map(|ports| (ports.source, ports.destination))
    }

    /// Returns the fragment, if the packet is fragmented.
    #[inline(always)]
    pub fn fragment<F: Frame>(&self, frame: &F) -> Option<Fragment> {
        let packet = &self.packet;
        if packet.part == network::Part::Whole {
            return None;
        }
        let identity = packet.identity(frame).ok()?;
        Some(Fragment {
            identification: identity.identification,
            scope: Scope::new(self.scope.vlans(), identity.protocol, packet.v6),
            length: packet.length,
            headers: packet.header as u32,
            offset: identity.offset,
        })
    }

    /// Returns the end of the headers of the fragmented packet, as far as this fragment tells; else 0. See [`pieces`].
    #[inline(always)]
    pub fn headers_end<F: Frame>(&self, frame: &F) -> u16 {
        let end =
            self.packet.identity(frame).map_or(0, |identity| transport::end(frame, &self.packet, &identity));
        frame.opaque(usize::from(end), 0xffff) as u16
    }

    /// The fragment that this is, where it has no ports.
    ///
    /// # Errors
    /// [`Reason::Malformed`] where it says that it is not its packet's beginning, and then is nothing.
    #[inline(always)]
    pub fn later<F: Frame>(&self, frame: &F) -> Result<Fragment, Reason> {
        let fragment = self.fragment(frame).ok_or(Reason::Fragment)?;
        if fragment.length == fragment.headers { Err(Reason::Malformed) } else { Ok(fragment) }
    }

    /// The packet's sender and receiver.
    ///
    /// # Errors
    /// As [`parse_headers`]; none where that had none.
    #[inline(always)]
    pub fn addresses<F: Frame>(&self, frame: &F) -> Result<(Address, Address), Reason> {
        self.packet.addresses(frame)
    }

    /// The key of the packet's flow, going up or down, in `place`.
    ///
    /// It is put there for each kind of address by itself: LLVM would else carry eight words to where
    /// the kinds meet, for which it has no registers.
    ///
    /// # Errors
    /// [`Reason::Fragment`] for a fragment without ports.
    #[inline(always)]
    pub fn key<'a, F: Frame>(
        &self,
        frame: &F,
        up: bool,
        place: &'a mut MaybeUninit<FlowKey>,
    ) -> Result<&'a mut FlowKey, Reason> {
        let ports = self.ports.as_ref().ok_or(Reason::Fragment)?;
        let key = |(source, destination): (Address, Address)| FlowKey {
            client: if up { source } else { destination },
            server: if up { destination } else { source },
            client_port: if up { ports.source } else { ports.destination },
            server_port: if up { ports.destination } else { ports.source },
            scope: self.scope,
        };
        let key = if self.packet.v6 {
            let key = place.write(key(self.packet.addresses6(frame)?));
            frame.materialise(key);
            key
        } else {
            let key = place.write(key(self.packet.addresses4(frame)?));
            frame.materialise(key);
            key
        };
        Ok(key)
    }

    /// Follows the frame to the end of its headers.
    ///
    /// # Errors
    /// As [`parse_headers`] and [`ParsedHeaders::later`]; [`Reason::Fragment`] for a fragment without ports.
    #[inline(always)]
    pub fn segment<F: Frame>(&self, frame: &F) -> Result<Segment, Reason> {
        let packet = &self.packet;
        let Some(ports) = &self.ports else {
            return Err(self.later(frame).err().unwrap_or(Reason::Fragment));
        };
        let transport = transport::parse(frame, packet)?;
        let headers = packet.header as u32 + transport.header;
        if packet.length < headers {
            return Err(Reason::Malformed);
        }
        Ok(Segment {
            source_port: ports.source,
            destination_port: ports.destination,
            scope: self.scope,
            length: packet.length,
            headers,
            payload_offset: transport.offset as u32 + transport.header,
            options: if packet.protocol == PROTOCOL_TCP { transport.header.saturating_sub(20) } else { 0 },
            tcp: transport.tcp,
        })
    }
}
