//! Frames: the product's parser compared with the reference parser.

use libfuzzer_sys::fuzzer_mutate;
use mailflow_test_support::{
    frame_gen::{FrameGenerator, Wanted},
    reference_dataplane::{Link, Merged, Shown},
};

use crate::agree;

/// Bytes before the frame: link type, readable length, and the kernel's metadata.
const HEAD: usize = 8;

/// Parses a frame with both parsers.
pub(crate) fn run(data: &[u8]) {
    let Some((head, frame)) = data.split_at_checked(HEAD) else { return };
    let word = |index: usize| u16::from_be_bytes([head[index], head[index + 1]]);
    let readable = match head[1] {
        0..128 => frame.len(),
        less => frame.len().min(usize::from(less - 128) * 4),
    };
    agree::agree(&Shown {
        bytes: &frame[..readable],
        length: frame.len(),
        link: match head[0] & 3 {
            0 => Link::Ip(0x0800),
            1 => Link::Ip(0x86dd),
            _ => Link::Ethernet,
        },
        tag: (head[0] & 4 != 0).then(|| word(2)),
        merged: Merged { size: u32::from(word(4)), segments: u32::from(word(6)) },
        forwarded: false,
    });
}

/// Mutates an input. One in four is a new frame: layers that fit together are rarely found by chance.
pub(crate) fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    if seed % 4 != 0 || max_size <= HEAD + 14 {
        return fuzzer_mutate(data, size, max_size);
    }
    let longest = (max_size - HEAD).min(data.len().saturating_sub(HEAD));
    let wanted = Wanted { ethernet: seed % 8 == 0, socket_buffers: true, shortest: 0, longest };
    let frame = FrameGenerator::new(u64::from(seed), wanted).frame().bytes;
    let head = fastrand::Rng::with_seed(u64::from(seed)).u64(..).to_be_bytes();
    let kind = match (wanted.ethernet, frame.first()) {
        (true, _) => 2,
        (false, Some(0x60..=0x6f)) => 1,
        (false, _) => 0,
    };
    data[..HEAD].copy_from_slice(&head);
    data[0] = head[0] & 0xfc | kind;
    data[HEAD..HEAD + frame.len()].copy_from_slice(&frame);
    HEAD + frame.len()
}
