//! Access to a frame's bytes.

/// A run of bytes known to lie inside the frame. Offsets are constants, so that in the kernel each
/// read is one load.
pub trait Header {
    /// The byte at `OFFSET`.
    fn u8<const OFFSET: usize>(&self) -> u8;
    /// The word at `OFFSET`, network byte order decoded.
    fn be16<const OFFSET: usize>(&self) -> u16;
    /// The word at `OFFSET` as it lies in memory.
    fn raw32<const OFFSET: usize>(&self) -> u32;
}

/// A frame.
pub trait Frame {
    /// Bytes of it that were reached.
    type Header: Header;

    /// `LENGTH` bytes from `offset` on, or `None` where the readable part ends before.
    fn header<const LENGTH: usize>(&self, offset: usize) -> Option<Self::Header>;

    /// The whole frame's length, also of what is not readable here.
    fn length(&self) -> u32;

    /// Returns true if the whole frame has at least this many bytes.
    fn holds(&self, bytes: u32) -> bool;

    /// `value`, which is at most `mask`, as a number of which the kernel's verifier knows only that:
    /// so that the paths that lead to different values are verified once, not once each.
    fn opaque(&self, value: usize, mask: usize) -> usize;

    /// Makes sure that `value` lies in memory by now, not in the compiler's mind.
    fn materialise<T>(&self, value: &mut T);
}

/// A frame in memory, for tests.
#[derive(Clone, Copy, Debug)]
pub struct SliceFrame<'a> {
    readable: &'a [u8],
    length: u32,
}

impl<'a> SliceFrame<'a> {
    /// A frame that is wholly readable.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { readable: bytes, length: bytes.len() as u32 }
    }

    /// A frame of `length` bytes of which only `readable` can be reached.
    pub fn partial(readable: &'a [u8], length: u32) -> Self {
        Self { readable, length }
    }
}

impl Header for &[u8] {
    fn u8<const OFFSET: usize>(&self) -> u8 {
        self[OFFSET]
    }

    fn be16<const OFFSET: usize>(&self) -> u16 {
        u16::from_be_bytes([self[OFFSET], self[OFFSET + 1]])
    }

    fn raw32<const OFFSET: usize>(&self) -> u32 {
        u32::from_ne_bytes([self[OFFSET], self[OFFSET + 1], self[OFFSET + 2], self[OFFSET + 3]])
    }
}

impl<'a> Frame for SliceFrame<'a> {
    type Header = &'a [u8];

    fn header<const LENGTH: usize>(&self, offset: usize) -> Option<&'a [u8]> {
        self.readable.get(offset..offset + LENGTH)
    }

    fn length(&self) -> u32 {
        self.length
    }

    fn holds(&self, bytes: u32) -> bool {
        bytes <= self.length
    }

    fn opaque(&self, value: usize, mask: usize) -> usize {
        debug_assert!(value <= mask, "{value} does not fit into {mask}");
        value & mask
    }

    fn materialise<T>(&self, _: &mut T) {}
}
