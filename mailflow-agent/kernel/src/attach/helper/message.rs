//! Messages between the agent and the helper process: each kind has one length.

use std::io;

use crate::{
    attach::query::{HookProgram, HookQuery, HookState, MAX_HOOK_PROGRAMS},
    host::hook::{Attachment, Direction},
};

/// Length of a query: interface index, program, direction, attachment.
pub(super) const QUERY_LENGTH: usize = 4 + 4 + 1 + 1;
/// Length of an answer: errno, kind, number of programs, and room for the largest number of programs.
pub(super) const ANSWER_LENGTH: usize = ANSWER_HEAD_LENGTH + MAX_HOOK_PROGRAMS * PROGRAM_LENGTH;
const ANSWER_HEAD_LENGTH: usize = 4 + 4 + 4;
/// Length of a program: id, 0 for a filter that is not a BPF program, and name (`BPF_OBJ_NAME_LEN`,
/// linux/bpf.h).
const PROGRAM_LENGTH: usize = 4 + NAME_LENGTH;
const NAME_LENGTH: usize = 16;

/// Kinds of answer.
const KIND_ATTACHED: u32 = 0;
const KIND_DETACHED: u32 = 1;

impl HookQuery {
    pub(super) fn encode(self) -> [u8; QUERY_LENGTH] {
        let mut bytes = [0; QUERY_LENGTH];
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
    pub(super) fn decode(bytes: &[u8; QUERY_LENGTH]) -> Option<Self> {
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
        Some(Self { device: read_u32(bytes, 0)?, program: read_u32(bytes, 4)?, direction, attachment })
    }
}

/// Returns an answer as bytes. More programs than it has room for are an error (EOVERFLOW), as the position
/// could be wrong.
pub(super) fn encode(answer: io::Result<HookState>) -> [u8; ANSWER_LENGTH] {
    let (errno, kind, programs) = match answer {
        Ok(HookState::Attached { before }) if before.len() > MAX_HOOK_PROGRAMS => {
            (libc::EOVERFLOW, KIND_ATTACHED, Vec::new())
        }
        Ok(HookState::Attached { before }) => (0, KIND_ATTACHED, before),
        Ok(HookState::Detached { other }) => (0, KIND_DETACHED, other.into_iter().collect()),
        Err(error) => (error.raw_os_error().unwrap_or(libc::EIO), KIND_ATTACHED, Vec::new()),
    };
    let mut bytes = [0; ANSWER_LENGTH];
    bytes[..4].copy_from_slice(&errno.to_ne_bytes());
    bytes[4..8].copy_from_slice(&kind.to_ne_bytes());
    bytes[8..12].copy_from_slice(&(programs.len() as u32).to_ne_bytes());
    for (slot, program) in bytes[ANSWER_HEAD_LENGTH..].chunks_exact_mut(PROGRAM_LENGTH).zip(&programs) {
        slot[..4].copy_from_slice(&program.id.unwrap_or(0).to_ne_bytes());
        let name = program.name.as_deref().unwrap_or_default().as_bytes();
        let length = name.len().min(NAME_LENGTH);
        slot[4..4 + length].copy_from_slice(&name[..length]);
    }
    bytes
}

/// Reads an answer; `None` if it is malformed.
pub(super) fn decode(bytes: &[u8; ANSWER_LENGTH]) -> Option<io::Result<HookState>> {
    let errno = read_u32(bytes, 0)?;
    if errno != 0 {
        return Some(Err(io::Error::from_raw_os_error(errno as i32)));
    }
    let count = read_u32(bytes, 8)? as usize;
    let encoded = bytes[ANSWER_HEAD_LENGTH..].chunks_exact(PROGRAM_LENGTH).take(count);
    let mut programs = encoded.map(decode_program).collect::<Option<Vec<_>>>()?;
    match (read_u32(bytes, 4)?, programs.len()) {
        (KIND_ATTACHED, read) if read == count => Some(Ok(HookState::Attached { before: programs })),
        (KIND_DETACHED, 0 | 1) if count < 2 => Some(Ok(HookState::Detached { other: programs.pop() })),
        _ => None,
    }
}

fn decode_program(bytes: &[u8]) -> Option<HookProgram> {
    let (id, name) = (read_u32(bytes, 0)?, bytes.get(4..)?);
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).into_owned();
    Some(HookProgram { id: (id != 0).then_some(id), name: (!name.is_empty()).then_some(name) })
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook_program(id: u32, name: Option<&str>) -> HookProgram {
        HookProgram { id: (id != 0).then_some(id), name: name.map(str::to_owned) }
    }

    #[test]
    fn queries_round_trip() {
        for direction in [Direction::Ingress, Direction::Egress] {
            for attachment in [Attachment::XdpFrags, Attachment::Xdp, Attachment::Tcx, Attachment::Clsact] {
                let question = HookQuery { device: 7, program: 0x0102_0304, direction, attachment };
                assert_eq!(HookQuery::decode(&question.encode()), Some(question));
            }
        }
        let mut bytes = [0; QUERY_LENGTH];
        bytes[9] = 4;
        assert_eq!(HookQuery::decode(&bytes), None);
    }

    #[test]
    fn answers_round_trip() {
        let full: Vec<_> =
            (0..MAX_HOOK_PROGRAMS as u32).map(|id| hook_program(id, Some("fifteen_letters"))).collect();
        for found in [
            HookState::Attached { before: Vec::new() },
            HookState::Attached {
                before: vec![hook_program(0, None), hook_program(9, Some("a")), hook_program(8, None)],
            },
            HookState::Attached { before: full },
            HookState::Detached { other: None },
            HookState::Detached { other: Some(hook_program(3, Some("xdp_other"))) },
        ] {
            let expected = format!("{found:?}");
            let decoded = decode(&encode(Ok(found))).unwrap().unwrap();
            assert_eq!(format!("{decoded:?}"), expected);
        }
        let refused = decode(&encode(Err(io::Error::from_raw_os_error(libc::EPERM)))).unwrap();
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
        let crowd = (0..=MAX_HOOK_PROGRAMS as u32).map(|id| hook_program(id, None)).collect();
        let crowd = decode(&encode(Ok(HookState::Attached { before: crowd }))).unwrap();
        assert_eq!(crowd.unwrap_err().raw_os_error(), Some(libc::EOVERFLOW));
    }

    #[test]
    fn malformed_answers_are_refused() {
        let mut bytes = encode(Ok(HookState::Detached { other: None }));
        bytes[8..12].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(decode(&bytes).is_none());
        bytes[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        assert!(decode(&bytes).is_none());
    }
}
