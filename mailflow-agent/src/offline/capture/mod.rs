//! Captures: pcap and pcapng files as frames with times.
//!
//! Read here rather than by a library: what the formats allow must not cost a frame (times in units of a
//! power of two, offsets of either byte order, blocks of old writers), and what was read of a file that ends
//! too early counts.

mod frame;
mod head;
mod input;
mod link;
mod pcap;
mod pcapng;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

pub use self::frame::Frame;
use self::{
    frame::Found,
    input::{Input, Stop},
    pcap::Pcap,
    pcapng::PcapNg,
};
use crate::util::gzip_reader::MaybeGzip;

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
    #[error("{}: neither pcap nor pcapng; {found}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        found: String,
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

/// An open capture.
pub struct Capture {
    path: PathBuf,
    position: Arc<AtomicU64>,
    input: Input,
    format: Format,
    frames: u64,
    /// By link type.
    skipped: BTreeMap<u32, u64>,
}

enum Format {
    Pcap(Pcap),
    PcapNg(PcapNg),
}

impl Capture {
    /// Opens a capture, compressed with gzip or not.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        match MaybeGzip::open(path) {
            Ok(contents) => Self::from_contents(path, contents),
            Err(source) => Err(CaptureError::File { path: path.to_owned(), source }),
        }
    }

    /// Reads a capture from its contents; `path` names it in errors.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn from_contents(path: &Path, file: MaybeGzip) -> Result<Self, CaptureError> {
        let path = path.to_owned();
        let position = file.position();
        let mut input = Input::new(file);
        let magic = match input.magic() {
            Ok(magic) => magic,
            Err(source) => return Err(CaptureError::File { path, source }),
        };
        let format = match <[u8; 4]>::try_from(&magic[..]) {
            Ok(pcapng::MAGIC) => Ok(Some(Format::PcapNg(PcapNg::default()))),
            Ok(magic) => Pcap::open(magic, &mut input).map(|pcap| pcap.map(Format::Pcap)),
            Err(_) => Ok(None),
        };
        match format {
            Ok(Some(format)) => {
                Ok(Self { path, position, input, format, frames: 0, skipped: BTreeMap::new() })
            }
            Ok(None) if magic.is_empty() => {
                Err(CaptureError::Format { path, found: "it is empty".to_owned() })
            }
            Ok(None) => {
                let bytes: Vec<String> = magic.iter().map(|byte| format!("{byte:02x}")).collect();
                Err(CaptureError::Format { path, found: format!("it begins with {}", bytes.join(" ")) })
            }
            Err(stop) => Err(CaptureError::Damaged { path, frames: 0, reason: stop.to_string() }),
        }
    }

    /// Bytes of the file that were read, as it is on the disk.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// Returns the number of frames that carry no IP, or whose link type is not read.
    pub fn skipped(&self) -> u64 {
        self.skipped.values().sum()
    }

    /// Returns their link types, each with how many it has.
    pub fn skipped_types(&self) -> &BTreeMap<u32, u64> {
        &self.skipped
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// The capture is damaged here. What came before is good.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, CaptureError> {
        loop {
            let found = match &mut self.format {
                Format::Pcap(pcap) => pcap.next(&mut self.input),
                Format::PcapNg(pcapng) => pcapng.next(&mut self.input),
            };
            match found {
                Ok(Some(Found::Frame(frame))) => {
                    self.frames += 1;
                    return Ok(Some(frame));
                }
                Ok(Some(Found::Skipped(link))) => *self.skipped.entry(link).or_default() += 1,
                Ok(Some(Found::Nothing)) => {}
                Ok(None) => return Ok(None),
                Err(stop) => return Err(self.damaged(&stop)),
            }
        }
    }

    fn damaged(&self, stop: &Stop) -> CaptureError {
        let (path, frames) = (self.path.clone(), self.frames + self.skipped());
        CaptureError::Damaged { path, frames, reason: stop.to_string() }
    }
}
