//! Files of frames: appended to, and read as far as they are whole.
//!
//! A frame is its length and its CRC-32, little endian, and then its bytes. Who is killed while appending
//! leaves a frame that is cut off; what comes before it is good.

use std::{
    fmt,
    fs::File,
    io::{self, Write},
};

use flate2::Crc;
use postcard::ser_flavors::Flavor;
use serde::Serialize;

use crate::recovery::directory::Directory;

/// Bytes before those of a frame.
const HEAD: usize = 8;
/// Bytes that are written together, where there are as many: few enough for a CPU's cache.
const ROOM: usize = 256 << 10;

/// Frames in memory.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    count: usize,
}

impl Frames {
    /// Adds a frame of a value; gives the frame.
    pub(crate) fn add(&mut self, value: &impl Serialize) -> postcard::Result<&[u8]> {
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
    pub(crate) fn push(&mut self, frame: &[u8]) {
        self.bytes.extend(frame);
        self.count += 1;
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Removes what was added since there were so many frames of so many bytes.
    pub(crate) fn truncate(&mut self, count: usize, bytes: usize) {
        self.bytes.truncate(bytes);
        self.count = count;
    }

    /// Removes all; room for so many bytes is kept.
    pub(crate) fn clear(&mut self, room: usize) {
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
pub(crate) struct Appender {
    file: File,
    bytes: u64,
    frames: Frames,
    /// Bytes may follow those that were written: a write failed, and they could not be cut off.
    ragged: bool,
}

impl Appender {
    /// Opens a file, and cuts off what is not whole at its end.
    pub(crate) fn open(directory: &Directory, name: &str) -> io::Result<Self> {
        let whole = whole(&directory.read(name)?.unwrap_or_default());
        let file = directory.append(name)?;
        file.set_len(whole as u64)?;
        Ok(Self { file, bytes: whole as u64, frames: Frames::default(), ragged: false })
    }

    /// Adds a frame of a value to those that the next [`Appender::write`] writes; gives the frame.
    pub(crate) fn add(&mut self, value: &impl Serialize) -> postcard::Result<&[u8]> {
        self.frames.add(value)
    }

    /// Writes what was added, at once. After an error nothing of it is there.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        // What an earlier write left behind would hide all that follows.
        let written = if self.ragged { self.trim() } else { Ok(()) };
        let written = written.and_then(|()| self.file.write_all(self.frames.bytes()));
        let length = self.frames.bytes().len() as u64;
        self.frames.clear(ROOM);
        match written {
            Ok(()) => {
                self.bytes += length;
                Ok(())
            }
            Err(error) => {
                // Where that fails too, the next write begins with it.
                let _ = self.trim();
                Err(error)
            }
        }
    }

    /// Forgets what was added.
    pub(crate) fn drop_added(&mut self) {
        self.frames.clear(ROOM);
    }

    /// Returns true if so much was added that it is better written before more is.
    pub(crate) fn is_full(&self) -> bool {
        self.frames.bytes().len() >= ROOM
    }

    /// Bytes that were added and not written.
    pub(crate) fn added(&self) -> u64 {
        self.frames.bytes().len() as u64
    }

    /// Removes what was written after so many bytes, and what was added since.
    pub(crate) fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.frames.clear(ROOM);
        self.bytes = bytes;
        self.trim()
    }

    /// Cuts the file to what was written whole.
    fn trim(&mut self) -> io::Result<()> {
        self.ragged = true;
        self.file.set_len(self.bytes)?;
        self.ragged = false;
        Ok(())
    }

    /// Bytes written.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The frames of a file, and the damage that ends them before its end.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The frames that are whole.
    pub(crate) frames: Vec<Vec<u8>>,
    /// The damage, if there is any.
    pub(crate) damage: Option<Damage>,
}

/// Damage to a file: nothing after it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Its place in the file.
    pub(crate) at: usize,
    /// Bytes from there to the end.
    pub(crate) left: usize,
    /// Its kind.
    pub(crate) kind: DamageKind,
}

/// A kind of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DamageKind {
    /// The file ends within a frame: a process was killed while it wrote, or a length is wrong.
    CutOff,
    /// The bytes of a frame do not match its checksum.
    Checksum,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, left, kind } = self;
        let kind = match kind {
            DamageKind::CutOff => "it is cut off in the entry at",
            DamageKind::Checksum => "the checksum is wrong of the entry at",
        };
        write!(f, "{kind} byte {at} of {}", at + left)
    }
}

/// The frames of a file; none where there is no file.
pub(crate) fn read(directory: &Directory, name: &str) -> io::Result<Found> {
    Ok(found(&directory.read(name)?.unwrap_or_default()))
}

