//! Faults of a frame.

use fastrand::Rng;

use super::{
    choice::pick,
    frame_spec::{FrameSpec, Layer},
};

/// Returns a frame with one to three faults.
pub(super) fn some(rng: &mut Rng, draft: &FrameSpec) -> Vec<u8> {
    let mut draft = draft.clone();
    if rng.u8(..100) < 15 {
        layers(rng, &mut draft);
    }
    let mut bytes = draft.bytes();
    for _ in 0..*pick(rng, &[1, 1, 1, 2, 3]) {
        one(rng, &draft, &mut bytes);
    }
    bytes
}

/// Duplicates, removes or moves a layer.
fn layers(rng: &mut Rng, draft: &mut FrameSpec) {
    let index = rng.usize(..draft.layers.len());
    match rng.u8(..3) {
        0 => draft.layers.insert(index, draft.layers[index].clone()),
        1 => drop(draft.layers.remove(index)),
        _ => {
            let other = rng.usize(..draft.layers.len());
            draft.layers.swap(index, other);
        }
    }
}

fn one(rng: &mut Rng, draft: &FrameSpec, bytes: &mut Vec<u8>) {
    let headers = draft.headers().min(bytes.len());
    if headers == 0 {
        return;
    }
    match rng.u8(..12) {
        0 => bytes.truncate(rng.usize(..=bytes.len())),
        1 => bytes.truncate(rng.usize(..=headers)),
        2 => bytes.extend(std::iter::repeat_n(rng.u8(..2), rng.usize(1..70))),
        3 | 4 => bytes[rng.usize(..headers)] ^= 1 << rng.u8(..8),
        5 => bytes[rng.usize(..headers)] = rng.u8(..),
        6 => {
            // Swaps two fields.
            let [a, b] = [(); 2].map(|()| rng.usize(..headers) & !1);
            for index in 0..2 {
                if a.max(b) + index < bytes.len() {
                    bytes.swap(a + index, b + index);
                }
            }
        }
        7 | 8 => total_length(rng, draft, bytes),
        9 => header_length(rng, draft, bytes),
        10 => ethertype(rng, draft, bytes),
        _ => protocol(rng, draft, bytes),
    }
}

/// Sets the total length to zero, too small, too large, or off by one.
fn total_length(rng: &mut Rng, draft: &FrameSpec, bytes: &mut [u8]) {
    let Some((layer, range)) = draft.find(&[Layer::Ip4, Layer::Ip6]) else { return };
    let field = range.start + if layer == Layer::Ip4 { 2 } else { 4 };
    let Some(place) = bytes.get_mut(field..field + 2) else { return };
    let right = u16::from_be_bytes([place[0], place[1]]);
    let wrong = match rng.u8(..8) {
        0 | 1 => 0,
        2 => rng.u16(..70),
        3 => right.wrapping_add(1),
        4 => right.wrapping_sub(1),
        5 => u16::MAX,
        6 => right.wrapping_sub(rng.u16(..40)),
        _ => rng.u16(..),
    };
    place.copy_from_slice(&wrong.to_be_bytes());
}

/// Changes IPv4's header length or version, an extension header's length, or TCP's data offset.
fn header_length(rng: &mut Rng, draft: &FrameSpec, bytes: &mut [u8]) {
    let kinds = *pick(rng, &[Layer::Ip4, Layer::Ip6, Layer::Extension, Layer::Transport]);
    let Some((layer, range)) = draft.find(&[kinds]) else { return };
    let field = range.start
        + match layer {
            Layer::Extension => 1,
            Layer::Transport => 12,
            _ => 0,
        };
    let value = match layer {
        Layer::Ip4 => 0x40 | rng.u8(..16),
        Layer::Ip6 => rng.u8(..16) << 4,
        Layer::Transport => rng.u8(..16) << 4,
        _ => rng.u8(..8),
    };
    if let Some(byte) = bytes.get_mut(field) {
        *byte = value;
    }
}

fn ethertype(rng: &mut Rng, draft: &FrameSpec, bytes: &mut [u8]) {
    let Some((layer, range)) = draft.find(&[*pick(rng, &[Layer::Ethernet, Layer::Tag, Layer::Pppoe])]) else {
        return;
    };
    let value: u16 = match layer {
        Layer::Pppoe => *pick(rng, &[0x0021, 0x0057, 0x0281, 0xc021]),
        _ => *pick(
            rng,
            &[0x0800, 0x86dd, 0x8100, 0x88a8, 0x9100, 0x9200, 0x9300, 0x8847, 0x8848, 0x8863, 0x8864],
        ),
    };
    if let Some(place) = bytes.get_mut(range.end - 2..range.end) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

fn protocol(rng: &mut Rng, draft: &FrameSpec, bytes: &mut [u8]) {
    let kinds = *pick(rng, &[Layer::Ip4, Layer::Ip6, Layer::Extension]);
    let Some((layer, range)) = draft.find(&[kinds]) else { return };
    let field = range.start
        + match layer {
            Layer::Ip4 => 9,
            Layer::Ip6 => 6,
            _ => 0,
        };
    if let Some(byte) = bytes.get_mut(field) {
        *byte = *pick(rng, &[0, 1, 4, 6, 6, 17, 41, 43, 44, 47, 50, 51, 59, 60, 135, 139, 140, 253]);
    }
}
