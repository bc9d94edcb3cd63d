//! Messages between the agent and the helper process: each kind has one length.

use std::io;

use crate::{
    attach::query::{Found, MOST, Question, Seen},
    host::hook::{Attachment, Direction},
};

/// Length of a query: interface index, program, direction, attachment.
pub(super) const QUESTION: usize = 4 + 4 + 1 + 1;
/// Length of an answer: errno, kind, number of programs, and room for the largest number of programs.
pub(super) const ANSWER: usize = HEAD + MOST * PROGRAM;
const HEAD: usize = 4 + 4 + 4;
/// Length of a program: id, 0 for a filter that is not a BPF program, and name (`BPF_OBJ_NAME_LEN`,
/// linux/bpf.h).
const PROGRAM: usize = 4 + NAME;
const NAME: usize = 16;

/// Kinds of answer.
const THERE: u32 = 0;
const GONE: u32 = 1;

impl Question {
    pub(super) fn encode(self) -> [u8; QUESTION] {
        let mut bytes = [0; QUESTION];
        bytes[..4].copy_from_slice(&self.device.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.program.to_ne_bytes());
        bytes[8] = match self.direction {
            Direction::Ingress => 0,
            Direction::Egress => 1,
        };
        bytes[9] = match self.attachment {
            Attachment::XdpFrags => 0,
            Attachment::Xdp => 1,
            Attachment::Tcx => 2,
            Attachment::Clsact => 3,
        };
        bytes
    }

    /// Reads a query; `None` if it is malformed.
    pub(super) fn decode(bytes: &[u8; QUESTION]) -> Option<Self> {
        let direction = match bytes[8] {
            0 => Direction::Ingress,
            1 => Direction::Egress,
            _ => return None,
        };
        let attachment = match bytes[9] {
            0 => Attachment::XdpFrags,
            1 => Attachment::Xdp,
            2 => Attachment::Tcx,
            3 => Attachment::Clsact,
            _ => return None,
        };
        Some(Self { device: word(bytes, 0)?, program: word(bytes, 4)?, direction, attachment })
    }
}

/// Returns an answer as bytes. More programs than it has room for are an error (EOVERFLOW), as the position
/// could be wrong.
pub(super) fn encode(answer: io::Result<Found>) -> [u8; ANSWER] {
    let (errno, kind, programs) = match answer {
        Ok(Found::There { before }) if before.len() > MOST => (libc::EOVERFLOW, THERE, Vec::new()),
        Ok(Found::There { before }) => (0, THERE, before),
        Ok(Found::Gone { instead }) => (0, GONE, instead.into_iter().collect()),
        Err(error) => (error.raw_os_error().unwrap_or(libc::EIO), THERE, Vec::new()),
    };
    let mut bytes = [0; ANSWER];
    bytes[..4].copy_from_slice(&errno.to_ne_bytes());
    bytes[4..8].copy_from_slice(&kind.to_ne_bytes());
    bytes[8..12].copy_from_slice(&(programs.len() as u32).to_ne_bytes());
    for (place, program) in bytes[HEAD..].chunks_exact_mut(PROGRAM).zip(&programs) {
        place[..4].copy_from_slice(&program.id.unwrap_or(0).to_ne_bytes());
        let name = program.name.as_deref().unwrap_or_default().as_bytes();
        let length = name.len().min(NAME);
        place[4..4 + length].copy_from_slice(&name[..length]);
    }
    bytes
}

/// Reads an answer; `None` if it is malformed.
pub(super) fn decode(bytes: &[u8; ANSWER]) -> Option<io::Result<Found>> {
    let errno = word(bytes, 0)?;
    if errno != 0 {
        return Some(Err(io::Error::from_raw_os_error(errno as i32)));
    }
    let count = word(bytes, 8)? as usize;
    let places = bytes[HEAD..].chunks_exact(PROGRAM).take(count);
    let mut programs = places.map(program).collect::<Option<Vec<_>>>()?;
    match (word(bytes, 4)?, programs.len()) {
        (THERE, read) if read == count => Some(Ok(Found::There { before: programs })),
        (GONE, 0 | 1) if count < 2 => Some(Ok(Found::Gone { instead: programs.pop() })),
        _ => None,
    }
}

fn program(bytes: &[u8]) -> Option<Seen> {
    let (id, name) = (word(bytes, 0)?, bytes.get(4..)?);
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).into_owned();
    Some(Seen { id: (id != 0).then_some(id), name: (!name.is_empty()).then_some(name) })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(id: u32, name: Option<&str>) -> Seen {
        Seen { id: (id != 0).then_some(id), name: name.map(str::to_owned) }
    }

    #[test]
    fn questions_arrive_as_they_were_asked() {
        for direction in [Direction::Ingress, Direction::Egress] {
            for attachment in [Attachment::XdpFrags, Attachment::Xdp, Attachment::Tcx, Attachment::Clsact] {
                let question = Question { device: 7, program: 0x0102_0304, direction, attachment };
                assert_eq!(Question::decode(&question.encode()), Some(question));
            }
        }
        let mut bytes = [0; QUESTION];
        bytes[9] = 4;
        assert_eq!(Question::decode(&bytes), None);
    }

    #[test]
    fn answers_arrive_as_they_were_given() {
        let full: Vec<_> = (0..MOST as u32).map(|id| seen(id, Some("fifteen_letters"))).collect();
        for found in [
            Found::There { before: Vec::new() },
            Found::There { before: vec![seen(0, None), seen(9, Some("a")), seen(8, None)] },
            Found::There { before: full },
            Found::Gone { instead: None },
            Found::Gone { instead: Some(seen(3, Some("xdp_other"))) },
        ] {
            let expected = format!("{found:?}");
            let decoded = decode(&encode(Ok(found))).unwrap().unwrap();
            assert_eq!(format!("{decoded:?}"), expected);
        }
        let refused = decode(&encode(Err(io::Error::from_raw_os_error(libc::EPERM)))).unwrap();
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
        let crowd = (0..=MOST as u32).map(|id| seen(id, None)).collect();
        let crowd = decode(&encode(Ok(Found::There { before: crowd }))).unwrap();
        assert_eq!(crowd.unwrap_err().raw_os_error(), Some(libc::EOVERFLOW));
    }

    #[test]
    fn answers_that_make_no_sense_are_none() {
        let mut bytes = encode(Ok(Found::Gone { instead: None }));
        bytes[8..12].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(decode(&bytes).is_none());
        bytes[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        assert!(decode(&bytes).is_none());
    }
}
