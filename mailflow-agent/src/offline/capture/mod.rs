//! Captures: reads pcap and pcapng files as frames with times.
//!
//! Own readers instead of a library, so that no frame is lost to a valid but rare encoding: times in powers
//! of two, sections of either byte order, obsolete block types. Frames before a truncation count.

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
    frame::CaptureRecord,
    input::{CaptureInput, CaptureReadError},
    pcap::Pcap,
    pcapng::PcapNg,
};
use crate::util::gzip_reader::MaybeGzip;

/// Reason why a capture cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be opened or read.
    #[error("{}: {source}", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The file is neither pcap nor pcapng.
    #[error("{}: neither pcap nor pcapng; {found}", path.display())]
    Format {
        /// Path of the file.
        path: PathBuf,
        /// Description of the contents.
        found: String,
    },
    /// The file ends within a record, or the fields of a record contradict each other.
    #[error("{}: damaged after frame {frames}: {reason}", path.display())]
    Damaged {
        /// Path of the file.
        path: PathBuf,
        /// Frames read before the damage.
        frames: u64,
        /// Description of the damage.
        reason: String,
    },
}

/// Open capture.
pub struct Capture {
    path: PathBuf,
    position: Arc<AtomicU64>,
    input: CaptureInput,
    format: CaptureFormat,
    frames: u64,
    /// Number of skipped frames by link type.
    skipped: BTreeMap<u32, u64>,
}

enum CaptureFormat {
    Pcap(Pcap),
    PcapNg(PcapNg),
}

impl Capture {
    /// Opens a capture, plain or compressed with gzip.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or is no capture.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        match MaybeGzip::open(path) {
            Ok(contents) => Self::from_contents(path, contents),
            Err(source) => Err(CaptureError::File { path: path.to_owned(), source }),
        }
    }

    /// Opens a capture that is already open as a file; `path` names it in errors.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or is no capture.
    pub fn from_contents(path: &Path, file: MaybeGzip) -> Result<Self, CaptureError> {
        let path = path.to_owned();
        let position = file.position();
        let mut input = CaptureInput::new(file);
        let magic = match input.peek_magic() {
            Ok(magic) => magic,
            Err(source) => return Err(CaptureError::File { path, source }),
        };
        let format = match <[u8; 4]>::try_from(&magic[..]) {
            Ok(pcapng::MAGIC) => Ok(Some(CaptureFormat::PcapNg(PcapNg::default()))),
            Ok(magic) => Pcap::open(magic, &mut input).map(|pcap| pcap.map(CaptureFormat::Pcap)),
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
            Err(error) => Err(CaptureError::Damaged { path, frames: 0, reason: error.to_string() }),
        }
    }

    /// Returns the number of bytes of the file that were read, before decompression.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// Returns the number of frames that carry no IP, or whose link type is not supported.
    pub fn skipped(&self) -> u64 {
        self.skipped.values().sum()
    }

    /// Returns the number of skipped frames of each link type.
    pub fn skipped_types(&self) -> &BTreeMap<u32, u64> {
        &self.skipped
    }

    /// Returns the next frame; `None` at the end.
    ///
    /// # Errors
    /// Fails if the capture is damaged here. Frames before the damage are valid.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, CaptureError> {
        loop {
            let found = match &mut self.format {
                CaptureFormat::Pcap(pcap) => pcap.read_record(&mut self.input),
                CaptureFormat::PcapNg(pcapng) => pcapng.read_block(&mut self.input),
            };
            match found {
                Ok(Some(CaptureRecord::Frame(frame))) => {
                    self.frames += 1;
                    return Ok(Some(frame));
                }
                Ok(Some(CaptureRecord::Skipped(link))) => *self.skipped.entry(link).or_default() += 1,
                Ok(Some(CaptureRecord::NoFrame)) => {}
                Ok(None) => return Ok(None),
                Err(error) => return Err(self.damaged(&error)),
            }
        }
    }

    fn damaged(&self, error: &CaptureReadError) -> CaptureError {
        let (path, frames) = (self.path.clone(), self.frames + self.skipped());
        CaptureError::Damaged { path, frames, reason: error.to_string() }
    }
}
