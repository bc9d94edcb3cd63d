//! An open flow log: recognises its format, and reads it line by line.

use super::{
    Entry, Line, Reading, Skipped, eve,
    fault::{Fault, LogError},
    wrapped::{self, Kind},
    zeek::{columns::Columns, conn, names::Renamed},
};
use crate::util::gzip_reader::MaybeGzip;
use std::{
    io::{self, BufRead, BufReader, Cursor, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// How much of a log is looked at to recognise it.
pub(crate) const HEAD: u64 = 64 * 1024;

/// U+FEFF in UTF-8.
pub(crate) const MARK: &[u8] = "\u{feff}".as_bytes();

/// The longest line that is read.
pub(crate) const LONGEST: u64 = 1 << 20;

/// The largest count that a flow may have: 281 TB.
pub(crate) const LARGEST: u64 = 1 << 48;

/// A log's format.
#[derive(Clone, Debug)]
pub(crate) enum Format {
    Eve,
    ZeekJson,
    ZeekColumns(Box<Columns>),
    /// Lines of either within lines of other tools.
    Wrapped,
    /// There is not one line.
    Empty,
}

impl Format {
    /// Reads a line with its end. Returns `None` for one without contents.
    pub(crate) fn read(&mut self, whole: &[u8], reading: &Reading<'_>) -> Result<Option<Line>, Bad> {
        let line = whole.trim_ascii_end();
        // Logs that were put together may each begin with the mark.
        let line = line.strip_prefix(MARK).unwrap_or(line);
        if line.is_empty() {
            return Ok(None);
        }
        let found = match self {
            _ if whole.len() as u64 >= LONGEST => Err(Fault::new(1, "", "longer than 1 MiB")),
            Format::Eve => eve::read::read(line, reading),
            Format::ZeekJson => conn::read(line, reading),
            Format::Wrapped => wrapped(line, reading),
            Format::ZeekColumns(columns) => match text(whole) {
                Ok(text) if text.starts_with('#') => {
                    return columns.header(text, reading.columns).map(|()| None).map_err(Bad::Header);
                }
                Ok(text) => columns.read(text, reading),
                Err(fault) => Err(fault),
            },
            Format::Empty => return Ok(None),
        };
        found.and_then(possible).map(Some).map_err(Bad::Line)
    }

    /// Passes over lines that another reads: their header, if they have one, says how those after them are read. Of a
    /// header that is of another format, and of what follows it, `lines` keeps nothing.
    pub(crate) fn pass(&mut self, lines: &mut Vec<u8>, reading: &Reading<'_>) -> Result<(), String> {
        if !matches!(self, Format::ZeekColumns(_)) {
            return Ok(());
        }
        let mut from = 0;
        for sign in memchr::memchr_iter(b'#', lines) {
            let (Some(before), Some(after)) = (lines.get(..sign), lines.get(sign..)) else { continue };
            let begin = before.strip_suffix(MARK).unwrap_or(before).len();
            if before.get(..begin).and_then(<[u8]>::last).is_some_and(|last| *last != b'\n') {
                continue;
            }
            let end = sign + memchr::memchr(b'\n', after).map_or(after.len(), |end| end + 1);
            self.pass_values(lines.get(from..begin).unwrap_or_default());
            from = end;
            if let Err(Bad::Header(found)) = self.read(lines.get(begin..end).unwrap_or_default(), reading) {
                lines.truncate(begin);
                return Err(found);
            }
        }
        self.pass_values(lines.get(from..).unwrap_or_default());
        Ok(())
    }

    /// Passes over lines of which none is one of a header.
    fn pass_values(&mut self, lines: &[u8]) {
        let Format::ZeekColumns(columns) = self else { return };
        let is_read = |line: &[u8]| {
            let contents = line.trim_ascii_end();
            let contents = contents.strip_prefix(MARK).unwrap_or(contents);
            (line.len() as u64) < LONGEST && !contents.is_empty() && text(line).is_ok()
        };
        if !columns.has_begun() && lines.split_inclusive(|byte| *byte == b'\n').any(is_read) {
            columns.begin();
        }
    }

    /// The format of a log that begins with `head`; otherwise what it begins with.
    fn of(head: &[u8], renamed: &[Renamed]) -> Result<Self, String> {
        if let Some((_, name)) = PACKED.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(format!("compressed with {name}, which is not read: unpack it, or use gzip"));
        }
        if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
            return Err("the file is UTF-16; expected UTF-8".to_owned());
        }
        let mut first = None;
        for line in head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
            match line {
                [] => continue,
                [b'{', ..] => match Self::of_json(line, renamed) {
                    Some(format) => return Ok(format),
                    None => first = first.or(Some(line)),
                },
                [b'#', ..] if line.starts_with(b"#separator") || line.starts_with(b"#fields") => {
                    return Ok(Self::ZeekColumns(Box::default()));
                }
                _ => first = first.or(Some(line)),
            }
        }
        match first {
            None => Ok(Self::Empty),
            Some(line) => {
                let shown: String = String::from_utf8_lossy(line).chars().take(40).collect();
                Err(format!("no flow log; it begins with {shown:?}"))
            }
        }
    }

    fn of_json(line: &[u8], renamed: &[Renamed]) -> Option<Self> {
        let has = |key: &str| memchr::memmem::find(line, key.as_bytes()).is_some();
        match Kind::of(line, renamed) {
            Some(Kind::Eve) => return Some(Self::Eve),
            Some(Kind::Zeek) => return Some(Self::ZeekJson),
            None => {}
        }
        match wrapped::inner(line, renamed) {
            Ok(Some(_)) => Some(Self::Wrapped),
            Ok(None) => None,
            // A damaged line, or one that is longer than what is looked at.
            Err(_) if has("\"event_type\"") => Some(Self::Eve),
            Err(_) if has("\"id.orig_h\"") => Some(Self::ZeekJson),
            Err(_) => None,
        }
    }
}

