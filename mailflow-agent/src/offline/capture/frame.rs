//! Frames of a capture and the interfaces they come from.

use super::link;

/// A record longer than this is damage, not a frame.
pub(crate) const MAX_RECORD_BYTES: usize = 64 << 20;

/// An interface of a capture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CaptureInterface {
    /// Link type.
    pub(crate) link: u32,
    /// Units of time in a second.
    pub(crate) resolution: u128,
    /// Seconds to add.
    pub(crate) offset: i64,
    /// Most bytes captured of a frame; 0 for all.
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

/// What a record holds.
pub(crate) enum CaptureRecord {
    Frame(Frame),
    /// A frame of this link type that carries no IP, or whose link type is not read.
    Skipped(u32),
    /// No frame.
    NoFrame,
}

/// One frame of a capture, made an Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Its bytes, as far as they were captured.
    pub bytes: Vec<u8>,
    /// Its length on the wire.
    pub length: usize,
}
