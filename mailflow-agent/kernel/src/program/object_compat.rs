//! Compatibility of the object with kernels that have fewer instructions.

use std::borrow::Cow;

use object::{Object, ObjectSection, SectionKind};

use crate::{error::KernelError, host::kernel_version::KernelVersion};

/// Length of an instruction.
const INSTRUCTION_LENGTH: usize = 8;
/// Operation code of atomic operations on 64-bit words (BPF_STX | BPF_ATOMIC | BPF_DW).
const ATOMIC_OPCODE: u8 = 0xdb;
/// Immediate value of BPF_CMPXCHG.
const CMPXCHG_IMMEDIATE: [u8; 4] = [0xf1, 0, 0, 0];
/// `r0 = 1`: the previous value is neither empty nor the tag of the flow.
const LOAD_OTHER_TAG: [u8; INSTRUCTION_LENGTH] = [0xb7, 0, 0, 0, 1, 0, 0, 0];

/// Returns the object for this kernel. Before Linux 5.12 a program must not contain BPF_CMPXCHG, not even in
/// unreachable code. The table has no buckets there, so the instructions are unreachable.
pub(super) fn for_kernel(object: &[u8], version: KernelVersion) -> Result<Cow<'_, [u8]>, KernelError> {
    if version >= KernelVersion::CMPXCHG {
        return Ok(Cow::Borrowed(object));
    }
    let offsets = cmpxchg_offsets(object).map_err(|error| KernelError::Object(error.to_string()))?;
    let mut rewritten = object.to_vec();
    for offset in offsets {
        rewritten[offset..offset + INSTRUCTION_LENGTH].copy_from_slice(&LOAD_OTHER_TAG);
    }
    Ok(Cow::Owned(rewritten))
}

/// Returns the offsets of these instructions in the file.
fn cmpxchg_offsets(object: &[u8]) -> Result<Vec<usize>, object::Error> {
    let mut found = Vec::new();
    for section in object::File::parse(object)?.sections() {
        let Some((start, _)) = section.file_range().filter(|_| section.kind() == SectionKind::Text) else {
            continue;
        };
        for (number, instruction) in section.data()?.chunks_exact(INSTRUCTION_LENGTH).enumerate() {
            if instruction[0] == ATOMIC_OPCODE && instruction[4..] == CMPXCHG_IMMEDIATE {
                found.push(start as usize + number * INSTRUCTION_LENGTH);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_without_cmpxchg_get_no_cmpxchg() {
        let object = crate::OBJECT;
        assert!(!cmpxchg_offsets(object).unwrap().is_empty());
        let rewritten = for_kernel(object, KernelVersion::MINIMUM).unwrap();
        assert!(cmpxchg_offsets(&rewritten).unwrap().is_empty());
        assert_eq!(rewritten.len(), object.len());
        assert!(matches!(for_kernel(object, KernelVersion::TCX).unwrap(), Cow::Borrowed(_)));
    }

    #[test]
    fn a_file_that_is_no_object_is_an_error() {
        assert!(for_kernel(b"ELF", KernelVersion::MINIMUM).is_err());
    }
}
