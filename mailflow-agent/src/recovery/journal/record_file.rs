//! Files of records, which are appended to, and read up to the first damage.
//!
//! A record has a header of its length and its CRC-32, both little endian. A process that is killed during
//! an append leaves a truncated record. All records before it are valid.

use std::{
    fmt,
    fs::File,
    io::{self, Write},
};

use flate2::Crc;
use serde::Serialize;

use crate::recovery::directory::LockedDirectory;
use mailflow_engine::checkpoint::codec;

/// Length of the header of a record.
const HEADER_BYTES: usize = 8;
/// Bytes that are written at once if there are enough: the buffer fits into the cache of a CPU.
const WRITE_BUFFER_BYTES: usize = 256 << 10;

/// Records in memory, with their headers.
#[derive(Debug, Default)]
pub(crate) struct RecordBuffer {
    bytes: Vec<u8>,
    count: usize,
}

impl RecordBuffer {
    /// Appends a value as a record, and returns the record with its header.
    pub(crate) fn add(&mut self, value: &impl Serialize) -> Result<&[u8], codec::Error> {
        let start = self.bytes.len();
        self.bytes.extend([0; HEADER_BYTES]);
        if let Err(error) = codec::append(&mut self.bytes, value) {
            self.bytes.truncate(start);
            return Err(error);
        }
        self.count += 1;
        let (head, record) = self.bytes[start..].split_at_mut(HEADER_BYTES);
        // Records have kilobytes. The largest one is a flow table of the size of memory.
        head[..4].copy_from_slice(&(record.len() as u32).to_le_bytes());
        head[4..].copy_from_slice(&checksum(record).to_le_bytes());
        Ok(&self.bytes[start..])
    }

    /// Appends a record that [`RecordBuffer::add`] returned.
    pub(crate) fn push(&mut self, record: &[u8]) {
        self.bytes.extend(record);
        self.count += 1;
    }

    /// Returns the number of records.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Returns the bytes of all records.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Removes the records that were appended since the buffer had this count and length.
    pub(crate) fn truncate(&mut self, count: usize, bytes: usize) {
        self.bytes.truncate(bytes);
        self.count = count;
    }

    /// Removes all records, and keeps a capacity of `room` bytes.
    pub(crate) fn clear(&mut self, room: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(room);
        self.count = 0;
    }
}

/// File that is appended to.
#[derive(Debug)]
pub(crate) struct Appender {
    file: File,
    bytes: u64,
    records: RecordBuffer,
    /// True if the file may have bytes after the written records: a write failed, and the truncation after it
    /// too.
    has_partial_write: bool,
}

impl Appender {
    /// Opens a file, and truncates it after the last whole record.
    pub(crate) fn open(directory: &LockedDirectory, name: &str) -> io::Result<Self> {
        let whole_length = whole_length(&directory.read(name)?.unwrap_or_default());
        let file = directory.append(name)?;
        file.set_len(whole_length as u64)?;
        Ok(Self {
            file,
            bytes: whole_length as u64,
            records: RecordBuffer::default(),
            has_partial_write: false,
        })
    }

    /// Adds a value as a record for the next [`Appender::write`], and returns the record with its header.
    pub(crate) fn add(&mut self, value: &impl Serialize) -> Result<&[u8], codec::Error> {
        self.records.add(value)
    }

    /// Writes the added records at once. After an error none of them is in the file.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        // A partial record of an earlier write would hide all records after it.
        let written = if self.has_partial_write { self.trim() } else { Ok(()) };
        let written = written.and_then(|()| self.file.write_all(self.records.bytes()));
        let length = self.records.bytes().len() as u64;
        self.records.clear(WRITE_BUFFER_BYTES);
        match written {
            Ok(()) => {
                self.bytes += length;
                Ok(())
            }
            Err(error) => {
                // If this fails too, the next write truncates first.
                let _ = self.trim();
                Err(error)
            }
        }
    }

    /// Discards the added records.
    pub(crate) fn discard_pending(&mut self) {
        self.records.clear(WRITE_BUFFER_BYTES);
    }

    /// Returns true if the added records should be written before more are added.
    pub(crate) fn is_buffer_full(&self) -> bool {
        self.records.bytes().len() >= WRITE_BUFFER_BYTES
    }

    /// Returns the bytes that were added and not written.
    pub(crate) fn pending_bytes(&self) -> u64 {
        self.records.bytes().len() as u64
    }

    /// Truncates the file to `bytes`, and discards the added records.
    pub(crate) fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.records.clear(WRITE_BUFFER_BYTES);
        self.bytes = bytes;
        self.trim()
    }

    /// Truncates the file after the last whole record.
    fn trim(&mut self) -> io::Result<()> {
        self.has_partial_write = true;
        self.file.set_len(self.bytes)?;
        self.has_partial_write = false;
        Ok(())
    }

    /// Returns the bytes of the written records.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Records of a file, and the first damage.
