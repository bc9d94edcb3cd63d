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
use postcard::ser_flavors::Flavor;
use serde::Serialize;

/// Bytes before those of a frame.
const HEAD: usize = 8;
/// Bytes that are written together, where there are as many: few enough for a CPU's cache.
const ROOM: usize = 256 << 10;
/// Only the agent's user may read it: it holds addresses.
const MODE: u32 = 0o600;

/// Frames in memory.
#[derive(Debug, Default)]
pub(super) struct Frames {
    bytes: Vec<u8>,
    count: usize,
}

impl Frames {
    /// Adds a frame of a value; gives the frame.
    pub(super) fn add(&mut self, value: &impl Serialize) -> postcard::Result<&[u8]> {
        let start = self.bytes.len();
        self.bytes.extend([0; HEAD]);
        if let Err(error) = postcard::serialize_with_flavor(value, Behind(&mut self.bytes)) {
            self.bytes.truncate(start);
            return Err(error);
        }
        self.count += 1;
        let (head, frame) = self.bytes[start..].split_at_mut(HEAD);
        // Frames are of kilobytes, the largest of a table of flows in memory.
        head[..4].copy_from_slice(&(frame.len() as u32).to_le_bytes());
        head[4..].copy_from_slice(&checksum(frame).to_le_bytes());
        Ok(&self.bytes[start..])
    }

    /// Adds a frame that [`Frames::add`] gave.
    pub(super) fn push(&mut self, frame: &[u8]) {
        self.bytes.extend(frame);
        self.count += 1;
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Removes all; room for so many bytes is kept.
    pub(super) fn clear(&mut self, room: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(room);
        self.count = 0;
    }
}

/// Writes behind what is there.
struct Behind<'a>(&'a mut Vec<u8>);

impl Flavor for Behind<'_> {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// A file that is appended to.
#[derive(Debug)]
pub(super) struct Appender {
    file: File,
    bytes: u64,
    frames: Frames,
}

impl Appender {
    /// Opens a file, and cuts off what is not whole at its end.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let whole = whole(&read_or_empty(path)?);
        let file = OpenOptions::new().create(true).append(true).mode(MODE).open(path)?;
        file.set_len(whole as u64)?;
        Ok(Self { file, bytes: whole as u64, frames: Frames::default() })
    }

    /// Adds a frame of a value to those that the next [`Appender::write`] writes; gives the frame.
    pub(super) fn add(&mut self, value: &impl Serialize) -> postcard::Result<&[u8]> {
        self.frames.add(value)
    }

    /// Writes what was added, at once. After an error nothing of it is there.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let result = self.file.write_all(self.frames.bytes());
        let length = self.frames.bytes().len() as u64;
        self.frames.clear(ROOM);
        match result {
            Ok(()) => {
                self.bytes += length;
                Ok(())
            }
            Err(error) => {
                self.cut(self.bytes)?;
                Err(error)
            }
        }
    }

    /// Whether so much was added that it is better written before more is.
    pub(super) fn is_full(&self) -> bool {
        self.frames.bytes().len() >= ROOM
    }

    /// Removes what was written after so many bytes, and what was added since.
    pub(super) fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.frames.clear(ROOM);
        self.file.set_len(bytes)?;
        self.bytes = bytes;
        Ok(())
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
pub(super) fn replace<'a>(path: &Path, frames: impl IntoIterator<Item = &'a Frames>) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(MODE).open(&new)?;
    frames.into_iter().try_for_each(|frames| file.write_all(frames.bytes()))?;
    fs::rename(&new, path)
}

fn read_or_empty(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
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

    /// Bytes as they are.
    struct Raw(&'static [u8]);

    impl Serialize for Raw {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeTuple;
            let mut tuple = serializer.serialize_tuple(self.0.len())?;
            self.0.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
            tuple.end()
        }
    }

    #[test]
    fn a_cut_file_is_good_up_to_the_cut() {
        let path = std::env::temp_dir().join(format!("mailflow-frames-{}", std::process::id()));
        let mut appender = Appender::open(&path).unwrap();
        for frame in [Raw(b"one"), Raw(b""), Raw(b"three")] {
            appender.add(&frame).unwrap();
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
            again.add(&Raw(b"more")).unwrap();
            again.write().unwrap();
            assert_eq!(read(&path).unwrap().len(), expected + 1, "{length}");
            assert_eq!(read(&path).unwrap().last().unwrap(), b"more");
        }
        fs::write(&path, &bytes).unwrap();
        let mut damaged = bytes.clone();
        damaged[12] ^= 1;
        fs::write(&path, damaged).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1, "nothing after the damage is believed");
        let mut new = Frames::default();
        new.add(&Raw(b"new")).unwrap();
        replace(&path, [&new]).unwrap();
        assert_eq!(read(&path).unwrap(), [b"new"]);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_cut_off_is_gone_and_what_follows_is_whole() {
        let path = std::env::temp_dir().join(format!("mailflow-cut-{}", std::process::id()));
        let mut appender = Appender::open(&path).unwrap();
        appender.add(&Raw(b"one")).unwrap();
        appender.add(&Raw(b"two")).unwrap();
        appender.write().unwrap();
        let before = appender.bytes();
        appender.add(&Raw(b"three")).unwrap();
        appender.write().unwrap();
        assert!(appender.bytes() > before);
        appender.add(&Raw(b"five")).unwrap();
        appender.cut(before).unwrap();
        appender.add(&Raw(b"six")).unwrap();
        appender.write().unwrap();
        assert_eq!(read(&path).unwrap(), ["one", "two", "six"].map(|frame| frame.as_bytes().to_vec()));
        fs::remove_file(path).unwrap();
    }
}
