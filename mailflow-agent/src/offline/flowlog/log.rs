//! Open flow log: detects the format, and reads lines.

use super::{
    LineOutcome, LogRecord, ReadContext, SkipReason,
    envelope::{self, LineFormat},
    error::{LineError, LogError},
    eve,
    zeek::{columns::ZeekColumns, conn, names::RenamedColumn},
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

/// Number of bytes in which the format is detected.
pub(crate) const PROBE_BYTES: u64 = 64 * 1024;

/// U+FEFF in UTF-8.
pub(crate) const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Length of a line from which on it is not read.
pub(crate) const MAX_LINE_BYTES: u64 = 1 << 20;

/// Largest count of a flow: 281 TB.
pub(crate) const MAX_COUNT: u64 = 1 << 48;

/// Format of a log.
#[derive(Clone, Debug)]
pub(crate) enum LogFormat {
    Eve,
    ZeekJson,
    ZeekColumns(Box<ZeekColumns>),
    /// Lines of EVE or Zeek in envelopes of other tools.
    Enveloped,
    /// A log without lines.
    Empty,
}

impl LogFormat {
    /// Reads a line, which includes its line end. Returns `None` for a blank line or a header.
    pub(crate) fn read(
        &mut self,
        raw_line: &[u8],
        context: &ReadContext<'_>,
    ) -> Result<Option<LineOutcome>, LineFailure> {
        let line = raw_line.trim_ascii_end();
        // A concatenated log may have the mark at the start of each part.
        let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        if line.is_empty() {
            return Ok(None);
        }
        let found = match self {
            _ if raw_line.len() as u64 >= MAX_LINE_BYTES => Err(LineError::new(1, "", "longer than 1 MiB")),
            LogFormat::Eve => eve::read::read(line, context),
            LogFormat::ZeekJson => conn::read(line, context),
            LogFormat::Enveloped => read_enveloped(line, context),
            LogFormat::ZeekColumns(columns) => match column_text(raw_line) {
                Ok(text) if text.starts_with('#') => {
                    return columns.header(text, context.columns).map(|()| None).map_err(LineFailure::Header);
                }
                Ok(text) => columns.read(text, context),
                Err(error) => Err(error),
            },
            LogFormat::Empty => return Ok(None),
        };
        found.and_then(check_counts).map(Some).map_err(LineFailure::Line)
    }

    /// Processes the headers among lines that another thread reads: a header applies to all lines after it.
    /// Truncates `lines` before a header of another format.
    pub(crate) fn skip_lines(
        &mut self,
        lines: &mut Vec<u8>,
        context: &ReadContext<'_>,
    ) -> Result<(), String> {
        if !matches!(self, LogFormat::ZeekColumns(_)) {
            return Ok(());
        }
        let mut from = 0;
        for hash_sign in memchr::memchr_iter(b'#', lines) {
            let (Some(before), Some(after)) = (lines.get(..hash_sign), lines.get(hash_sign..)) else {
                continue;
            };
            let start = before.strip_suffix(BYTE_ORDER_MARK).unwrap_or(before).len();
            if before.get(..start).and_then(<[u8]>::last).is_some_and(|last| *last != b'\n') {
                continue;
            }
            let end = hash_sign + memchr::memchr(b'\n', after).map_or(after.len(), |end| end + 1);
            self.skip_values(lines.get(from..start).unwrap_or_default());
            from = end;
            if let Err(LineFailure::Header(found)) =
                self.read(lines.get(start..end).unwrap_or_default(), context)
            {
                lines.truncate(start);
                return Err(found);
            }
        }
        self.skip_values(lines.get(from..).unwrap_or_default());
        Ok(())
    }

    /// Notes lines that are values, without a header among them.
    fn skip_values(&mut self, lines: &[u8]) {
        let LogFormat::ZeekColumns(columns) = self else { return };
        let is_read = |line: &[u8]| {
            let contents = line.trim_ascii_end();
            let contents = contents.strip_prefix(BYTE_ORDER_MARK).unwrap_or(contents);
            (line.len() as u64) < MAX_LINE_BYTES && !contents.is_empty() && column_text(line).is_ok()
        };
        if !columns.has_connections() && lines.split_inclusive(|byte| *byte == b'\n').any(is_read) {
            columns.note_values();
        }
    }

    /// Detects the format of a log that begins with `head`. Otherwise returns a description of the contents.
    fn detect(head: &[u8], renamed: &[RenamedColumn]) -> Result<Self, String> {
        if let Some((_, name)) = UNSUPPORTED_COMPRESSIONS.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(format!(
                "compressed with {name}, which is not supported: decompress it, or use gzip"
            ));
        }
        if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
            return Err("the file is UTF-16; expected UTF-8".to_owned());
        }
        let mut first = None;
        for line in head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
            match line {
                [] => continue,
                [b'{', ..] => match Self::detect_json(line, renamed) {
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
                let excerpt: String = String::from_utf8_lossy(line).chars().take(40).collect();
                Err(format!("no flow log; it begins with {excerpt:?}"))
            }
        }
    }

    fn detect_json(line: &[u8], renamed: &[RenamedColumn]) -> Option<Self> {
        let has = |key: &str| memchr::memmem::find(line, key.as_bytes()).is_some();
        match LineFormat::of(line, renamed) {
            Some(LineFormat::Eve) => return Some(Self::Eve),
            Some(LineFormat::Zeek) => return Some(Self::ZeekJson),
            None => {}
        }
        match envelope::inner(line, renamed) {
            Ok(Some(_)) => Some(Self::Enveloped),
            Ok(None) => None,
            // The line is damaged, or cut at the end of the probed bytes.
            Err(_) if has("\"event_type\"") => Some(Self::Eve),
            Err(_) if has("\"id.orig_h\"") => Some(Self::ZeekJson),
            Err(_) => None,
        }
    }
}

