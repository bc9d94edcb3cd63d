//! Reads configuration files and network lists as UTF-8 text.

use std::{
    fs::{File, FileType, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use super::diagnostics::{Diagnostic, Diagnostics, Position, SourceLocation};

/// Maximum size of a configuration file (64 MiB).
const MAX_BYTES: u64 = 64 << 20;
/// Maximum size of a network list (256 MiB). NetBox's JSON has about 1 kB a prefix.
const MAX_LIST_BYTES: u64 = 256 << 20;

/// Error of a file that is not readable text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TextError {
    /// Position in the file; `None` for the whole file.
    pub(crate) position: Option<Position>,
    /// Description of the error.
    pub(crate) message: String,
}

impl TextError {
    /// Converts the error into a diagnostic of the file `name`.
    pub(crate) fn into_diagnostic(self, name: Arc<str>) -> Diagnostic {
        let location = SourceLocation { file: name, position: self.position };
        Diagnostic { location, path: String::new(), value: None, expected: self.message }
    }

    /// Converts the error into the only diagnostic of the configuration `name`.
    pub(crate) fn into_diagnostics(self, name: &str) -> Diagnostics {
        self.into_diagnostic(name.into()).into()
    }
}

/// Reads a text file. A pipe is accepted too, such as a shell's `<(...)`.
pub(crate) fn read(path: &Path) -> Result<String, TextError> {
    text(read_at_most(File::open(path).map_err(read_error)?, MAX_BYTES)?)
}

/// Reads a network list. It must be a regular file, as it is read again after each change and must not block.
pub(crate) fn read_list(path: &Path) -> Result<String, TextError> {
    // Opening a FIFO would block. Regular files ignore the flag.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = match file {
        // Opening a socket fails with ENXIO.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            return Err(whole_file(not_regular("a socket")));
        }
        file => file.map_err(read_error)?,
    };
    let kind = file.metadata().map_err(read_error)?.file_type();
    if !kind.is_file() {
        return Err(whole_file(not_regular(name(kind))));
    }
    text(read_at_most(file, MAX_LIST_BYTES)?)
}

fn not_regular(kind: &str) -> String {
    format!("{kind}; expected a regular file")
}

fn name(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "a file of another type"
    }
}

fn whole_file(message: String) -> TextError {
    TextError { position: None, message }
}

fn read_error(error: io::Error) -> TextError {
    whole_file(format!("cannot be read: {error}"))
}

fn read_at_most(file: File, max_bytes: u64) -> Result<Vec<u8>, TextError> {
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(read_error)?;
    if bytes.len() as u64 > max_bytes {
        return Err(whole_file(format!("larger than {} MiB", max_bytes >> 20)));
    }
    Ok(bytes)
}

fn text(bytes: Vec<u8>) -> Result<String, TextError> {
    // Byte order mark of UTF-16 (Unicode 23.8).
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(TextError {
            position: Some(Position::START),
            message: "the file is UTF-16; expected UTF-8".to_owned(),
        });
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let (good, bad) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        TextError {
            position: Some(Position::after(&String::from_utf8_lossy(good))),
            message: format!("byte 0x{:02x} is not UTF-8", bad.first().copied().unwrap_or_default()),
        }
    })?;
    check(&text)?;
    Ok(text)
}

/// Checks that a text has no NUL byte.
pub(crate) fn check(text: &str) -> Result<(), TextError> {
    match text.find('\0') {
        Some(at) => Err(TextError {
            position: Some(Position::after(text.get(..at).unwrap_or_default())),
            message: "NUL byte; expected UTF-8 text".to_owned(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_utf8_has_a_position() {
        let diagnostic = text(b"a: 1\n\xc3\xb6\xff".to_vec()).unwrap_err();
        assert_eq!(diagnostic.position, Some(Position { line: 2, column: 2 }));
        assert_eq!(diagnostic.message, "byte 0xff is not UTF-8");
        let diagnostic = text(b"a\0".to_vec()).unwrap_err();
        assert_eq!(diagnostic.position, Some(Position { line: 1, column: 2 }));
    }

    #[test]
    fn unreadable_file_has_no_position() {
        let missing = read(Path::new("/nonexistent/mailflow.yaml")).unwrap_err();
        assert_eq!(missing.position, None);
        assert!(missing.message.contains("No such file"), "{}", missing.message);
        assert!(read(Path::new("/")).is_err());
        assert!(read(Path::new("/dev/zero")).unwrap_err().message.contains("larger"));
    }
}
