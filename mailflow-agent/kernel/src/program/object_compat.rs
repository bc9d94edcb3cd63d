//! Compatibility of the object with kernels that have fewer instructions.

use std::borrow::Cow;

use object::{Object, ObjectSection, SectionKind};

use crate::{error::KernelError, host::kernel_version::KernelVersion};

/// Length of an instruction.
const LENGTH: usize = 8;
/// Operation code of atomic operations on 64-bit words (BPF_STX | BPF_ATOMIC | BPF_DW).
const ATOMIC: u8 = 0xdb;
/// Immediate value of BPF_CMPXCHG.
const EXCHANGE: [u8; 4] = [0xf1, 0, 0, 0];
/// `r0 = 1`: the previous value is neither empty nor the tag of the flow.
const FOUND_ANOTHER: [u8; LENGTH] = [0xb7, 0, 0, 0, 1, 0, 0, 0];

/// Returns the object for this kernel. Before Linux 5.12 a program must not contain BPF_CMPXCHG, not even in
/// unreachable code. The table has no buckets there, so the instructions are unreachable.
pub(super) fn for_kernel(object: &[u8], version: KernelVersion) -> Result<Cow<'_, [u8]>, KernelError> {
    if version >= KernelVersion::EXCHANGE {
        return Ok(Cow::Borrowed(object));
    }
    let places = exchanges(object).map_err(|error| KernelError::Object(error.to_string()))?;
    let mut plain = object.to_vec();
    for place in places {
        plain[place..place + LENGTH].copy_from_slice(&FOUND_ANOTHER);
    }
    Ok(Cow::Owned(plain))
}

/// Returns the offsets of these instructions in the file.
fn exchanges(object: &[u8]) -> Result<Vec<usize>, object::Error> {
    let mut found = Vec::new();
    for section in object::File::parse(object)?.sections() {
        let Some((start, _)) = section.file_range().filter(|_| section.kind() == SectionKind::Text) else {
            continue;
        };
        for (number, instruction) in section.data()?.chunks_exact(LENGTH).enumerate() {
            if instruction[0] == ATOMIC && instruction[4..] == EXCHANGE {
                found.push(start as usize + number * LENGTH);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_do_not_exchange_get_no_such_instruction() {
        let object = crate::OBJECT;
        assert!(!exchanges(object).unwrap().is_empty());
        let plain = for_kernel(object, KernelVersion::FLOOR).unwrap();
        assert!(exchanges(&plain).unwrap().is_empty());
        assert_eq!(plain.len(), object.len());
        assert!(matches!(for_kernel(object, KernelVersion::TCX).unwrap(), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        assert!(for_kernel(b"ELF", KernelVersion::FLOOR).is_err());
    }
}