/// Reads the line in an envelope.
pub(crate) fn read_enveloped(line: &[u8], context: &ReadContext<'_>) -> Result<LineOutcome, LineError> {
    let Some(inner) = envelope::inner(line, context.columns)? else {
        return Ok(LineOutcome::Skipped(SkipReason::OtherEvent));
    };
    let read = match inner.kind {
        LineFormat::Eve => eve::read::read(&inner.line, context),
        LineFormat::Zeek => conn::read(&inner.line, context),
    };
    read.map_err(|error| inner.to_outer_error(error))
}

/// Returns an error if a count of the record is too large to be summed.
pub(crate) fn check_counts(line: LineOutcome) -> Result<LineOutcome, LineError> {
    let LineOutcome::Record(LogRecord { record, .. }) = &line else { return Ok(line) };
    for direction in [&record.flow.up, &record.flow.down] {
        for count in [
            direction.packets,
            direction.bytes,
            direction.payload,
            direction.data_packets,
            direction.data_bytes,
        ] {
            if count > MAX_COUNT {
                return Err(LineError::new(1, "", format!("{count}: a count of at most 2^48 was expected")));
            }
        }
    }
    Ok(line)
}

/// Error of a file that is reported after the bytes before it are read.
pub(crate) struct DeferredError(Option<io::Error>);

impl Read for DeferredError {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

/// Returns a line of columns as text. Keeps trailing blanks, as the last columns may be blank.
pub(crate) fn column_text(line: &[u8]) -> Result<&str, LineError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
    std::str::from_utf8(line).map_err(|error| LineError::new(error.valid_up_to() + 1, "", "not UTF-8"))
}

/// Reason why a line gives neither a record nor a reason to skip it.
pub(crate) enum LineFailure {
    /// The line cannot be read. The next one may be valid.
    Line(LineError),
    /// The line is a header of a format that is not supported.
    Header(String),
}

/// First bytes of compressed files that are not supported.
pub(crate) const UNSUPPORTED_COMPRESSIONS: [(&[u8], &str); 5] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (b"BZh", "bzip2"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
    (b"PK\x03\x04", "zip"),
];

/// Open flow log.
pub struct FlowLog<'a> {
    pub(crate) path: PathBuf,
    pub(crate) context: ReadContext<'a>,
    position: Arc<AtomicU64>,
    pub(crate) contents: Box<dyn BufRead + Send>,
    pub(crate) format: LogFormat,
    line: Vec<u8>,
    pub(crate) number: u64,
    ended: bool,
}

impl<'a> FlowLog<'a> {
    /// Opens a log, and detects its format.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or its format is not supported.
    pub fn open(path: &Path, context: ReadContext<'a>) -> Result<Self, LogError> {
        let contents =
            MaybeGzip::open(path).map_err(|source| LogError::File { path: path.to_owned(), source })?;
        Self::from_contents(path, contents, context)
    }

    /// Opens a log that is already open as a file, and detects its format; `path` names it in errors.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or its format is not supported.
    pub fn from_contents(
        path: &Path,
        mut file: MaybeGzip,
        context: ReadContext<'a>,
    ) -> Result<Self, LogError> {
        let failed = |source| LogError::File { path: path.to_owned(), source };
        let position = file.position();
        let mut head = Vec::new();
        // Bytes before the damage are still read.
        let damage = match file.by_ref().take(PROBE_BYTES).read_to_end(&mut head) {
            Err(error) if head.is_empty() => return Err(failed(error)),
            read => read.err(),
        };
        // Some editors and systems begin a text with a byte order mark.
        if head.starts_with(BYTE_ORDER_MARK) {
            head.drain(..BYTE_ORDER_MARK.len());
        }
        let format = LogFormat::detect(&head, context.columns)
            .map_err(|found| LogError::Format { path: path.to_owned(), found })?;
        let contents = Box::new(BufReader::with_capacity(
            PROBE_BYTES as usize,
            Cursor::new(head).chain(DeferredError(damage)).chain(file),
        ));
        let (line, number, ended) = (Vec::new(), 0, false);
        Ok(Self { path: path.to_owned(), context, position, contents, format, line, number, ended })
    }

    /// Returns the number of bytes of the file that were read, before decompression.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// Reads the next line; `None` at the end.
    ///
    /// # Errors
    /// Fails if the line cannot be read. The next one may be valid, except after [`LogError::File`] and
    /// [`LogError::Format`], which end the log.
    pub fn next_line(&mut self) -> Result<Option<LineOutcome>, LogError> {
        while !self.ended {
            match self.fill() {
                Ok(true) => {}
                Ok(false) => break,
                Err(source) => {
                    self.ended = true;
                    return Err(LogError::File { path: self.path.clone(), source });
                }
            }
            match self.format.read(&self.line, &self.context) {
                Ok(None) => {}
                Ok(Some(line)) => return Ok(Some(line)),
                Err(LineFailure::Line(error)) => {
                    return Err(LogError::Line { path: self.path.clone(), line: self.number, error });
                }
                Err(LineFailure::Header(found)) => {
                    self.ended = true;
                    return Err(LogError::Format { path: self.path.clone(), found });
                }
            }
        }
        Ok(None)
    }

    /// Reads a line into the buffer, and skips the rest of one that is too long. Returns false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        self.line.clear();
        self.number += 1;
        let read = (&mut self.contents).take(MAX_LINE_BYTES).read_until(b'\n', &mut self.line)?;
        if read as u64 == MAX_LINE_BYTES && self.line.last() != Some(&b'\n') {
            self.contents.skip_until(b'\n')?;
        }
        Ok(read > 0)
    }
}
