//! Writer of captures: pcap, microseconds, Ethernet (draft-ietf-opsawg-pcap).

use std::path::Path;

/// Frame with its time, in microseconds since 1970.
pub type Stamped = (u64, Vec<u8>);

/// Writes `frames` sorted by their times; equal times keep their order.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, frames: &[Stamped]) -> std::io::Result<()> {
    let mut order: Vec<&Stamped> = frames.iter().collect();
    order.sort_by_key(|(time, _)| *time);
    let mut bytes = Vec::new();
    bytes.extend(0xa1b2_c3d4_u32.to_le_bytes());
    bytes.extend([2, 0, 4, 0]);
    // Zone, accuracy, snaplen, link type Ethernet.
    for word in [0, 0, 262_144, 1_u32] {
        bytes.extend(word.to_le_bytes());
    }
    for (time, frame) in order {
        let length = frame.len() as u32;
        for word in [(time / 1_000_000) as u32, (time % 1_000_000) as u32, length, length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    std::fs::write(path, bytes)
}