/// A line within one of another tool.
pub(crate) fn wrapped(line: &[u8], reading: &Reading<'_>) -> Result<Line, Fault> {
    let Some(inner) = wrapped::inner(line, reading.columns)? else {
        return Ok(Line::Skipped(Skipped::OtherEvent));
    };
    let read = match inner.kind {
        Kind::Eve => eve::read::read(&inner.line, reading),
        Kind::Zeek => conn::read(&inner.line, reading),
    };
    read.map_err(|fault| inner.outer(fault))
}

/// A line whose counts can be added up.
pub(crate) fn possible(line: Line) -> Result<Line, Fault> {
    let Line::Entry(Entry { record, .. }) = &line else { return Ok(line) };
    for way in [&record.flow.up, &record.flow.down] {
        for count in [way.packets, way.bytes, way.payload, way.data_packets, way.data_bytes] {
            if count > LARGEST {
                return Err(Fault::new(1, "", format!("{count}: a count of at most 2^48 was expected")));
            }
        }
    }
    Ok(line)
}

/// Damage that was found before its turn.
pub(crate) struct Broken(Option<io::Error>);

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

/// A line of columns, whose last ones may be blank.
pub(crate) fn text(line: &[u8]) -> Result<&str, Fault> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = line.strip_prefix(MARK).unwrap_or(line);
    std::str::from_utf8(line).map_err(|error| Fault::new(error.valid_up_to() + 1, "", "not UTF-8"))
}

/// Why a line gives neither a record nor a reason to skip it.
pub(crate) enum Bad {
    /// It cannot be read; the next one may be.
    Line(Fault),
    /// It says that what follows has a form that is not known here.
    Header(String),
}

/// First bytes of files that other programs packed.
pub(crate) const PACKED: [(&[u8], &str); 5] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (b"BZh", "bzip2"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
    (b"PK\x03\x04", "zip"),
];

/// An open flow log.
pub struct Log<'a> {
    pub(crate) path: PathBuf,
    pub(crate) reading: Reading<'a>,
    position: Arc<AtomicU64>,
    pub(crate) contents: Box<dyn BufRead + Send>,
    pub(crate) format: Format,
    line: Vec<u8>,
    pub(crate) number: u64,
    ended: bool,
}

impl<'a> Log<'a> {
    /// Opens a log and recognises it by what is in it.
    ///
    /// # Errors
    /// It cannot be read, or is of no format known here.
    pub fn open(path: &Path, reading: Reading<'a>) -> Result<Self, LogError> {
        let contents =
            MaybeGzip::open(path).map_err(|source| LogError::File { path: path.to_owned(), source })?;
        Self::from_contents(path, contents, reading)
    }

    /// Reads a log from its contents and recognises it by them; `path` names it in errors.
    ///
    /// # Errors
    /// It cannot be read, or is of no format known here.
    pub fn from_contents(path: &Path, mut file: MaybeGzip, reading: Reading<'a>) -> Result<Self, LogError> {
        let failed = |source| LogError::File { path: path.to_owned(), source };
        let position = file.position();
        let mut head = Vec::new();
        // Damage this early leaves what stands before it.
        let damage = match file.by_ref().take(HEAD).read_to_end(&mut head) {
            Err(error) if head.is_empty() => return Err(failed(error)),
            read => read.err(),
        };
        // Some editors and systems begin a text with a mark of its encoding.
        if head.starts_with(MARK) {
            head.drain(..MARK.len());
        }
        let format = Format::of(&head, reading.columns)
            .map_err(|found| LogError::Format { path: path.to_owned(), found })?;
        let contents = Box::new(BufReader::with_capacity(
            HEAD as usize,
            Cursor::new(head).chain(Broken(damage)).chain(file),
        ));
        let (line, number, ended) = (Vec::new(), 0, false);
        Ok(Self { path: path.to_owned(), reading, position, contents, format, line, number, ended })
    }

    /// Bytes of the file that were read, as it is on the disk.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// What comes of the next line; `None` at the end.
    ///
    /// # Errors
    /// The line cannot be read, and the next one may be; after [`LogError::File`] and
    /// [`LogError::Format`] there is none.
    pub fn next_line(&mut self) -> Result<Option<Line>, LogError> {
        while !self.ended {
            match self.fill() {
                Ok(true) => {}
                Ok(false) => break,
                Err(source) => {
                    self.ended = true;
                    return Err(LogError::File { path: self.path.clone(), source });
                }
            }
            match self.format.read(&self.line, &self.reading) {
                Ok(None) => {}
                Ok(Some(line)) => return Ok(Some(line)),
                Err(Bad::Line(fault)) => {
                    return Err(LogError::Line { path: self.path.clone(), line: self.number, fault });
                }
                Err(Bad::Header(found)) => {
                    self.ended = true;
                    return Err(LogError::Format { path: self.path.clone(), found });
                }
            }
        }
        Ok(None)
    }

    /// Reads a line; what is too long is passed over. False at the end.
    fn fill(&mut self) -> io::Result<bool> {
        self.line.clear();
        self.number += 1;
        let read = (&mut self.contents).take(LONGEST).read_until(b'\n', &mut self.line)?;
        if read as u64 == LONGEST && self.line.last() != Some(&b'\n') {
            self.contents.skip_until(b'\n')?;
        }
        Ok(read > 0)
    }
}
