//! Files as text.

use std::{fs::File, io::Read, path::Path, sync::Arc};

use super::fault::{Fault, Faults, Place, Position};

/// Larger files than this (64 MiB) are no configuration.
const MAX_BYTES: u64 = 64 << 20;
/// Larger files than this (256 MiB) are no list: NetBox says about 1 kB of a prefix.
const MAX_LIST_BYTES: u64 = 256 << 20;

/// Why a file is no text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoText {
    /// Where in it; `None` for the file as a whole.
    pub(super) position: Option<Position>,
    /// What is wrong.
    pub(super) why: String,
}

impl NoText {
    /// As the fault of the file `name`.
    pub(super) fn fault(self, name: Arc<str>) -> Fault {
        let place = Place { file: name, position: self.position };
        Fault { place, path: String::new(), value: None, expected: self.why }
    }

    /// As the only fault of the configuration `name`.
    pub(super) fn faults(self, name: &str) -> Faults {
        self.fault(name.into()).into()
    }
}

/// Reads a file that must be text.
pub(super) fn read(path: &Path) -> Result<String, NoText> {
    read_at_most(path, MAX_BYTES)
}

/// Reads a list of networks, which must be text too.
pub(super) fn read_list(path: &Path) -> Result<String, NoText> {
    read_at_most(path, MAX_LIST_BYTES)
}

fn read_at_most(path: &Path, most: u64) -> Result<String, NoText> {
    let whole = |why: String| NoText { position: None, why };
    let cannot = |error: std::io::Error| whole(format!("cannot be read: {error}"));
    let mut bytes = Vec::new();
    File::open(path).map_err(cannot)?.take(most + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > most {
        return Err(whole(format!("larger than {} MiB", most >> 20)));
    }
    text(bytes)
}

fn text(bytes: Vec<u8>) -> Result<String, NoText> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let (good, bad) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        NoText {
            position: Some(Position::after(&String::from_utf8_lossy(good))),
            why: format!("byte 0x{:02x} is not UTF-8", bad.first().copied().unwrap_or_default()),
        }
    })?;
    check(&text)?;
    Ok(text)
}

/// Refuses what no text holds.
pub(super) fn check(text: &str) -> Result<(), NoText> {
    match text.find('\0') {
        Some(at) => Err(NoText {
            position: Some(Position::after(text.get(..at).unwrap_or_default())),
            why: "a NUL byte; this is no text".to_owned(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_bytes_have_a_place() {
        let fault = text(b"a: 1\n\xc3\xb6\xff".to_vec()).unwrap_err();
        assert_eq!(fault.position, Some(Position { line: 2, column: 2 }));
        assert_eq!(fault.why, "byte 0xff is not UTF-8");
        let fault = text(b"a\0".to_vec()).unwrap_err();
        assert_eq!(fault.position, Some(Position { line: 1, column: 2 }));
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
