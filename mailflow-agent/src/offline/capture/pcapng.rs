//! pcapng (draft-ietf-opsawg-pcapng).

use super::{
    frame::{CaptureInterface, CaptureRecord},
    input::{ByteOrder, CaptureInput, CaptureReadError},
};

/// Block type of a section header: the same in either byte order.
pub(crate) const MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// Word of a section header that shows its byte order.
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// Length of the type and the two lengths of a block.
const BLOCK_OVERHEAD: usize = 12;

const INTERFACE_BLOCK: u32 = 1;
const PACKET_BLOCK: u32 = 2;
const SIMPLE_PACKET_BLOCK: u32 = 3;
const ENHANCED_PACKET_BLOCK: u32 = 6;

/// Options of an interface description.
const END_OF_OPTIONS: u16 = 0;
const TIME_RESOLUTION: u16 = 9;
const TIME_OFFSET: u16 = 14;

/// Reader of a pcapng file.
#[derive(Default)]
pub(crate) struct PcapNg {
    order: ByteOrder,
    interfaces: Vec<CaptureInterface>,
    /// True once the type of the first block has been read.
    first_type_read: bool,
}

impl PcapNg {
    /// Reads the next block; `None` at the end.
    pub(crate) fn read_block(
        &mut self,
        input: &mut CaptureInput,
    ) -> Result<Option<CaptureRecord>, CaptureReadError> {
        let kind: [u8; 4] = if self.first_type_read {
            let Some(kind) = input.read_record(4)? else { return Ok(None) };
            kind.try_into().map_err(|_| CaptureReadError::Truncated)?
        } else {
            self.first_type_read = true;
            MAGIC
        };
        let mut length: [u8; 4] = [0; 4];
        length.copy_from_slice(input.read_exact(4)?);
        let mut order_bytes = 0;
        if kind == MAGIC {
            self.order = order(input.read_exact(4)?)?;
            self.interfaces.clear();
            order_bytes = 4;
        }
        let length = self.order.u32(&length, 0).ok_or(CaptureReadError::Truncated)? as usize;
        let Some(body) =
            length.checked_sub(BLOCK_OVERHEAD + order_bytes).filter(|_| length.is_multiple_of(4))
        else {
            return Err(CaptureReadError::ImpossibleLength);
        };
        let block = input.read_exact(body + 4)?;
        let (body, repeated_length) = block.split_at(body);
        if self.order.u32(repeated_length, 0) != Some(length as u32) {
            return Err(CaptureReadError::Inconsistent("a block whose two lengths differ"));
        }
        let kind = if kind == MAGIC { None } else { self.order.u32(&kind, 0) };
        parse_block(self.order, kind, body, &mut self.interfaces).map(Some)
    }
}

/// Returns the byte order of a section.
fn order(word: &[u8]) -> Result<ByteOrder, CaptureReadError> {
    [ByteOrder::Little, ByteOrder::Big]
        .into_iter()
        .find(|order| order.u32(word, 0) == Some(BYTE_ORDER_MAGIC))
        .ok_or(CaptureReadError::Inconsistent("a section with an unknown byte order"))
}

/// Parses a block; a `kind` of `None` is a section header.
fn parse_block(
    order: ByteOrder,
    kind: Option<u32>,
    body: &[u8],
    interfaces: &mut Vec<CaptureInterface>,
) -> Result<CaptureRecord, CaptureReadError> {
    const SHORT_BLOCK: CaptureReadError = CaptureReadError::Inconsistent("a block shorter than its fields");
    let word = |at| order.u32(body, at).ok_or(SHORT_BLOCK);
    let half = |at| order.u16(body, at).ok_or(SHORT_BLOCK);
    let interface = |number: usize| {
        interfaces
            .get(number)
            .ok_or(CaptureReadError::Inconsistent("a frame of an interface that was not described"))
    };
    let data = |at: usize, captured: u32| {
        body.get(at..at.saturating_add(captured as usize))
            .ok_or(CaptureReadError::Inconsistent("a frame longer than its block"))
    };
    let units = |at: usize| -> Result<u64, CaptureReadError> {
        Ok(u64::from(word(at)?) << 32 | u64::from(word(at + 4)?))
    };
    match kind {
        Some(INTERFACE_BLOCK) => {
            let link = u32::from(half(0)?);
            let snap_length = word(4)?;
            let (resolution, offset) = interface_time(order, body.get(8..).unwrap_or_default());
            let resolution = self::resolution(resolution).ok_or(CaptureReadError::Inconsistent(
                "an interface whose time has an impossible resolution",
            ))?;
            interfaces.push(CaptureInterface { link, resolution, offset, snap_length });
            Ok(CaptureRecord::NoFrame)
        }
        Some(ENHANCED_PACKET_BLOCK) => {
            let interface = interface(word(0)? as usize)?;
            Ok(interface.frame(units(4)?, data(20, word(12)?)?, word(16)?))
        }
        // The obsolete packet block: like the enhanced one, with a shorter interface number and a count of
        // drops.
        Some(PACKET_BLOCK) => {
            let interface = interface(usize::from(half(0)?))?;
            Ok(interface.frame(units(4)?, data(20, word(12)?)?, word(16)?))
        }
        // The simple packet block has no time, and its captured length follows from the snap length of the
        // interface.
        Some(SIMPLE_PACKET_BLOCK) => {
            let (interface, length) = (interface(0)?, word(0)?);
            let snap_length = if interface.snap_length == 0 { u32::MAX } else { interface.snap_length };
            let room = body.len().saturating_sub(4);
            let captured = length.min(snap_length).min(u32::try_from(room).unwrap_or(u32::MAX));
            Ok(interface.frame(0, data(4, captured)?, length))
        }
        _ => Ok(CaptureRecord::NoFrame),
    }
}

/// Returns the resolution and the offset of the times of an interface, from its options.
fn interface_time(order: ByteOrder, mut options: &[u8]) -> (u8, i64) {
    // Without an option, the unit is a microsecond.
    let mut times = (6, 0);
    while let (Some(code), Some(length)) = (order.u16(options, 0), order.u16(options, 2)) {
        let length = usize::from(length);
        let Some(value) = options.get(4..4 + length) else { break };
        match (code, value) {
            (END_OF_OPTIONS, _) => break,
            (TIME_RESOLUTION, [resolution, ..]) => times.0 = *resolution,
            (TIME_OFFSET, _) => times.1 = order.i64(value, 0).unwrap_or(times.1),
            _ => {}
        }
        options = options.get(4 + length.next_multiple_of(4)..).unwrap_or_default();
    }
    times
}

/// Returns the units in a second: a power of two if the highest bit is set, otherwise of ten.
fn resolution(exponent: u8) -> Option<u128> {
    let power = u32::from(exponent & 0x7f);
    if exponent & 0x80 == 0 { 10_u128.checked_pow(power) } else { Some(1 << power) }
}
