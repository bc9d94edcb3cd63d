//! Link types: whatever stands before the IP header is replaced by an Ethernet header.

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// MPLS, unicast and multicast.
const MPLS: [u16; 2] = [0x8847, 0x8848];
/// A PPPoE session.
const PPPOE: u16 = 0x8864;
/// Length of an Ethernet header.
const ETHERNET: usize = 14;

/// `data` and its length on the wire as an Ethernet frame; `None` for a link type that carries no IP
/// or is not known, or when the data ends within its header.
pub(super) fn ethernet(link: u32, data: &[u8], length: usize) -> Option<(Vec<u8>, usize)> {
    // Numbers: the registry of link types that libpcap keeps.
    match link {
        1 => Some((data.to_vec(), length)),
        // Linux cooked, version 1 and 2.
        113 => wrap(be16(data, 14)?, 16, data, length),
        276 => wrap(be16(data, 0)?, 20, data, length),
        // Raw IP: as the registry numbers it, and as some systems write it.
        101 | 12 | 14 => wrap(version(data)?, 0, data, length),
        228 => wrap(IPV4, 0, data, length),
        229 => wrap(IPV6, 0, data, length),
        // PPP alone, in HDLC's frames, behind PPPoE's header; Cisco's HDLC.
        9 | 50 => {
            let (ethertype, header) = ppp(data)?;
            wrap(ethertype, header, data, length)
        }
        51 => wrap(PPPOE, 0, data, length),
        104 => wrap(be16(data, 2)?, 4, data, length),
        // A word of the capturing machine's address family, in its byte order or the network's.
        0 | 108 => {
            let word: [u8; 4] = data.get(..4)?.try_into().ok()?;
            let family = u32::from_le_bytes(word).min(u32::from_be_bytes(word));
            let ethertype = match family {
                2 => IPV4,
                // AF_INET6 of NetBSD, FreeBSD, Darwin and Linux.
                24 | 28 | 30 | 10 => IPV6,
                _ => return None,
            };
            wrap(ethertype, 4, data, length)
        }
        _ => None,
    }
}

fn wrap(ethertype: u16, header: usize, data: &[u8], length: usize) -> Option<(Vec<u8>, usize)> {
    let payload = data.get(header..)?;
    let mut frame = Vec::with_capacity(ETHERNET + payload.len());
    frame.extend([0; 12]);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    Some((frame, length.checked_sub(header)? + ETHERNET))
}

/// What PPP carries, and the length of its header: address and control may be left out, and so may the first
/// byte of a protocol's number (RFC 1661, 6.5 and 6.6).
fn ppp(data: &[u8]) -> Option<(u16, usize)> {
    let at = if data.starts_with(&[0xff, 0x03]) { 2 } else { 0 };
    let (protocol, length) = match *data.get(at)? {
        short if short & 1 == 1 => (u16::from(short), 1),
        _ => (be16(data, at)?, 2),
    };
    let ethertype = match protocol {
        0x0021 => IPV4,
        0x0057 => IPV6,
        0x0281 => MPLS[0],
        0x0283 => MPLS[1],
        _ => return None,
    };
    Some((ethertype, at + length))
}

fn version(data: &[u8]) -> Option<u16> {
    match data.first()? >> 4 {
        4 => Some(IPV4),
        6 => Some(IPV6),
        _ => None,
    }
}

fn be16(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_type_leads_to_the_same_packet() {
        let packet = [0x45, 0, 0, 20];
        let sll = [vec![0; 14], vec![8, 0], packet.to_vec()].concat();
        let sll2 = [vec![8, 0], vec![0; 18], packet.to_vec()].concat();
        let loops = [2, 0, 0, 0, 0x45, 0, 0, 20];
        let loop_be = [0, 0, 0, 2, 0x45, 0, 0, 20];
        let behind = |header: &[u8]| [header, &packet[..]].concat();
        let (ppp, ppp_short) = (behind(&[0, 0x21]), behind(&[0x21]));
        let (hdlc, cisco) = (behind(&[0xff, 3, 0, 0x21]), behind(&[0x0f, 0, 8, 0]));
        let expected = [vec![0; 12], vec![8, 0], packet.to_vec()].concat();
        for (link, data) in [
            (113, &sll[..]),
            (276, &sll2),
            (101, &packet),
            (228, &packet),
            (0, &loops),
            (0, &loop_be),
            (108, &loop_be),
            (9, &ppp),
            (9, &ppp_short),
            (50, &hdlc),
            (104, &cisco),
        ] {
            let (frame, length) = ethernet(link, data, data.len() + 100).unwrap();
            assert_eq!((frame, length), (expected.clone(), 18 + 100), "link type {link}");
        }
        assert_eq!(ethernet(105, &packet, 4), None, "802.11");
        assert_eq!(ethernet(9, &[0xc0, 0x21, 1, 1], 4), None, "PPP's own");
        assert_eq!(ethernet(113, &sll[..10], 10), None, "cut within the header");
    }
}
