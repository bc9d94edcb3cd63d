//! Keys and values of maps as bytes.

/// A key or value of a map: plain bytes, any of which are valid.
///
/// # Safety
/// Every bit pattern is a value, there is no padding, and the map's element size is `size_of` it.
pub(crate) unsafe trait MapElement: Copy {}

// SAFETY: words and arrays of words, in #[repr(C)] without padding; the sizes are pinned in
// mailflow-common and are those of the map's definition.
unsafe impl MapElement for mailflow_common::FlowKey {}
// SAFETY: as above; it is a part of a map's value.
unsafe impl MapElement for mailflow_common::BucketSlot {}
// SAFETY: words of any value.
unsafe impl MapElement for u64 {}
// SAFETY: as above.
unsafe impl MapElement for mailflow_common::FlowCounters {}
// SAFETY: as above.
unsafe impl MapElement for mailflow_common::SupersededKey {}
// SAFETY: as above.
unsafe impl MapElement for mailflow_common::SourceOverflowKey {}
// SAFETY: as above.
unsafe impl MapElement for mailflow_common::SourceOverflowCounters {}
// SAFETY: as above; it is in the buffers of a program run, and in no map.
unsafe impl MapElement for mailflow_common::Removal {}

/// Returns the bytes of elements.
pub(crate) fn bytes<E: MapElement>(elements: &[E]) -> &[u8] {
    // SAFETY: no padding, so that every byte is initialised; the length is that of the slice.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) }
}

/// Returns the bytes of elements, for writing.
pub(crate) fn bytes_mut<E: MapElement>(elements: &mut [E]) -> &mut [u8] {
    // SAFETY: as above; every written bit pattern is valid.
    unsafe { std::slice::from_raw_parts_mut(elements.as_mut_ptr().cast(), size_of_val(elements)) }
}

/// Returns the bytes of a key or value.
pub(crate) fn to_bytes<E: MapElement>(element: &E) -> Vec<u8> {
    bytes(std::slice::from_ref(element)).to_vec()
}

/// Reads a key or value from its bytes; `None` if their number is wrong.
pub(crate) fn from_bytes<E: MapElement + Default>(bytes: &[u8]) -> Option<E> {
    let mut element = E::default();
    let target = bytes_mut(std::slice::from_mut(&mut element));
    (target.len() == bytes.len()).then(|| target.copy_from_slice(bytes))?;
    Some(element)
}

#[cfg(test)]
mod tests {
    use mailflow_common::FlowKey;

    use super::*;

    #[test]
    fn keys_round_trip_through_bytes() {
        let key = FlowKey { client_port: 7, server_port: 25, ..FlowKey::default() };
        assert_eq!(from_bytes(&to_bytes(&key)), Some(key));
        assert_eq!(from_bytes::<FlowKey>(&[0; 39]), None);
    }
}
