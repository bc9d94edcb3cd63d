//! Link types: the link-layer header of a frame is replaced by an Ethernet header.

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Ethertypes of MPLS, unicast and multicast.
const ETHERTYPE_MPLS: [u16; 2] = [0x8847, 0x8848];
/// Ethertype of a PPPoE session.
const ETHERTYPE_PPPOE: u16 = 0x8864;
/// Length of an Ethernet header.
const ETHERNET_HEADER: usize = 14;

/// Returns `data` as an Ethernet frame, and its length on the wire. Returns `None` if the link type is not
/// supported, the frame carries no IP, or the data ends within its link-layer header.
pub(crate) fn to_ethernet(link: u32, data: &[u8], length: usize) -> Option<(Vec<u8>, usize)> {
    convert(link, data, length, 0)
}

/// Largest number of link types that enclose a frame of another link type, one in the other.
const MAX_ENCAPSULATION: u32 = 2;

fn convert(link: u32, data: &[u8], length: usize, depth: u32) -> Option<(Vec<u8>, usize)> {
    let after_header = |link: u32, header: usize| {
        let length = length.checked_sub(header).filter(|_| depth < MAX_ENCAPSULATION)?;
        convert(link, data.get(header..)?, length, depth + 1)
    };
    // Numbers of the registry of link types that libpcap maintains.
    match link {
        1 => Some((data.to_vec(), length)),
        // Linux cooked capture, versions 1 and 2.
        113 => with_ethernet_header(be16(data, 14)?, 16, data, length),
        276 => with_ethernet_header(be16(data, 0)?, 20, data, length),
        // Raw IP: the registry's number, and numbers that some systems write.
        101 | 12 | 14 => with_ethernet_header(ip_ethertype(data)?, 0, data, length),
        228 => with_ethernet_header(ETHERTYPE_IPV4, 0, data, length),
        229 => with_ethernet_header(ETHERTYPE_IPV6, 0, data, length),
        // PPP, PPP in HDLC framing, PPP after a PPPoE header, and Cisco HDLC. Cisco HDLC has its own number,
        // and also uses the number of PPP in HDLC framing.
        50 | 104 if matches!(data, [0x0f | 0x8f, 0, ..]) => {
            with_ethernet_header(be16(data, 2)?, 4, data, length)
        }
        9 | 50 | 104 => {
            let (ethertype, header) = ppp(data)?;
            with_ethernet_header(ethertype, header, data, length)
        }
        51 => with_ethernet_header(ETHERTYPE_PPPOE, 0, data, length),
        // PPP and Cisco HDLC after a byte of direction. pppd writes the direction instead of the address
        // byte.
        204 => after_header(9, 1),
        205 => after_header(104, 1),
        166 => after_header(9, 2),
        // Linux netfilter log; OpenBSD encrypted interface and packet log.
        239 => nflog(data),
        109 => with_ethernet_header(ip_ethertype(data.get(12..)?)?, 12, data, length),
        117 => {
            let header = usize::from(*data.first()?).next_multiple_of(4);
            with_ethernet_header(ip_ethertype(data.get(header..)?)?, header, data, length)
        }
        // LLC and SNAP over ATM; IP over IEEE 1394; IP over InfiniBand.
        11 | 100 => with_ethernet_header(snap_ethertype(data)?, SNAP_HEADER, data, length),
        138 => with_ethernet_header(be16(data, 16)?, 18, data, length),
        242 => with_ethernet_header(be16(data, 40)?, 44, data, length),
        // IEEE 802.11, alone, after a radiotap header, or after a Prism header.
        105 => ieee80211(data, length),
        127 => after_header(105, usize::from(le16(data, 2)?)),
        119 => after_header(105, 144),
        // Headers that contain the next link type: PPI, and Apple's PKTAP.
        192 => after_header(le32(data, 4)?, usize::from(le16(data, 2)?)),
        258 => after_header(le32(data, 8)?, usize::try_from(le32(data, 0)?).ok()?),
        // Ethernet after a device-specific header, without and with a preamble.
        240 => after_header(1, 4),
        241 => after_header(1, 12),
        // A word with the address family of the capturing machine, in its byte order or in network order.
        0 | 108 => {
            let word: [u8; 4] = data.get(..4)?.try_into().ok()?;
            let family = u32::from_le_bytes(word).min(u32::from_be_bytes(word));
            let ethertype = match family {
                2 => ETHERTYPE_IPV4,
                // AF_INET6 of NetBSD, FreeBSD, Darwin and Linux.
                24 | 28 | 30 | 10 => ETHERTYPE_IPV6,
                _ => return None,
            };
            with_ethernet_header(ethertype, 4, data, length)
        }
        _ => None,
    }
}

