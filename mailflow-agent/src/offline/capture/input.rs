//! Bytes of a capture, in the byte order of who wrote it.

use std::io::{self, BufRead, BufReader, Read};

use super::frame::LARGEST;
use crate::util::gzip_reader::MaybeGzip;

/// What is read ahead.
const BUFFER: usize = 1 << 20;

/// Why there is no further record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// The file ends too early.
    #[error("it ends within a record")]
    Cut,
    /// A length that no record has.
    #[error("a record of an impossible length")]
    Length,
    /// What a record says cannot be.
    #[error("{0}")]
    Contradiction(&'static str),
    /// It cannot be read, or not be unpacked.
    #[error("it cannot be read on: {0}")]
    Unreadable(#[from] io::Error),
}

/// The contents of a file, record by record.
pub(crate) struct Input {
    contents: BufReader<MaybeGzip>,
    record: Vec<u8>,
}

impl Input {
    pub(crate) fn new(file: MaybeGzip) -> Self {
        Self { contents: BufReader::with_capacity(BUFFER, file), record: Vec::new() }
    }

    /// The first four bytes, which are read again; fewer where there are no more.
    pub(crate) fn magic(&mut self) -> io::Result<Vec<u8>> {
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
    pub(crate) fn next(&mut self, length: usize) -> Result<Option<&[u8]>, Stop> {
        if length > LARGEST {
            return Err(Stop::Length);
        }
        self.record.clear();
        // Memory grows with what there is, whatever a record says of itself.
        let read = (&mut self.contents).take(length as u64).read_to_end(&mut self.record)?;
        match read {
            _ if read == length => Ok(Some(&self.record)),
            0 => Ok(None),
            _ => Err(Stop::Cut),
        }
    }

    /// The next `length` bytes, which there must be.
    pub(crate) fn rest(&mut self, length: usize) -> Result<&[u8], Stop> {
        self.next(length)?.ok_or(Stop::Cut)
    }
}

/// The byte order of a file or of a section of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Order {
    #[default]
    Little,
    Big,
}

impl Order {
    /// The number at `at`.
    pub(crate) fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = array(bytes, at)?;
        Some(if self == Order::Big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    /// The number at `at`.
    pub(crate) fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = array(bytes, at)?;
        Some(if self == Order::Big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// The number at `at`.
    pub(crate) fn i64(self, bytes: &[u8], at: usize) -> Option<i64> {
        let bytes = array(bytes, at)?;
        Some(if self == Order::Big { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
