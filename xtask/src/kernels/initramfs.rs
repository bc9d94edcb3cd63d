//! Archive that the kernel unpacks as the guest's file system: cpio's newc format
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

/// Modes of entries: file type bits and permissions.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Writer of an archive.
pub(super) struct Initramfs<W> {
    out: W,
    folders: BTreeSet<String>,
    number: u32,
}

impl<W: Write> Initramfs<W> {
    /// Starts an archive that contains only the console.
    pub(super) fn new(out: W) -> io::Result<Self> {
        let mut archive = Self { out, folders: BTreeSet::new(), number: 0 };
        archive.folder("dev")?;
        // Without a console the first process has no standard output.
        archive.entry("dev/console", CHARACTER_DEVICE, (5, 1), &[])?;
        Ok(archive)
    }

    /// Adds an empty folder with its parents.
    pub(super) fn folder(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || self.folders.contains(path) {
            return Ok(());
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent)?;
        }
        self.folders.insert(path.to_owned());
        self.entry(path, FOLDER, (0, 0), &[])
    }

    /// Adds an executable file with its parent folders.
    pub(super) fn file(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let path = path.trim_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent)?;
        }
        self.entry(path, PROGRAM, (0, 0), bytes)
    }

    /// Ends the archive.
    pub(super) fn end(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), bytes: &[u8]) -> io::Result<()> {
        let size =
            u32::try_from(bytes.len()).map_err(|_| io::Error::other(format!("{path} is too large")))?;
        self.number += 1;
        // Inode, mode, owner, group, links, time, size, device, device number of the node, length of the name
        // with its zero, checksum.
        let name = path.len() as u32 + 1;
        let fields = [self.number, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name, 0];
        write!(self.out, "070701")?;
        fields.iter().try_for_each(|field| write!(self.out, "{field:08x}"))?;
        write!(self.out, "{path}\0")?;
        self.pad(6 + 8 * fields.len() + path.len() + 1)?;
        self.out.write_all(bytes)?;
        self.pad(bytes.len())
    }

    /// Pads to a multiple of four bytes, after the header with the name, and after the content.
    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..written.wrapping_neg() & 3])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_folders_precede_files() {
        let mut archive = Initramfs::new(Vec::new()).unwrap();
        archive.file("/lib/a/b.so", b"12345").unwrap();
        archive.file("/lib/a/c.so", b"").unwrap();
        let bytes = archive.end().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let mut names = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            assert_eq!(&rest[..6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&rest[6 + 8 * index..][..8]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (size, name) = (field(6), field(11));
            names.push(String::from_utf8(rest[110..110 + name - 1].to_vec()).unwrap());
            rest = &rest[(110 + name).next_multiple_of(4) + size.next_multiple_of(4)..];
        }
        assert_eq!(names, ["dev", "dev/console", "lib", "lib/a", "lib/a/b.so", "lib/a/c.so", "TRAILER!!!"]);
    }
}
