//! Bytes of a capture, in the byte order of who wrote it.

use std::io::{self, BufRead, BufReader, Read};

use super::frame::MAX_RECORD_BYTES;
use crate::util::gzip_reader::Packed;

/// What is read ahead.
const READ_AHEAD_BYTES: usize = 1 << 20;

/// Why there is no further record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureReadError {
    /// The file ends too early.
    #[error("it ends within a record")]
    Truncated,
    /// A length that no record has.
    #[error("a record of an impossible length")]
    ImpossibleLength,
    /// What a record says cannot be.
    #[error("{0}")]
    Inconsistent(&'static str),
    /// It cannot be read, or not be unpacked.
    #[error("it cannot be read on: {0}")]
    Io(#[from] io::Error),
}

/// The contents of a file, record by record.
pub(crate) struct CaptureInput {
    contents: BufReader<Packed>,
    record: Vec<u8>,
}

impl CaptureInput {
    pub(crate) fn new(file: Packed) -> Self {
        Self { contents: BufReader::with_capacity(READ_AHEAD_BYTES, file), record: Vec::new() }
    }

    /// The first four bytes, which are read again; fewer where there are no more.
    pub(crate) fn peek_magic(&mut self) -> io::Result<Vec<u8>> {
        let mut magic = Vec::new();
        // What comes through a pipe may come byte by byte.
        while magic.len() < 4 {
            let more = self.contents.fill_buf()?;
            let Some(byte) = more.first() else { break };
            magic.push(*byte);
            self.contents.consume(1);
        }
        Ok(magic)
    }

    /// The next `length` bytes; `None` where the file ends before them.
    pub(crate) fn read_record(&mut self, length: usize) -> Result<Option<&[u8]>, CaptureReadError> {
        if length > MAX_RECORD_BYTES {
            return Err(CaptureReadError::ImpossibleLength);
        }
        self.record.clear();
        // Memory grows with what there is, whatever a record says of itself.
        let read = (&mut self.contents).take(length as u64).read_to_end(&mut self.record)?;
        match read {
            _ if read == length => Ok(Some(&self.record)),
            0 => Ok(None),
            _ => Err(CaptureReadError::Truncated),
        }
    }

    /// The next `length` bytes, which there must be.
    pub(crate) fn read_exact(&mut self, length: usize) -> Result<&[u8], CaptureReadError> {
        self.read_record(length)?.ok_or(CaptureReadError::Truncated)
    }
}

/// The byte order of a file or of a section of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ByteOrder {
    #[default]
    Little,
    Big,
}

impl ByteOrder {
    /// The number at `at`.
    pub(crate) fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = array(bytes, at)?;
        Some(if self == ByteOrder::Big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    /// The number at `at`.
    pub(crate) fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = array(bytes, at)?;
        Some(if self == ByteOrder::Big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// The number at `at`.
    pub(crate) fn i64(self, bytes: &[u8], at: usize) -> Option<i64> {
        let bytes = array(bytes, at)?;
        Some(if self == ByteOrder::Big { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
