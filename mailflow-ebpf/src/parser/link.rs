//! Link layer: Ethernet, VLAN tags, PPPoE.

use mailflow_common::{Reason, Vlans};

use super::frame::{Frame, Header};

/// IPv4 (RFC 894).
pub(crate) const IPV4: u16 = 0x0800;
/// IPv6 (RFC 2464).
pub(crate) const IPV6: u16 = 0x86dd;
/// MPLS unicast and multicast (RFC 3032, 5332).
const MPLS: [u16; 2] = [0x8847, 0x8848];
/// A PPPoE session (RFC 2516, 4).
const PPPOE: u16 = 0x8864;
/// IPv4, IPv6 and MPLS inside PPP (RFC 1332, 5072; RFC 3032, 4.3).
const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;
const PPP_MPLS: [u16; 2] = [0x0281, 0x0283];
/// Customer tag, service tag (IEEE 802.1Q), and the older service tags some switches still send.
const TAGS: [u16; 4] = [0x8100, 0x88a8, 0x9100, 0x9200];

/// Ethertypes of tunnels that carry whole frames or tags: FabricPath, 802.1ah, VN-Tag, 802.1BR, TRILL, 802.1AE, RFC 8300.
const TUNNELS: [u16; 7] = [0x8903, 0x88e7, 0x8926, 0x893f, 0x22f3, 0x88e5, 0x894f];

/// VLAN tags that are followed, those in the metadata included.
const DEEPEST: usize = 2;

/// Start of the network layer.
pub(crate) struct Network {
    pub(crate) ethertype: u16,
    pub(crate) offset: usize,
    pub(crate) vlans: Vlans,
}

/// Link type of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Frames begin with an Ethernet header.
    Ethernet,
    /// Frames begin with the IP header (tun, wireguard, ppp).
    Ip,
}

/// Metadata of the kernel for a frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metadata {
    /// Ethertype of a frame without an Ethernet header.
    pub ethertype: u16,
    /// Tag control information the NIC or the kernel took out of the frame.
    pub tag: Option<u16>,
}

/// Follows the link layer of `frame`.
#[inline(always)]
pub(crate) fn parse<F: Frame>(frame: &F, link: Link, metadata: Metadata) -> Result<Network, Reason> {
    let mut vlans = Vlans::default();
    let mut depth = 0;
    if let Some(tci) = metadata.tag {
        vlans = vlans.push(tci);
        depth = 1;
    }
    let mut ethertype = metadata.ethertype;
    let mut offset = 0;
    if let Link::Ethernet = link {
        ethertype = frame.header::<14>(0).ok_or(Reason::Truncated)?.be16::<12>();
        offset = 14;
        // Rounds of a fixed number, which the compiler unrolls: the verifiers of older kernels refuse some
        // loops, by how their blocks happen to lie (Linux 5.10 and 6.1: "back-edge").
        for _ in 0..DEEPEST {
            if !is_tag(ethertype) {
                break;
            }
            if depth == DEEPEST {
                return Err(Reason::TooDeep);
            }
            let tag = frame.header::<4>(offset).ok_or(Reason::Truncated)?;
            vlans = vlans.push(tag.be16::<0>());
            ethertype = tag.be16::<2>();
            offset += 4;
            depth += 1;
        }
        if is_tag(ethertype) {
            return Err(Reason::TooDeep);
        }
    }
    if ethertype == PPPOE {
        // Version and type, code, session, length; then PPP's protocol.
        let session = frame.header::<8>(offset).ok_or(Reason::Truncated)?;
        ethertype = match session.be16::<6>() {
            PPP_IPV4 => IPV4,
            PPP_IPV6 => IPV6,
            other if other == PPP_MPLS[0] || other == PPP_MPLS[1] => return Err(Reason::Mpls),
            _ => return Err(Reason::NotIp),
        };
        offset += 8;
    }
    match ethertype {
        IPV4 | IPV6 => Ok(Network { ethertype, offset, vlans }),
        _ if ethertype == MPLS[0] || ethertype == MPLS[1] => Err(Reason::Mpls),
        _ if TUNNELS.contains(&ethertype) => Err(Reason::LinkTunnel),
        _ => Err(Reason::NotIp),
    }
}

#[inline(always)]
fn is_tag(ethertype: u16) -> bool {
    ethertype == TAGS[0] || ethertype == TAGS[1] || ethertype == TAGS[2] || ethertype == TAGS[3]
}
