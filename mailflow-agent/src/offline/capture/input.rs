//! Reader of the bytes of a capture, and the byte order of its writer.

use std::io::{self, BufRead, BufReader, Read};

use super::frame::MAX_RECORD_BYTES;
use crate::util::gzip_reader::MaybeGzip;

/// Size of the read buffer.
const READ_AHEAD_BYTES: usize = 1 << 20;

/// Reason why no further record can be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureReadError {
    /// The file ends within a record.
    #[error("it ends within a record")]
    Truncated,
    /// The length of a record is larger than any record.
    #[error("a record of an impossible length")]
    ImpossibleLength,
    /// Fields of a record contradict each other.
    #[error("{0}")]
    Inconsistent(&'static str),
    /// The file cannot be read or decompressed.
    #[error("it cannot be read further: {0}")]
    Io(#[from] io::Error),
}

/// Contents of a file, read record by record.
pub(crate) struct CaptureInput {
    contents: BufReader<MaybeGzip>,
    record: Vec<u8>,
}

impl CaptureInput {
    pub(crate) fn new(file: MaybeGzip) -> Self {
        Self { contents: BufReader::with_capacity(READ_AHEAD_BYTES, file), record: Vec::new() }
    }

    /// Reads the first four bytes, or fewer if the file is shorter.
    pub(crate) fn peek_magic(&mut self) -> io::Result<Vec<u8>> {
        let mut magic = Vec::new();
        // A pipe may deliver one byte at a time.
        while magic.len() < 4 {
            let more = self.contents.fill_buf()?;
            let Some(byte) = more.first() else { break };
            magic.push(*byte);
            self.contents.consume(1);
        }
        Ok(magic)
    }

    /// Reads the next `length` bytes; `None` at the end of the file.
    pub(crate) fn read_record(&mut self, length: usize) -> Result<Option<&[u8]>, CaptureReadError> {
        if length > MAX_RECORD_BYTES {
            return Err(CaptureReadError::ImpossibleLength);
        }
        self.record.clear();
        // Memory grows with the bytes read, not with the length that a record claims.
        let read = (&mut self.contents).take(length as u64).read_to_end(&mut self.record)?;
        match read {
            _ if read == length => Ok(Some(&self.record)),
            0 => Ok(None),
            _ => Err(CaptureReadError::Truncated),
        }
    }

    /// Reads the next `length` bytes, which must exist.
    pub(crate) fn read_exact(&mut self, length: usize) -> Result<&[u8], CaptureReadError> {
        self.read_record(length)?.ok_or(CaptureReadError::Truncated)
    }
}

/// Byte order of a file, or of a section of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ByteOrder {
    #[default]
    Little,
    Big,
}

impl ByteOrder {
    /// Reads the number at `at`.
    pub(crate) fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = array(bytes, at)?;
        Some(if self == ByteOrder::Big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    /// Reads the number at `at`.
    pub(crate) fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = array(bytes, at)?;
        Some(if self == ByteOrder::Big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// Reads the number at `at`.
    pub(crate) fn i64(self, bytes: &[u8], at: usize) -> Option<i64> {
        let bytes = array(bytes, at)?;
        Some(if self == ByteOrder::Big { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
