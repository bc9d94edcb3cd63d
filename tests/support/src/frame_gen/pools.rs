//! Small pools of values, so that flows and fragments repeat.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;

use super::choice::pick;

/// Watched ports.
pub const WATCHED: [u16; 8] = [25, 110, 143, 465, 587, 993, 994, 2525];

/// Endpoints of a packet, source first.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    pub(super) addresses: [IpAddr; 2],
    pub(super) ports: [u16; 2],
}

impl Ends {
    pub(super) fn any(rng: &mut Rng) -> Self {
        let (client, server) = (rng.u8(1..3), rng.u8(10..12));
        let addresses = match rng.u8(..100) {
            0..58 => [v4(client).into(), v4(server).into()],
            58..97 => [v6(client).into(), v6(server).into()],
            // IPv4-mapped addresses are distinct from the IPv4 addresses.
            _ => [v4(client).to_ipv6_mapped().into(), v4(server).to_ipv6_mapped().into()],
        };
        let mut ports = [rng.u16(40_000..40_003), *pick(rng, &[25, 25, 25, 465, 587, 143])];
        match rng.u8(..100) {
            0..12 => ports[0] = *pick(rng, &WATCHED),
            12..24 => ports[1] = *pick(rng, &[53, 80, 443, 8025, 4789, 2152, 6081]),
            _ => {}
        }
        let ends = Self { addresses, ports };
        if rng.u8(..100) < 45 { ends.reversed() } else { ends }
    }

    pub(super) fn reversed(&self) -> Self {
        let ([a, b], [c, d]) = (self.addresses, self.ports);
        Self { addresses: [b, a], ports: [d, c] }
    }
}

/// Returns an IPv4 address. BPF_PROG_TEST_RUN reads an ethertype at byte 12, also of a frame that begins with
/// an IP header. The source address is there: its first two bytes are IPv4's ethertype.
fn v4(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(8, 0, 0, host)
}

/// Returns an IPv6 address. Its third group is IPv6's ethertype, for the reason given at [`v4`].
fn v6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x86dd, 0, 0, 0, 0, u16::from(host))
}

/// First bytes of payloads, valid and invalid, of either side of a mail session.
const WORDS: [&[u8]; 53] = [
    b"220 mx.example ESMTP\r\n",
    b"220-mx\r\n",
    b"220\r\n",
    b"2200 no\r\n",
    b"421 busy\r\n",
    b"554 no\r\n",
    b"250 2.0.0 Ok: queued\r\n",
    b"EHLO client.example\r\n",
    b"helo a\r\n",
    b"LHLO a\r\n",
    b"STARTTLS\r\n",
    b"starttls\r\n",
    b"a00001 StartTls\r\n",
    b"STLS\r\n",
    b"stls\r\n",
    b"+OK ready\r\n",
    b"-ERR no\r\n",
    b"* OK ready\r\n",
    b"* PREAUTH\r\n",
    b"* bye\r\n",
    b"CAPA\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x16\x03\x03\x00\x7a\x02\x00",
    b"\x15\x03\x03\x00\x02\x02\x28",
    b"\x16\x03\x05\x00\x7a\x02\x00",
    b"GET / HTTP/1.1\r\n",
    b"SSH-2.0-x\r\n",
    b"PROXY TCP4 8.0.0.1\r\n",
    // Replies and commands that the message estimate uses.
    b"220 mx.example ESMTP\r\n",
    b"250 2.0.0 Ok: queued\r\n",
    b"250-one of several\r\n",
    b"235 2.7.0 ok\r\n",
    b"354 go ahead\r\n",
    b"554 5.7.1 no\r\n",
    b"2",
    b"MAIL FROM:<a@b.example>\r\n",
    b"mail from:<a@b.example> SIZE=1\r\nrcpt to:<b@b.example>\r\ndata\r\n",
    b"RCPT TO:<b@b.example> NOTIFY=NEVER\r\n",
    b"DATA\r\n",
    b".\r\n",
    b"small\r\n.\r\n",
    b"BDAT 400\r\n",
    b"BDAT 400\r\nLonger than that\r\n",
    b"BDAT 0 LAST\r\n",
    b"bdat 123456 last\r\n",
    b"\x14\x03\x03\x00\x01\x01\x17\x03\x03\x00\x35",
    b"\x17\x03\x03\x00\x18\x00\x00\x00",
    b"\x17\x03\x03\x00\x19\x00\x00\x00",
    b"\x17\x03\x03\x00\xc3\x00\x00\x00",
    b"\x17\x03\x03\x00\xc4\x00\x00\x00",
    b"\x17\x03\x03\x01\xe0\x00\x00\x00",
    b"\x17\x03\x03\x01\xe1\x00\x00\x00",
    b"\x17\x03\x03\x00\x46",
];

/// Returns a payload, often empty.
pub(super) fn payload(rng: &mut Rng, longest: usize) -> Vec<u8> {
    let filled = |length: usize| vec![b'x'; length];
    match rng.u8(..100) {
        0..30 => Vec::new(),
        30..70 => {
            let mut words = pick(rng, &WORDS).to_vec();
            match rng.u8(..10) {
                0 => words.truncate(rng.usize(1..9)),
                1 => words.extend(filled(rng.usize(1..80))),
                2 => words[0] = rng.u8(..),
                _ => {}
            }
            words
        }
        70..74 => filled(rng.usize(1..9)),
        // Near the limits of the message estimate.
        74..78 => filled(*pick(rng, &[35, 36, 79, 80, 81, 169, 170, 171])),
        78..84 => filled(rng.usize(199..203)),
        84..92 => filled(rng.usize(298..303)),
        92..97 => filled(rng.usize(1..1_400)),
        _ => filled(rng.usize(1_400..longest.clamp(1_401, 9_000))),
    }
}
