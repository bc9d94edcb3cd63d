//! What is captured of a frame, as far as it can be followed.

use super::Frame;

/// Up to where a TCP header is needed: its length and flags (RFC 9293, 3.1).
const TCP_FLAGS_END: usize = 14;
/// What there is of it at least.
const MIN_TCP_HEADER: usize = 20;

impl Frame {
    /// The captured bytes, at most `most` of them. A TCP header of which window and check sum alone were not
    /// captured (68 bytes of a frame with IPv6, once the usual) is completed with zeros: nobody looks at them.
    pub fn head(&self, max_bytes: usize) -> Vec<u8> {
        let mut head = self.bytes[..self.bytes.len().min(max_bytes)].to_vec();
        if let Some(begin) = tcp_header(&head)
            && (begin + TCP_FLAGS_END..begin + MIN_TCP_HEADER).contains(&head.len())
        {
            head.resize(begin + MIN_TCP_HEADER, 0);
        }
        head
    }
}

/// Where the TCP header begins, without IPv6's extension headers.
fn tcp_header(frame: &[u8]) -> Option<usize> {
    let be16 = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let mut at = 12;
    while matches!(be16(at)?, 0x8100 | 0x88a8 | 0x9100 | 0x9200) {
        at += 4;
    }
    // Behind the ethertype, or behind PPPoE's header and PPP's protocol.
    let ip = if be16(at)? == 0x8864 { at + 10 } else { at + 2 };
    match frame.get(ip)? >> 4 {
        4 if *frame.get(ip + 9)? == 6 => Some(ip + usize::from(frame.get(ip)? & 0xf) * 4),
        6 if *frame.get(ip + 6)? == 6 => Some(ip + 40),
        _ => None,
    }
}
