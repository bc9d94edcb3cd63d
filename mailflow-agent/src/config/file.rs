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
    pub(crate) why: String,
}

impl TextError {
    /// Converts the error into a diagnostic of the file `name`.
    pub(crate) fn into_diagnostic(self, name: Arc<str>) -> Diagnostic {
        let location = SourceLocation { file: name, position: self.position };
        Diagnostic { location, path: String::new(), value: None, expected: self.why }
    }

    /// Converts the error into the only diagnostic of the configuration `name`.
    pub(crate) fn into_diagnostics(self, name: &str) -> Diagnostics {
        self.into_diagnostic(name.into()).into()
    }
}

/// Reads a text file. A pipe is accepted too, such as a shell's `<(...)`.
pub(crate) fn read(path: &Path) -> Result<String, TextError> {
    text(read_at_most(File::open(path).map_err(cannot)?, MAX_BYTES)?)
}

/// Reads a network list. It must be a regular file, as it is read again after each change and must not block.
pub(crate) fn read_list(path: &Path) -> Result<String, TextError> {
    // Opening a FIFO would block. Regular files ignore the flag.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = match file {
        // Opening a socket fails with ENXIO.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Err(whole(irregular("a socket"))),
        file => file.map_err(cannot)?,
    };
    let kind = file.metadata().map_err(cannot)?.file_type();
    if !kind.is_file() {
        return Err(whole(irregular(name(kind))));
    }
    text(read_at_most(file, MAX_LIST_BYTES)?)
}

fn irregular(kind: &str) -> String {
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

fn whole(why: String) -> TextError {
    TextError { position: None, why }
}

fn cannot(error: io::Error) -> TextError {
    whole(format!("cannot be read: {error}"))
}

fn read_at_most(file: File, most: u64) -> Result<Vec<u8>, TextError> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > most {
        return Err(whole(format!("larger than {} MiB", most >> 20)));
    }
    Ok(bytes)
}

fn text(bytes: Vec<u8>) -> Result<String, TextError> {
    // Byte order mark of UTF-16 (Unicode 23.8).
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(TextError {
            position: Some(Position::START),
            why: "the file is UTF-16; expected UTF-8".to_owned(),
        });
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let (good, bad) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        TextError {
            position: Some(Position::after(&String::from_utf8_lossy(good))),
            why: format!("byte 0x{:02x} is not UTF-8", bad.first().copied().unwrap_or_default()),
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
            why: "NUL byte; expected UTF-8 text".to_owned(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_bytes_have_a_place() {
        let diagnostic = text(b"a: 1\n\xc3\xb6\xff".to_vec()).unwrap_err();
        assert_eq!(diagnostic.position, Some(Position { line: 2, column: 2 }));
        assert_eq!(diagnostic.why, "byte 0xff is not UTF-8");
        let diagnostic = text(b"a\0".to_vec()).unwrap_err();
        assert_eq!(diagnostic.position, Some(Position { line: 1, column: 2 }));
    }

    #[test]
    fn what_is_no_file_has_no_place() {
        let missing = read(Path::new("/nonexistent/mailflow.yaml")).unwrap_err();
        assert_eq!(missing.position, None);
        assert!(missing.why.contains("No such file"), "{}", missing.why);
        assert!(read(Path::new("/")).is_err());
        assert!(read(Path::new("/dev/zero")).unwrap_err().why.contains("larger"));
    }
}
