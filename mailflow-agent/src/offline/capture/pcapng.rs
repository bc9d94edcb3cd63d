//! pcapng (draft-ietf-opsawg-pcapng).

use super::{
    frame::{Found, Source},
    input::{Input, Order, Stop},
};

/// The type of a section's header, which reads the same in either byte order.
pub(crate) const MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// What tells a section's byte order.
const ORDER: u32 = 0x1a2b_3c4d;
/// Type and length, and the length again.
const FRAME: usize = 12;

const INTERFACE: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Options of an interface.
const END: u16 = 0;
const RESOLUTION: u16 = 9;
const OFFSET: u16 = 14;

/// A pcapng file.
#[derive(Default)]
pub(crate) struct PcapNg {
    order: Order,
    sources: Vec<Source>,
    /// True if the first block's type has been read.
    begun: bool,
}

impl PcapNg {
    /// What the next block holds; `None` at the end.
    pub(crate) fn next(&mut self, input: &mut Input) -> Result<Option<Found>, Stop> {
        let kind: [u8; 4] = if self.begun {
            let Some(kind) = input.next(4)? else { return Ok(None) };
            kind.try_into().map_err(|_| Stop::Cut)?
        } else {
            self.begun = true;
            MAGIC
        };
        let mut length: [u8; 4] = [0; 4];
        length.copy_from_slice(input.rest(4)?);
        let mut taken = 0;
        if kind == MAGIC {
            self.order = order(input.rest(4)?)?;
            self.sources.clear();
            taken = 4;
        }
        let length = self.order.u32(&length, 0).ok_or(Stop::Cut)? as usize;
        let Some(body) = length.checked_sub(FRAME + taken).filter(|_| length.is_multiple_of(4)) else {
            return Err(Stop::Length);
        };
        let block = input.rest(body + 4)?;
        let (body, again) = block.split_at(body);
        if self.order.u32(again, 0) != Some(length as u32) {
            return Err(Stop::Contradiction("a block whose two lengths differ"));
        }
        let kind = if kind == MAGIC { None } else { self.order.u32(&kind, 0) };
        read(self.order, kind, body, &mut self.sources).map(Some)
    }
}

/// The byte order of a section.
fn order(word: &[u8]) -> Result<Order, Stop> {
    [Order::Little, Order::Big]
        .into_iter()
        .find(|order| order.u32(word, 0) == Some(ORDER))
        .ok_or(Stop::Contradiction("a section whose byte order cannot be told"))
}

/// What a block holds; a `kind` of `None` is a section's header.
fn read(order: Order, kind: Option<u32>, body: &[u8], sources: &mut Vec<Source>) -> Result<Found, Stop> {
    const SHORT: Stop = Stop::Contradiction("a block shorter than its fields");
    let word = |at| order.u32(body, at).ok_or(SHORT);
    let half = |at| order.u16(body, at).ok_or(SHORT);
    let source = |number: usize| {
        sources.get(number).ok_or(Stop::Contradiction("a frame of an interface that was not described"))
    };
    let data = |at: usize, captured: u32| {
        body.get(at..at.saturating_add(captured as usize))
            .ok_or(Stop::Contradiction("a frame longer than its block"))
    };
    let units =
        |at: usize| -> Result<u64, Stop> { Ok(u64::from(word(at)?) << 32 | u64::from(word(at + 4)?)) };
    match kind {
        Some(INTERFACE) => {
            let link = u32::from(half(0)?);
            let snap = word(4)?;
            let (resolution, offset) = times(order, body.get(8..).unwrap_or_default());
            let resolution = self::resolution(resolution)
                .ok_or(Stop::Contradiction("an interface whose time has an impossible resolution"))?;
            sources.push(Source { link, resolution, offset, snap });
            Ok(Found::Nothing)
        }
        Some(ENHANCED_PACKET) => {
            let source = source(word(0)? as usize)?;
            Ok(source.frame(units(4)?, data(20, word(12)?)?, word(16)?))
        }
        // The form before that one, which counted losses beside a shorter number of the interface.
        Some(PACKET) => {
            let source = source(usize::from(half(0)?))?;
            Ok(source.frame(units(4)?, data(20, word(12)?)?, word(16)?))
        }
        // Without a time, and as much as the interface lets be captured.
        Some(SIMPLE_PACKET) => {
            let (source, length) = (source(0)?, word(0)?);
            let snap = if source.snap == 0 { u32::MAX } else { source.snap };
            let room = body.len().saturating_sub(4);
            let captured = length.min(snap).min(u32::try_from(room).unwrap_or(u32::MAX));
            Ok(source.frame(0, data(4, captured)?, length))
        }
        _ => Ok(Found::Nothing),
    }
}

/// Resolution and offset of an interface's times, from its options.
fn times(order: Order, mut options: &[u8]) -> (u8, i64) {
    // Microseconds, where nothing else is said.
    let mut times = (6, 0);
    while let (Some(code), Some(length)) = (order.u16(options, 0), order.u16(options, 2)) {
        let length = usize::from(length);
        let Some(value) = options.get(4..4 + length) else { break };
        match (code, value) {
            (END, _) => break,
            (RESOLUTION, [resolution, ..]) => times.0 = *resolution,
            (OFFSET, _) => times.1 = order.i64(value, 0).unwrap_or(times.1),
            _ => {}
        }
        options = options.get(4 + length.next_multiple_of(4)..).unwrap_or_default();
    }
    times
}

/// Units in a second: a power of two or, without the highest bit, of ten.
fn resolution(exponent: u8) -> Option<u128> {
    let power = u32::from(exponent & 0x7f);
    if exponent & 0x80 == 0 { 10_u128.checked_pow(power) } else { Some(1 << power) }
}
