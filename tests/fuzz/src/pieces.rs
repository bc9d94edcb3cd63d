//! Input in pieces, as a pipe or a socket may deliver it.

use std::{
    io::{self, Read},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reader of bytes in memory that returns at most `length` bytes per read, and discards writes.
pub(crate) struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    length: usize,
}

impl Pieces {
    /// Creates a reader that returns all bytes at once.
    pub(crate) fn whole(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), at: 0, length: usize::MAX }
    }

    /// Creates a reader of pieces, whose length follows from the bytes.
    pub(crate) fn small(bytes: &[u8]) -> Self {
        let sum =
            bytes.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
        // Small pieces of a long input would only cost time.
        let length = 1 + sum % 13 + bytes.len() / 512;
        Self { bytes: bytes.to_vec(), at: 0, length }
    }

    fn next(&mut self, room: usize) -> &[u8] {
        let rest = &self.bytes[self.at..];
        let piece = &rest[..rest.len().min(room).min(self.length)];
        self.at += piece.len();
        piece
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.next(buffer.len());
        buffer[..piece.len()].copy_from_slice(piece);
        Ok(piece.len())
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let piece = self.next(to.remaining());
        to.put_slice(piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(from.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
