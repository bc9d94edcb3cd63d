//! Files of frames: appended to, and read as far as they are whole.
//!
//! A frame is its length and its CRC-32, little endian, and then its bytes. Who is killed while appending
//! leaves a frame that is cut off; what comes before it is good.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use flate2::Crc;

/// Bytes before those of a frame.
const HEAD: usize = 8;
/// Only the agent's user may read it: it holds addresses.
const MODE: u32 = 0o600;

/// A file that is appended to.
#[derive(Debug)]
pub(super) struct Appender {
    file: File,
    bytes: u64,
    frames: Vec<u8>,
}

impl Appender {
    /// Opens a file, and cuts off what is not whole at its end.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let whole = whole(&read_or_empty(path)?);
        let file = OpenOptions::new().create(true).append(true).mode(MODE).open(path)?;
        file.set_len(whole as u64)?;
        Ok(Self { file, bytes: whole as u64, frames: Vec::new() })
    }

    /// Adds a frame to those that the next [`Appender::write`] writes.
    pub(super) fn add(&mut self, frame: &[u8]) {
        push(&mut self.frames, frame);
    }

    /// Writes what was added, at once. After an error nothing of it is there.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if self.frames.is_empty() {
            return Ok(());
        }
        let result = self.file.write_all(&self.frames);
        let length = self.frames.len() as u64;
        self.frames.clear();
        match result {
            Ok(()) => {
                self.bytes += length;
                Ok(())
            }
            Err(error) => {
                self.file.set_len(self.bytes)?;
                Err(error)
            }
        }
    }

    /// Bytes written.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The frames of a file that are whole; none where there is no file.
pub(super) fn read(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let bytes = read_or_empty(path)?;
    Ok(frames(&bytes).map(<[u8]>::to_vec).collect())
}

/// Replaces a file by one of these frames, so that whoever reads it sees the old one or the new one.
pub(super) fn replace<'a>(path: &Path, frames: impl IntoIterator<Item = &'a [u8]>) -> io::Result<()> {
    let mut bytes = Vec::new();
    frames.into_iter().for_each(|frame| push(&mut bytes, frame));
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(MODE).open(&new)?;
    file.write_all(&bytes)?;
    fs::rename(&new, path)
}

fn read_or_empty(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

fn push(bytes: &mut Vec<u8>, frame: &[u8]) {
    // Frames are of kilobytes, the largest of a table of flows in memory.
    bytes.extend((frame.len() as u32).to_le_bytes());
    bytes.extend(checksum(frame).to_le_bytes());
    bytes.extend(frame);
}

fn checksum(frame: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(frame);
    crc.sum()
}

/// How many bytes are whole frames.
fn whole(bytes: &[u8]) -> usize {
    frames(bytes).map(|frame| HEAD + frame.len()).sum()
}

fn frames(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, after) = rest.split_first_chunk::<HEAD>()?;
        let word =
            |from: usize| u32::from_le_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]]);
        let frame = after.get(..word(0) as usize)?;
        if checksum(frame) != word(4) {
            return None;
        }
        rest = &after[frame.len()..];
        Some(frame)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_file_is_good_up_to_the_cut() {
        let path = std::env::temp_dir().join(format!("mailflow-frames-{}", std::process::id()));
        let mut appender = Appender::open(&path).unwrap();
        for frame in ["one", "", "three"] {
            appender.add(frame.as_bytes());
        }
        appender.write().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(appender.bytes(), bytes.len() as u64);
        for length in 0..=bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let found = read(&path).unwrap().len();
            let expected = [11, 19, 32].iter().filter(|end| **end <= length).count();
            assert_eq!(found, expected, "{length}");
            let mut again = Appender::open(&path).unwrap();
            again.add(b"more");
            again.write().unwrap();
            assert_eq!(read(&path).unwrap().len(), expected + 1, "{length}");
            assert_eq!(read(&path).unwrap().last().unwrap(), b"more");
        }
        fs::write(&path, &bytes).unwrap();
        let mut damaged = bytes.clone();
        damaged[12] ^= 1;
        fs::write(&path, damaged).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1, "nothing after the damage is believed");
        replace(&path, [b"new".as_slice()]).unwrap();
        assert_eq!(read(&path).unwrap(), [b"new"]);
        fs::remove_file(path).unwrap();
    }
}
