//! Captures: pcap and pcapng files as frames with times.

mod link;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use pcap_parser::{
    Block, LegacyPcapBlock, Linktype, PcapBlockOwned, PcapError, PcapHeader, create_reader,
    traits::{PcapNGPacketBlock, PcapReaderIterator},
};

use crate::packed::Packed;

/// Where reading starts; it grows with the largest block.
const BUFFER: usize = 1 << 20;
/// A block larger than this is damage, not a frame.
const LARGEST: usize = 64 << 20;

/// Why a capture cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be opened or read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is neither pcap nor pcapng.
    #[error("{}: neither pcap nor pcapng", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// It ends within a record, or a record contradicts itself.
    #[error("{}: damaged after frame {frames}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Frames read before.
        frames: u64,
        /// What is wrong.
        reason: String,
    },
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

/// An interface of a capture.
#[derive(Clone, Copy)]
struct Source {
    link: Linktype,
    /// Units of time in a second.
    resolution: u64,
    /// Seconds to add.
    offset: i64,
    /// Most bytes captured of a frame; 0 for all.
    snap: u32,
}

/// An open capture.
pub struct Capture {
    path: PathBuf,
    position: Arc<AtomicU64>,
    reader: Box<dyn PcapReaderIterator + Send>,
    sources: Vec<Source>,
    frames: u64,
    skipped: u64,
    capacity: usize,
}

impl Capture {
    /// Opens a capture, compressed with gzip or not.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let failed = |source| CaptureError::File { path: path.to_owned(), source };
        let file = Packed::open(path).map_err(failed)?;
        let position = file.position();
        match create_reader(BUFFER, file) {
            Ok(reader) => Ok(Self {
                path: path.to_owned(),
                position,
                reader,
                sources: Vec::new(),
                frames: 0,
                skipped: 0,
                capacity: BUFFER,
            }),
            Err(_) => Err(CaptureError::Format { path: path.to_owned() }),
        }
    }

    /// Bytes of the file that were read, as it is on the disk.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// Frames of link types that carry no IP, or that are not known.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// The capture is damaged here. What came before is good.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, CaptureError> {
        loop {
            let (sources, skipped) = (&mut self.sources, &mut self.skipped);
            match self.reader.next() {
                Ok((offset, block)) => {
                    let found = read(&block, sources);
                    self.reader.consume(offset);
                    match found {
                        Found::Frame(frame) => {
                            self.frames += 1;
                            return Ok(Some(frame));
                        }
                        Found::Skipped => *skipped += 1,
                        Found::Nothing => {}
                        Found::Damage(reason) => return Err(self.damaged(reason)),
                    }
                }
                Err(PcapError::Eof) => return Ok(None),
                Err(PcapError::Incomplete(_)) => {
                    if self.reader.reader_exhausted() {
                        return Err(self.damaged("it ends within a record"));
                    }
                    if self.reader.refill().is_err() {
                        return Err(self.damaged("it cannot be read on"));
                    }
                }
                Err(PcapError::BufferTooSmall) => {
                    self.capacity *= 2;
                    if self.capacity > LARGEST || !self.reader.grow(self.capacity) {
                        return Err(self.damaged("a record of an impossible length"));
                    }
                }
                Err(PcapError::UnexpectedEof) => return Err(self.damaged("it ends within a record")),
                Err(PcapError::ReadError) => return Err(self.damaged("it cannot be read on")),
                Err(_) => return Err(self.damaged("a record that contradicts itself")),
            }
        }
    }

    fn damaged(&self, reason: impl Into<String>) -> CaptureError {
        CaptureError::Damaged { path: self.path.clone(), frames: self.frames, reason: reason.into() }
    }
}

enum Found {
    Frame(Frame),
    /// A frame whose link type carries no IP.
    Skipped,
    /// No frame.
    Nothing,
    Damage(&'static str),
}

fn read(block: &PcapBlockOwned<'_>, sources: &mut Vec<Source>) -> Found {
    match block {
        PcapBlockOwned::LegacyHeader(header) => {
            *sources = vec![legacy_source(header)];
            Found::Nothing
        }
        PcapBlockOwned::Legacy(packet) => legacy(packet, sources),
        PcapBlockOwned::NG(Block::SectionHeader(_)) => {
            sources.clear();
            Found::Nothing
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
            let Some(resolution) = interface.ts_resolution() else {
                return Found::Damage("an interface whose time has an impossible resolution");
            };
            let offset = interface.ts_offset();
            sources.push(Source { link: interface.linktype, resolution, offset, snap: interface.snaplen });
            Found::Nothing
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            let Some(source) = sources.get(packet.if_id as usize) else {
                return Found::Damage("a frame of an interface that was not described");
            };
            let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
            frame(source, units, packet.packet_data(), packet.origlen)
        }
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
            let Some(source) = sources.first() else {
                return Found::Damage("a frame of an interface that was not described");
            };
            let snap = if source.snap == 0 { u32::MAX } else { source.snap };
            let captured = packet.origlen.min(snap) as usize;
            let data = packet.raw_packet_data();
            frame(source, 0, &data[..captured.min(data.len())], packet.origlen)
        }
        PcapBlockOwned::NG(_) => Found::Nothing,
    }
}

fn legacy_source(header: &PcapHeader) -> Source {
    let resolution = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
    Source { link: Linktype(header.network.0 & 0xffff), resolution, offset: 0, snap: 0 }
}

fn legacy(packet: &LegacyPcapBlock<'_>, sources: &[Source]) -> Found {
    let Some(source) = sources.first() else { return Found::Damage("a frame before the header") };
    let units = u64::from(packet.ts_sec) * source.resolution + u64::from(packet.ts_usec);
    frame(source, units, packet.data, packet.origlen)
}

fn frame(source: &Source, units: u64, data: &[u8], length: u32) -> Found {
    let nanos = u128::from(units) * 1_000_000_000 / u128::from(source.resolution.max(1));
    let nanos = nanos as i128 + i128::from(source.offset) * 1_000_000_000;
    match link::ethernet(source.link, data, length as usize) {
        Some((bytes, length)) => {
            Found::Frame(Frame { time: u64::try_from(nanos).unwrap_or(0), bytes, length })
        }
        None => Found::Skipped,
    }
}