#[derive(Debug, Default)]
pub(crate) struct FileRecords {
    /// Valid records.
    pub(crate) records: Vec<Vec<u8>>,
    /// Damage, if any.
    pub(crate) damage: Option<Damage>,
}

/// Damage of a file. Nothing after it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Offset in the file.
    pub(crate) at: usize,
    /// Bytes from the offset to the end.
    pub(crate) bytes_left: usize,
    /// Kind of damage.
    pub(crate) kind: DamageKind,
}

/// Kind of damage of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DamageKind {
    /// The file ends within a record: a process was killed during a write, or a length is wrong.
    CutOff,
    /// The bytes of a record do not match its checksum.
    Checksum,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, bytes_left, kind } = self;
        let kind = match kind {
            DamageKind::CutOff => "truncated record at",
            DamageKind::Checksum => "wrong checksum of the record at",
        };
        write!(f, "{kind} byte {at} of {}", at + bytes_left)
    }
}

/// Reads the records of a file; none if the file does not exist.
pub(crate) fn read(directory: &LockedDirectory, name: &str) -> io::Result<FileRecords> {
    Ok(parse(&directory.read(name)?.unwrap_or_default()))
}

/// Parses the records of a file.
pub(crate) fn parse(bytes: &[u8]) -> FileRecords {
    let records: Vec<Vec<u8>> = records(bytes).map(<[u8]>::to_vec).collect();
    let at = whole_length(bytes);
    let bytes_left = bytes.len() - at;
    let damage = (bytes_left > 0).then(|| Damage { at, bytes_left, kind: classify(&bytes[at..]) });
    FileRecords { records, damage }
}

/// Returns the kind of damage at the start of `bytes`.
fn classify(bytes: &[u8]) -> DamageKind {
    match split_first_record(bytes) {
        Some(_) => DamageKind::Checksum,
        None => DamageKind::CutOff,
    }
}

/// Writes records to a new file next to `name`, for [`LockedDirectory::rename`]. Returns the name of the new
/// file.
pub(crate) fn stage<'a>(
    directory: &LockedDirectory,
    name: &str,
    records: impl IntoIterator<Item = &'a RecordBuffer>,
) -> io::Result<String> {
    let new = format!("{name}.new");
    let mut file = directory.create(&new)?;
    let written = records.into_iter().try_for_each(|records| file.write_all(records.bytes()));
    // A part of the file is of no use.
    written.inspect_err(|_| _ = directory.remove(&new))?;
    Ok(new)
}

/// Replaces a file atomically: a reader sees the old file or the new one.
pub(crate) fn replace<'a>(
    directory: &LockedDirectory,
    name: &str,
    records: impl IntoIterator<Item = &'a RecordBuffer>,
) -> io::Result<()> {
    let new = stage(directory, name, records)?;
    directory.rename(&new, name)
}

fn checksum(record: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(record);
    crc.sum()
}

/// Returns the length of the valid records at the start of `bytes`.
fn whole_length(bytes: &[u8]) -> usize {
    records(bytes).map(|record| HEADER_BYTES + record.len()).sum()
}

/// Returns the checksum and the bytes of the first record, and the rest; `None` if the record is truncated.
fn split_first_record(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (head, after) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let word = |from: usize| u32::from_le_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]]);
    let (record, rest) = after.split_at_checked(word(0) as usize)?;
    Some((word(4), record, rest))
}

