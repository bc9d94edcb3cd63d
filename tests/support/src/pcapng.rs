//! Writer of captures, block by block: pcapng (draft-ietf-opsawg-pcapng), in either byte order.

/// Byte order of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

/// Builder of a section.
#[derive(Clone, Debug)]
pub struct Section {
    order: Order,
    bytes: Vec<u8>,
}

impl Section {
    /// Creates a section with its header.
    pub fn new(order: Order) -> Self {
        let mut section = Self { order, bytes: Vec::new() };
        let mut body = [section.u32(0x1a2b_3c4d), section.u16(1), section.u16(0)].concat();
        // Section length: unspecified.
        body.extend([0xff; 8]);
        section.block(0x0a0d_0d0a, &body);
        section
    }

    /// Adds an interface: link type, snaplen, and options as (code, value).
    pub fn interface(mut self, link: u16, snap: u32, options: &[(u16, Vec<u8>)]) -> Self {
        let mut body = [self.u16(link), self.u16(0), self.u32(snap)].concat();
        for (code, value) in options {
            body.extend([self.u16(*code), self.u16(value.len() as u16)].concat());
            body.extend(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        if !options.is_empty() {
            body.extend([0; 4]);
        }
        self.block(1, &body);
        self
    }

    /// Adds a frame as an Enhanced Packet Block.
    pub fn enhanced(mut self, interface: u32, units: u64, frame: &[u8]) -> Self {
        let words = [interface, (units >> 32) as u32, units as u32, frame.len() as u32, frame.len() as u32];
        let body = [words.map(|word| self.u32(word)).concat(), frame.to_vec()].concat();
        self.block(6, &body);
        self
    }

    /// Adds a frame as an obsolete Packet Block.
    pub fn packet(mut self, interface: u16, units: u64, frame: &[u8]) -> Self {
        let words = [(units >> 32) as u32, units as u32, frame.len() as u32, frame.len() as u32];
        let head = [self.u16(interface), self.u16(0), words.map(|word| self.u32(word)).concat()].concat();
        self.block(2, &[head, frame.to_vec()].concat());
        self
    }

    /// Adds a frame of the first interface as a Simple Packet Block, without a time and with `captured`
    /// bytes.
    pub fn simple(mut self, frame: &[u8], captured: usize) -> Self {
        let body = [self.u32(frame.len() as u32), frame[..captured].to_vec()].concat();
        self.block(3, &body);
        self
    }

    /// Adds a block of any type.
    pub fn other(mut self, kind: u32, body: &[u8]) -> Self {
        self.block(kind, body);
        self
    }

    /// Returns the file's bytes.
    pub fn build(self) -> Vec<u8> {
        self.bytes
    }

    /// Returns a number in the section's byte order.
    pub fn i64(&self, number: i64) -> Vec<u8> {
        if self.order == Order::Big { number.to_be_bytes().to_vec() } else { number.to_le_bytes().to_vec() }
    }

    fn u16(&self, number: u16) -> Vec<u8> {
        if self.order == Order::Big { number.to_be_bytes().to_vec() } else { number.to_le_bytes().to_vec() }
    }

    fn u32(&self, number: u32) -> Vec<u8> {
        if self.order == Order::Big { number.to_be_bytes().to_vec() } else { number.to_le_bytes().to_vec() }
    }

    fn block(&mut self, kind: u32, body: &[u8]) {
        let length = self.u32(12 + body.len().next_multiple_of(4) as u32);
        self.bytes.extend(self.u32(kind));
        self.bytes.extend(&length);
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.bytes.extend(&length);
    }
}
