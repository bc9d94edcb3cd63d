//! pcap (draft-ietf-opsawg-pcap), and the form of it with longer records that some Linux of old wrote.

use super::{
    frame::{Found, Source},
    input::{Input, Order, Stop},
};

/// What follows the magic number: version, zone, accuracy, snap length, link type.
const HEADER: usize = 20;

/// A pcap file.
pub(crate) struct Pcap {
    order: Order,
    source: Source,
    /// Length of what stands before a frame.
    record: usize,
}

impl Pcap {
    /// Reads the header of a file that begins with `magic`; `None` where that is not pcap's.
    pub(crate) fn open(magic: [u8; 4], input: &mut Input) -> Result<Option<Self>, Stop> {
        let of = |order: Order| {
            Some(match order.u32(&magic, 0)? {
                0xa1b2_c3d4 => (order, 1_000_000, 16),
                0xa1b2_3c4d => (order, 1_000_000_000, 16),
                0xa1b2_cd34 => (order, 1_000_000, 24),
                _ => return None,
            })
        };
        let Some((order, resolution, record)) = of(Order::Little).or_else(|| of(Order::Big)) else {
            return Ok(None);
        };
        let header = input.rest(HEADER)?;
        // The upper half tells whether frames have a check sum behind them.
        let link = order.u32(header, 16).ok_or(Stop::Cut)? & 0xffff;
        Ok(Some(Self { order, source: Source { link, resolution, offset: 0, snap: 0 }, record }))
    }

    /// What the next record holds; `None` at the end.
    pub(crate) fn next(&mut self, input: &mut Input) -> Result<Option<Found>, Stop> {
        let Some(record) = input.next(self.record)? else { return Ok(None) };
        let word = |at| self.order.u32(record, at).ok_or(Stop::Cut);
        let (seconds, fraction, captured, length) = (word(0)?, word(4)?, word(8)?, word(12)?);
        let units = u64::from(seconds) * self.source.resolution as u64 + u64::from(fraction);
        let data = input.rest(captured as usize)?;
        Ok(Some(self.source.frame(units, data, length)))
    }
}
