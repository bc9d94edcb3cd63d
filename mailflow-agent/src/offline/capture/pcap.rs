//! pcap (draft-ietf-opsawg-pcap), and its variant with longer record headers that some old Linux systems
//! wrote.

use super::{
    frame::{CaptureInterface, CaptureRecord},
    input::{ByteOrder, CaptureInput, CaptureReadError},
};

/// Length of the file header after the magic number: version, zone, accuracy, snap length, link type.
const FILE_HEADER_BYTES: usize = 20;

/// Reader of a pcap file.
pub(crate) struct Pcap {
    order: ByteOrder,
    interface: CaptureInterface,
    /// Length of the record header.
    header_bytes: usize,
}

impl Pcap {
    /// Reads the header of a file that begins with `magic`; `None` if that is not the magic number of pcap.
    pub(crate) fn open(magic: [u8; 4], input: &mut CaptureInput) -> Result<Option<Self>, CaptureReadError> {
        let detect = |order: ByteOrder| {
            Some(match order.u32(&magic, 0)? {
                0xa1b2_c3d4 => (order, 1_000_000, 16),
                0xa1b2_3c4d => (order, 1_000_000_000, 16),
                0xa1b2_cd34 => (order, 1_000_000, 24),
                _ => return None,
            })
        };
        let Some((order, resolution, header_bytes)) =
            detect(ByteOrder::Little).or_else(|| detect(ByteOrder::Big))
        else {
            return Ok(None);
        };
        let header = input.read_exact(FILE_HEADER_BYTES)?;
        // The upper half of the word is the flag that frames end with a checksum.
        let link = order.u32(header, 16).ok_or(CaptureReadError::Truncated)? & 0xffff;
        Ok(Some(Self {
            order,
            interface: CaptureInterface { link, resolution, offset: 0, snap_length: 0 },
            header_bytes,
        }))
    }

    /// Reads the next record; `None` at the end.
    pub(crate) fn read_record(
        &mut self,
        input: &mut CaptureInput,
    ) -> Result<Option<CaptureRecord>, CaptureReadError> {
        let Some(record) = input.read_record(self.header_bytes)? else { return Ok(None) };
        let word = |at| self.order.u32(record, at).ok_or(CaptureReadError::Truncated);
        let (seconds, fraction, captured, length) = (word(0)?, word(4)?, word(8)?, word(12)?);
        let units = u64::from(seconds) * self.interface.resolution as u64 + u64::from(fraction);
        let data = input.read_exact(captured as usize)?;
        Ok(Some(self.interface.frame(units, data, length)))
    }
}
