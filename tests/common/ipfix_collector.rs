//! IPFIX as a collector reads it: every length, every sequence number, every field.

use std::{collections::HashMap, io::Read};

/// Information element, and true for the reverse direction.
pub(crate) type Element = (u16, bool);

/// State of a collector.
#[derive(Default)]
pub(crate) struct Collector {
    templates: HashMap<u16, Vec<(Element, usize)>>,
    /// Next sequence number.
    pub(crate) next: u32,
    pub(crate) records: Vec<HashMap<Element, Vec<u8>>>,
    /// Records of options templates.
    pub(crate) options: Vec<HashMap<Element, Vec<u8>>>,
    /// Number of messages with templates.
    pub(crate) taught: usize,
}

/// Returns a big-endian number.
pub(crate) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn short(bytes: &[u8], at: usize) -> usize {
    number(&bytes[at..at + 2]) as usize
}

impl Collector {
    /// Reads a message of a stream.
    pub(crate) fn stream(&mut self, stream: &mut impl Read) {
        read(stream, self);
    }

    /// Reads a message of a sender whose earlier messages went elsewhere.
    pub(crate) fn datagram(&mut self, message: &[u8]) {
        self.next = number(&message[8..12]) as u32;
        self.message(message, 7);
    }

    /// Returns the client ports of all records.
    pub(crate) fn ports(&self) -> std::collections::BTreeSet<u64> {
        self.records.iter().map(|record| number(&record[&(7, false)])).collect()
    }

    /// Reads a message (RFC 7011, 3).
    pub(crate) fn message(&mut self, message: &[u8], domain: u64) {
        assert_eq!((short(message, 0), short(message, 2)), (10, message.len()));
        assert_eq!(number(&message[8..12]), u64::from(self.next), "data records sent before");
        assert_eq!(number(&message[12..16]), domain);
        let mut rest = &message[16..];
        while !rest.is_empty() {
            let (id, length) = (short(rest, 0) as u16, short(rest, 2));
            let set = &rest[4..length];
            match id {
                2 => {
                    self.taught += 1;
                    self.learn(set);
                }
                // The number of scope fields follows the number of fields.
                3 => self.learn(&[&set[..4], &set[6..]].concat()),
                _ => self.read(id, set),
            }
            rest = &rest[length..];
        }
    }

    fn learn(&mut self, mut set: &[u8]) {
        while !set.is_empty() {
            let (id, count) = (short(set, 0) as u16, short(set, 2));
            set = &set[4..];
            let mut fields = Vec::new();
            for _ in 0..count {
                let (element, length) = (short(set, 0) as u16, short(set, 2));
                set = &set[4..];
                let reverse = element & 0x8000 != 0;
                if reverse {
                    assert_eq!(number(&set[..4]), 29_305);
                    set = &set[4..];
                }
                fields.push(((element & 0x7fff, reverse), length));
            }
            self.templates.insert(id, fields);
        }
    }

    fn read(&mut self, id: u16, mut set: &[u8]) {
        while !set.is_empty() {
            let mut found = HashMap::new();
            for (element, length) in &self.templates[&id] {
                let mut length = *length;
                if length == usize::from(u16::MAX) {
                    (length, set) = (usize::from(set[0]), &set[1..]);
                }
                found.insert(*element, set[..length].to_vec());
                set = &set[length..];
            }
            let flow = found.contains_key(&(4, false));
            if flow {
                self.records.push(found)
            } else {
                self.options.push(found)
            }
            self.next = self.next.wrapping_add(1);
        }
    }
}

/// Reads one message.
pub(crate) fn read(stream: &mut impl Read, collector: &mut Collector) {
    let mut head = [0; 4];
    stream.read_exact(&mut head).unwrap();
    let mut message = head.to_vec();
    message.resize(short(&head, 2), 0);
    stream.read_exact(&mut message[4..]).unwrap();
    collector.message(&message, 7);
}
