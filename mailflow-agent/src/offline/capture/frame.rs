//! Frames of a capture, and the interfaces that they were captured on.

use super::link;

/// Longest record, in bytes. A longer one is damage.
pub(crate) const MAX_RECORD_BYTES: usize = 64 << 20;

/// Interface of a capture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CaptureInterface {
    /// Link type.
    pub(crate) link: u32,
    /// Units of time in a second.
    pub(crate) resolution: u128,
    /// Offset of the times, in seconds.
    pub(crate) offset: i64,
    /// Largest number of bytes captured of a frame; 0 for no limit.
    pub(crate) snap_length: u32,
}

impl CaptureInterface {
    pub(crate) fn frame(&self, units: u64, data: &[u8], length: u32) -> CaptureRecord {
        let nanos = (u128::from(units) * 1_000_000_000).checked_div(self.resolution).unwrap_or_default();
        let nanos = i128::try_from(nanos).unwrap_or(i128::MAX);
        let nanos = nanos.saturating_add(i128::from(self.offset) * 1_000_000_000);
        match link::to_ethernet(self.link, data, length as usize) {
            Some((bytes, length)) => {
                CaptureRecord::Frame(Frame { time: u64::try_from(nanos).unwrap_or(0), bytes, length })
            }
            None => CaptureRecord::Skipped(self.link),
        }
    }
}

/// Contents of a record.
pub(crate) enum CaptureRecord {
    Frame(Frame),
    /// A frame of this link type that carries no IP, or whose link type is not supported.
    Skipped(u32),
    /// A record without a frame.
    NoFrame,
}

/// Frame of a capture, converted to an Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Time in nanoseconds since 1970.
    pub time: u64,
    /// Captured bytes.
    pub bytes: Vec<u8>,
    /// Length on the wire.
    pub length: usize,
}