/// Returns the packet of a netfilter log record. The length on the wire is that of the IP header, as a rule
/// may log only the beginning of a packet.
///
/// The record is a family, a version, and fields, each with its length and number in the byte order of the
/// writer.
fn nflog(data: &[u8]) -> Option<(Vec<u8>, usize)> {
    const HEADER: usize = 4;
    const PAYLOAD: u16 = 9;
    if *data.get(1)? != 0 {
        return None;
    }
    let find = |word: fn([u8; 2]) -> u16| {
        let mut at = HEADER;
        loop {
            let word = |at: usize| Some(word(data.get(at..at + 2)?.try_into().ok()?));
            let (length, number) = (usize::from(word(at)?), word(at + 2)?);
            let field = data.get(at + HEADER..data.len().min(at + length.max(HEADER)))?;
            match number & 0x7fff {
                PAYLOAD => return Some(field),
                _ if length < HEADER => return None,
                _ => at += length.next_multiple_of(4),
            }
        }
    };
    let packet = find(u16::from_le_bytes).or_else(|| find(u16::from_be_bytes))?;
    let total_length = match ip_ethertype(packet)? {
        ETHERTYPE_IPV4 => usize::from(be16(packet, 2)?),
        _ => usize::from(be16(packet, 4)?) + 40,
    };
    with_ethernet_header(ip_ethertype(packet)?, 0, packet, packet.len().max(total_length))
}

/// Length of the LLC and SNAP headers.
const SNAP_HEADER: usize = 8;

/// Returns the ethertype after the LLC and SNAP headers (RFC 1042).
fn snap_ethertype(data: &[u8]) -> Option<u16> {
    data.starts_with(&[0xaa, 0xaa, 0x03, 0, 0, 0]).then(|| be16(data, 6)).flatten()
}

/// Converts a frame of IEEE 802.11 (9.2 and 9.3): an unencrypted data frame carries IP after LLC and SNAP.
fn ieee80211(data: &[u8], length: usize) -> Option<(Vec<u8>, usize)> {
    let [control, flags] = *data.get(..2)?.first_chunk()?;
    let (version, kind, subtype) = (control & 3, control >> 2 & 3, control >> 4);
    const DATA: u8 = 2;
    const PROTECTED: u8 = 0x40;
    // Subtypes with this bit carry no data.
    const NO_DATA: u8 = 4;
    if version != 0 || kind != DATA || subtype & NO_DATA != 0 || flags & PROTECTED != 0 {
        return None;
    }
    // Between two access points there is a fourth address. A QoS frame has a QoS field, and maybe an HT
    // field.
    let mut header = if flags & 3 == 3 { 30 } else { 24 };
    if subtype & 8 != 0 {
        header += if flags & 0x80 != 0 { 6 } else { 2 };
    }
    let rest = data.get(header..)?;
    with_ethernet_header(snap_ethertype(rest)?, SNAP_HEADER, rest, length.checked_sub(header)?)
}

