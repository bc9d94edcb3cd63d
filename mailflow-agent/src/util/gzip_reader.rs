//! Reader of plain or gzip-compressed files, with their read position.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read},
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flate2::read::MultiGzDecoder;

/// Magic number of a gzip member (RFC 1952, 2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Path that means standard input.
const STDIN: &str = "-";

/// Contents of a file, decompressed if necessary. The file may be a pipe, as the reader does not seek.
pub struct MaybeGzip {
    contents: Box<dyn Read + Send>,
    position: Arc<AtomicU64>,
}

impl MaybeGzip {
    /// Opens a file; `-` is standard input.
    ///
    /// # Errors
    /// The file cannot be opened or read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let position = Arc::new(AtomicU64::new(0));
        let file = if path == Path::new(STDIN) {
            File::from(io::stdin().as_fd().try_clone_to_owned()?)
        } else {
            File::open(path)?
        };
        Self::new(CountingReader { file, position: Arc::clone(&position) }, position)
    }

    /// Reads from another reader, such as bytes in memory.
    ///
    /// # Errors
    /// The reader fails.
    pub fn from_reader(reader: impl Read + Send + 'static) -> io::Result<Self> {
        let position = Arc::new(AtomicU64::new(0));
        Self::new(CountingReader { file: reader, position: Arc::clone(&position) }, position)
    }

    fn new<R: Read + Send + 'static>(file: CountingReader<R>, position: Arc<AtomicU64>) -> io::Result<Self> {
        let mut file = BufReader::new(file);
        let mut begin = Vec::with_capacity(GZIP_MAGIC.len());
        // A pipe may return the bytes one by one.
        file.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut begin)?;
        let packed = begin == GZIP_MAGIC;
        let whole = Cursor::new(begin).chain(file);
        let contents: Box<dyn Read + Send> =
            if packed { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };
        Ok(Self { contents, position })
    }

    /// Returns the number of bytes read from the file, before decompression. The counter is updated while the
    /// contents are read.
    pub fn position(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.position)
    }
}

impl Read for MaybeGzip {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.contents.read(buffer)
    }
}

/// Reader that counts its bytes.
struct CountingReader<R> {
    file: R,
    position: Arc<AtomicU64>,
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.position.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    /// Reader that returns one byte at each call.
    struct Bytes(Vec<u8>);

    impl Read for Bytes {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(1).min(self.0.len());
            for (to, byte) in buffer.iter_mut().zip(self.0.drain(..length)) {
                *to = byte;
            }
            Ok(length)
        }
    }

    #[test]
    fn gzip_is_recognised_however_small_the_pieces_are() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(b"contents").unwrap();
        let packed = packed.finish().unwrap();
        for (bytes, expected) in
            [(packed.as_slice(), &b"contents"[..]), (&[0x1f], &[0x1f]), (b"", b""), (b"plain", b"plain")]
        {
            let mut contents = Vec::new();
            MaybeGzip::from_reader(Bytes(bytes.to_vec())).unwrap().read_to_end(&mut contents).unwrap();
            assert_eq!(contents, expected);
        }
    }
}