fn records(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (sum, record, after) = split_first_record(rest)?;
        if checksum(record) != sum {
            return None;
        }
        rest = after;
        Some(record)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Value that is serialised as its bytes.
    struct RawBytes(&'static [u8]);

    impl Serialize for RawBytes {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeTuple;
            let mut tuple = serializer.serialize_tuple(self.0.len())?;
            self.0.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
            tuple.end()
        }
    }

    /// Directory that is removed when the value is dropped.
    struct Temporary(LockedDirectory);

    impl Temporary {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("mailflow-frames-{name}-{}", std::process::id()));
            Self(LockedDirectory::open(&path).unwrap())
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            fs::remove_dir_all(self.0.path()).unwrap();
        }
    }

    fn read(directory: &LockedDirectory, name: &str) -> io::Result<Vec<Vec<u8>>> {
        super::read(directory, name).map(|found| found.records)
    }

    #[test]
    fn a_truncated_file_is_read_up_to_the_cut() {
        let temporary = Temporary::new("cut");
        let (directory, path) = (&temporary.0, temporary.0.path().join("file"));
        let mut appender = Appender::open(directory, "file").unwrap();
        for record in [RawBytes(b"one"), RawBytes(b""), RawBytes(b"three")] {
            appender.add(&record).unwrap();
        }
        appender.write().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(appender.bytes(), bytes.len() as u64);
        for length in 0..=bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let found = read(directory, "file").unwrap().len();
            let expected = [11, 19, 32].iter().filter(|end| **end <= length).count();
            assert_eq!(found, expected, "{length}");
            let mut reopened = Appender::open(directory, "file").unwrap();
            reopened.add(&RawBytes(b"more")).unwrap();
            reopened.write().unwrap();
            assert_eq!(read(directory, "file").unwrap().len(), expected + 1, "{length}");
            assert_eq!(read(directory, "file").unwrap().last().unwrap(), b"more");
        }
        fs::write(&path, &bytes).unwrap();
        let mut damaged = bytes.clone();
        damaged[12] ^= 1;
        fs::write(&path, damaged).unwrap();
        assert_eq!(read(directory, "file").unwrap().len(), 1, "nothing after the damage is believed");
        let damage = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = bytes.clone();
            change(&mut bytes);
            fs::write(&path, bytes).unwrap();
            super::read(directory, "file").unwrap().damage.map(|damage| damage.to_string())
        };
        assert_eq!(damage(&|_| ()), None);
        for (change, expected) in [
            (
                &(|bytes: &mut Vec<u8>| bytes[15] ^= 1) as &dyn Fn(&mut Vec<u8>),
                "wrong checksum of the record at byte 11 of 32",
            ),
            (&|bytes| bytes[20] ^= 1, "truncated record at byte 19 of 32"),
            (&|bytes| bytes.truncate(31), "truncated record at byte 19 of 31"),
            (&|bytes| bytes[31] ^= 128, "wrong checksum of the record at byte 19 of 32"),
        ] {
            assert_eq!(damage(change).as_deref(), Some(expected));
        }
        let mut new = RecordBuffer::default();
        new.add(&RawBytes(b"new")).unwrap();
        replace(directory, "file", [&new]).unwrap();
        assert_eq!(read(directory, "file").unwrap(), [b"new"]);
    }

    #[test]
    fn a_truncated_file_can_be_appended_to() {
        let temporary = Temporary::new("gone");
        let directory = &temporary.0;
        let mut appender = Appender::open(directory, "file").unwrap();
        appender.add(&RawBytes(b"one")).unwrap();
        appender.add(&RawBytes(b"two")).unwrap();
        appender.write().unwrap();
        let before = appender.bytes();
        appender.add(&RawBytes(b"three")).unwrap();
        appender.write().unwrap();
        assert!(appender.bytes() > before);
        appender.add(&RawBytes(b"five")).unwrap();
        appender.truncate(before).unwrap();
        appender.add(&RawBytes(b"six")).unwrap();
        appender.write().unwrap();
        assert_eq!(
            read(directory, "file").unwrap(),
            ["one", "two", "six"].map(|record| record.as_bytes().to_vec())
        );
    }
}