fn le16(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

fn le32(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

fn with_ethernet_header(
    ethertype: u16,
    header: usize,
    data: &[u8],
    length: usize,
) -> Option<(Vec<u8>, usize)> {
    let payload = data.get(header..)?;
    let mut frame = Vec::with_capacity(ETHERNET_HEADER + payload.len());
    frame.extend([0; 12]);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    Some((frame, length.checked_sub(header)? + ETHERNET_HEADER))
}

/// Returns the ethertype of a PPP packet and the length of the PPP header. Address and control may be
/// omitted, and the first byte of the protocol too (RFC 1661, 6.5 and 6.6).
fn ppp(data: &[u8]) -> Option<(u16, usize)> {
    let at = if data.starts_with(&[0xff, 0x03]) { 2 } else { 0 };
    let (protocol, length) = match *data.get(at)? {
        short if short & 1 == 1 => (u16::from(short), 1),
        _ => (be16(data, at)?, 2),
    };
    let ethertype = match protocol {
        0x0021 => ETHERTYPE_IPV4,
        0x0057 => ETHERTYPE_IPV6,
        0x0281 => ETHERTYPE_MPLS[0],
        0x0283 => ETHERTYPE_MPLS[1],
        _ => return None,
    };
    Some((ethertype, at + length))
}

fn ip_ethertype(data: &[u8]) -> Option<u16> {
    match data.first()? >> 4 {
        4 => Some(ETHERTYPE_IPV4),
        6 => Some(ETHERTYPE_IPV6),
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
        let after_header = |header: &[u8]| [header, &packet[..]].concat();
        let (ppp, ppp_short) = (after_header(&[0, 0x21]), after_header(&[0x21]));
        let (hdlc, cisco) = (after_header(&[0xff, 3, 0, 0x21]), after_header(&[0x0f, 0, 8, 0]));
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
            let (frame, length) = to_ethernet(link, data, data.len() + 100).unwrap();
            assert_eq!((frame, length), (expected.clone(), 18 + 100), "link type {link}");
        }
        assert_eq!(to_ethernet(147, &packet, 4), None, "a number for private use");
        assert_eq!(to_ethernet(9, &[0xc0, 0x21, 1, 1], 4), None, "PPP's own");
        assert_eq!(to_ethernet(113, &sll[..10], 10), None, "cut within the header");
    }

    /// Packet of 24 bytes: a header and four bytes of payload.
    const PACKET: [u8; 24] = [0x45, 0, 0, 24, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 2, 3, 4];

    #[test]
    fn packets_are_found_after_cisco_hdlc_and_other_headers() {
        let frame = |ethertype: u16| [&[0; 12][..], &ethertype.to_be_bytes(), &PACKET].concat();
        let after_header = |header: &[u8]| [header, &PACKET[..]].concat();
        let snap = [0xaa, 0xaa, 3, 0, 0, 0, 8, 0];
        // Frame control, duration, three addresses, sequence.
        let ieee80211 = |control: [u8; 2], more: usize| [&control[..], &vec![0; 22 + more], &snap].concat();
        let radiotap = [0, 0, 8, 0, 0, 0, 0, 0];
        for (link, header, ethertype) in [
            (50, vec![0x0f, 0, 8, 0], ETHERTYPE_IPV4),
            (50, vec![0x8f, 0, 8, 0], ETHERTYPE_IPV4),
            (50, vec![0x0f, 0, 0x86, 0xdd], ETHERTYPE_IPV6),
            (50, vec![0x0f, 0, 0x88, 0x47], ETHERTYPE_MPLS[0]),
            (50, vec![0xff, 3, 0, 0x21], ETHERTYPE_IPV4),
            (50, vec![0, 0x21], ETHERTYPE_IPV4),
            (104, vec![0x8f, 0, 8, 0], ETHERTYPE_IPV4),
            (104, vec![0xff, 3, 0, 0x21], ETHERTYPE_IPV4),
            (205, vec![1, 0x0f, 0, 8, 0], ETHERTYPE_IPV4),
            (204, vec![1, 0xff, 3, 0, 0x21], ETHERTYPE_IPV4),
            (166, vec![1, 3, 0, 0x21], ETHERTYPE_IPV4),
            (109, vec![0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0], ETHERTYPE_IPV4),
            (117, [&[61, 2][..], &[0; 62]].concat(), ETHERTYPE_IPV4),
            (100, snap.to_vec(), ETHERTYPE_IPV4),
            (138, [&[0; 16][..], &[8, 0]].concat(), ETHERTYPE_IPV4),
            (242, [&[0; 40][..], &[8, 0, 0, 0]].concat(), ETHERTYPE_IPV4),
            (105, ieee80211([0x08, 1], 0), ETHERTYPE_IPV4),
            (105, ieee80211([0x08, 3], 6), ETHERTYPE_IPV4),
            (105, ieee80211([0x88, 2], 2), ETHERTYPE_IPV4),
            (105, ieee80211([0x88, 0x82], 6), ETHERTYPE_IPV4),
            (127, [&radiotap[..], &ieee80211([0x88, 1], 2)].concat(), ETHERTYPE_IPV4),
            (192, [&[0, 0, 8, 0, 105, 0, 0, 0][..], &ieee80211([0x08, 1], 0)].concat(), ETHERTYPE_IPV4),
            (258, [&[12, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0][..], &[0; 12], &[8, 0]].concat(), ETHERTYPE_IPV4),
            (240, [&[0; 4][..], &[0; 12], &[8, 0]].concat(), ETHERTYPE_IPV4),
        ] {
            let data = after_header(&header);
            // The bytes that were not captured are missing at the end.
            let converted = to_ethernet(link, &data, data.len() + 100);
            assert_eq!(
                converted,
                Some((frame(ethertype), ETHERNET_HEADER + PACKET.len() + 100)),
                "link type {link}: {header:?}"
            );
            // A cut within the header gives no packet, and no panic.
            for end in 0..header.len() {
                let cut = to_ethernet(link, &data[..end], data.len());
                // Ethernet itself is returned unchanged.
                let short = cut.is_none_or(|(frame, _)| frame.len() < ETHERNET_HEADER);
                assert!(short, "link type {link}, {end} bytes");
            }
        }
        for (link, data) in [
            (105, [&[0x08, 0x41][..], &[0; 22], &snap, &PACKET].concat()),
            (105, [&[0x48, 1][..], &[0; 22], &snap, &PACKET].concat()),
            (105, [&[0x80, 0][..], &[0; 22], &snap, &PACKET].concat()),
            (192, [0, 0, 8, 0, 192, 0, 0, 0].repeat(5)),
        ] {
            assert_eq!(
                to_ethernet(link, &data, data.len()),
                None,
                "encrypted, nothing, a beacon, itself again"
            );
        }
    }

    #[test]
    fn a_netfilter_log_record_has_a_packet_of_its_own_length() {
        let field = |number: u16, bytes: &[u8], big: bool| {
            let words = [bytes.len() as u16 + 4, number];
            let words = words.map(|word| if big { word.to_be_bytes() } else { word.to_le_bytes() });
            [&words.concat()[..], bytes, &vec![0; (4 - bytes.len() % 4) % 4]].concat()
        };
        for big in [false, true] {
            let record = |packet: &[u8]| {
                let fields =
                    [field(1, &[8, 0, 3, 0], big), field(10, b"inbound\0x", big), field(9, packet, big)];
                [&[2, 0, 0, 5][..], &fields.concat()].concat()
            };
            let whole = record(&PACKET);
            let expected = [&[0; 12][..], &[8, 0], &PACKET].concat();
            assert_eq!(to_ethernet(239, &whole, whole.len()), Some((expected.clone(), expected.len())));
            // The rule logs the first 22 bytes of each packet.
            let begin = record(&PACKET[..22]);
            assert_eq!(
                to_ethernet(239, &begin, begin.len()),
                Some((expected[..36].to_vec(), expected.len()))
            );
            // The capture ends within the packet.
            let cut = &whole[..whole.len() - 2];
            assert_eq!(to_ethernet(239, cut, whole.len()), Some((expected[..36].to_vec(), expected.len())));
            for end in 0..36 {
                assert!(to_ethernet(239, &whole[..end], whole.len()).is_none(), "{end} bytes");
            }
        }
        let none = [&[2, 0, 0, 5][..], &field(1, &[8, 0, 3, 0], false), &[0, 0, 7, 0]].concat();
        assert_eq!(to_ethernet(239, &none, none.len()), None, "a field of no length");
        assert_eq!(to_ethernet(239, &[2, 1, 0, 5, 4, 0, 9, 0], 8), None, "another version");
    }
}