/// The frames in the bytes of a file.
pub(crate) fn found(bytes: &[u8]) -> Found {
    let whole_frames: Vec<Vec<u8>> = frames(bytes).map(<[u8]>::to_vec).collect();
    let at = whole(bytes);
    let left = bytes.len() - at;
    let damage = (left > 0).then(|| Damage { at, left, kind: kind(&bytes[at..]) });
    Found { frames: whole_frames, damage }
}

/// The kind of damage that bytes begin with.
fn kind(bytes: &[u8]) -> DamageKind {
    match split(bytes) {
        Some(_) => DamageKind::Checksum,
        None => DamageKind::CutOff,
    }
}

/// Writes frames to a new file beside `name`, which [`Directory::rename`] puts in its place. Returns its name.
pub(crate) fn stage<'a>(
    directory: &Directory,
    name: &str,
    frames: impl IntoIterator<Item = &'a Frames>,
) -> io::Result<String> {
    let new = format!("{name}.new");
    let mut file = directory.create(&new)?;
    let written = frames.into_iter().try_for_each(|frames| file.write_all(frames.bytes()));
    // A part of it would only take room.
    written.inspect_err(|_| _ = directory.remove(&new))?;
    Ok(new)
}

/// Replaces a file by one of these frames, so that whoever reads it sees the old one or the new one.
pub(crate) fn replace<'a>(
    directory: &Directory,
    name: &str,
    frames: impl IntoIterator<Item = &'a Frames>,
) -> io::Result<()> {
    let new = stage(directory, name, frames)?;
    directory.rename(&new, name)
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

/// The checksum and the bytes of the first frame, and what follows it; `None` where it is cut off.
fn split(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (head, after) = bytes.split_first_chunk::<HEAD>()?;
    let word = |from: usize| u32::from_le_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]]);
    let (frame, rest) = after.split_at_checked(word(0) as usize)?;
    Some((word(4), frame, rest))
}

fn frames(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (sum, frame, after) = split(rest)?;
        if checksum(frame) != sum {
            return None;
        }
        rest = after;
        Some(frame)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

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

    /// A directory of its own, which goes with the value.
    struct Temporary(Directory);

    impl Temporary {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("mailflow-frames-{name}-{}", std::process::id()));
            Self(Directory::open(&path).unwrap())
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            fs::remove_dir_all(self.0.path()).unwrap();
        }
    }

    fn read(directory: &Directory, name: &str) -> io::Result<Vec<Vec<u8>>> {
        super::read(directory, name).map(|found| found.frames)
    }

    #[test]
    fn a_cut_file_is_good_up_to_the_cut() {
        let temporary = Temporary::new("cut");
        let (directory, path) = (&temporary.0, temporary.0.path().join("file"));
        let mut appender = Appender::open(directory, "file").unwrap();
        for frame in [Raw(b"one"), Raw(b""), Raw(b"three")] {
            appender.add(&frame).unwrap();
        }
        appender.write().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(appender.bytes(), bytes.len() as u64);
        for length in 0..=bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let found = read(directory, "file").unwrap().len();
            let expected = [11, 19, 32].iter().filter(|end| **end <= length).count();
            assert_eq!(found, expected, "{length}");
            let mut again = Appender::open(directory, "file").unwrap();
            again.add(&Raw(b"more")).unwrap();
            again.write().unwrap();
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
        for (change, told) in [
            (
                &(|bytes: &mut Vec<u8>| bytes[15] ^= 1) as &dyn Fn(&mut Vec<u8>),
                "the checksum is wrong of the entry at byte 11 of 32",
            ),
            (&|bytes| bytes[20] ^= 1, "it is cut off in the entry at byte 19 of 32"),
            (&|bytes| bytes.truncate(31), "it is cut off in the entry at byte 19 of 31"),
            (&|bytes| bytes[31] ^= 128, "the checksum is wrong of the entry at byte 19 of 32"),
        ] {
            assert_eq!(damage(change).as_deref(), Some(told));
        }
        let mut new = Frames::default();
        new.add(&Raw(b"new")).unwrap();
        replace(directory, "file", [&new]).unwrap();
        assert_eq!(read(directory, "file").unwrap(), [b"new"]);
    }

    #[test]
    fn what_is_cut_off_is_gone_and_what_follows_is_whole() {
        let temporary = Temporary::new("gone");
        let directory = &temporary.0;
        let mut appender = Appender::open(directory, "file").unwrap();
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
        assert_eq!(
            read(directory, "file").unwrap(),
            ["one", "two", "six"].map(|frame| frame.as_bytes().to_vec())
        );
    }
}
