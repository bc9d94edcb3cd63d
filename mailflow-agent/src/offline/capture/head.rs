//! Head of a captured frame: the bytes that the program can parse.

use super::Frame;

/// End of the part of a TCP header that the program needs: header length and flags (RFC 9293, 3.1).
const TCP_FLAGS_END: usize = 14;
/// Smallest length of a TCP header.
const MIN_TCP_HEADER: usize = 20;

impl Frame {
    /// Returns the captured bytes, at most `max_bytes` of them. Completes a TCP header with zeros if only its
    /// window and checksum are missing, as in captures of 68 bytes a frame with IPv6: the program does not
    /// read them.
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

/// Returns the offset of the TCP header. Does not skip IPv6 extension headers.
fn tcp_header(frame: &[u8]) -> Option<usize> {
    let be16 = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let mut at = 12;
    while matches!(be16(at)?, 0x8100 | 0x88a8 | 0x9100 | 0x9200) {
        at += 4;
    }
    // The IP header follows the ethertype, or the PPPoE header and the PPP protocol.
    let ip = if be16(at)? == 0x8864 { at + 10 } else { at + 2 };
    match frame.get(ip)? >> 4 {
        4 if *frame.get(ip + 9)? == 6 => Some(ip + usize::from(frame.get(ip)? & 0xf) * 4),
        6 if *frame.get(ip + 6)? == 6 => Some(ip + 40),
        _ => None,
    }
}
