//! Frames of every shape a network may show, many of them damaged: the same ones for the same seed.

mod choice;
mod frame_spec;
mod mutate;
mod pools;

use fastrand::Rng;

pub use self::{choice::Wanted, pools::WATCHED};
use self::{choice::pick, frame_spec::FrameSpec, pools::Ends};
use crate::reference_dataplane::Merged;

/// A frame, and what the kernel would know beside it.
#[derive(Clone, Debug)]
pub struct GeneratedFrame {
    /// Milliseconds since the one before.
    pub after: u64,
    /// The frame.
    pub bytes: Vec<u8>,
    /// Segmentation facts.
    pub merged: Merged,
    /// Whether the machine received it before it sends it.
    pub forwarded: bool,
}

/// Makes frames, one after the other.
#[derive(Debug)]
pub struct FrameGenerator {
    rng: Rng,
    wanted: Wanted,
    /// Of the last frame: flows are made of several.
    ends: Ends,
}

impl FrameGenerator {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64, wanted: Wanted) -> Self {
        let mut rng = Rng::with_seed(seed);
        let ends = Ends::any(&mut rng);
        Self { rng, wanted, ends }
    }

    /// The next frame.
    pub fn frame(&mut self) -> GeneratedFrame {
        let rng = &mut self.rng;
        if rng.u8(..100) < 40 {
            self.ends = Ends::any(rng);
        } else if rng.bool() {
            self.ends = self.ends.reversed();
        }
        let draft = FrameSpec::any(rng, &self.ends, &self.wanted);
        let mut bytes = if rng.u8(..100) < 35 { mutate::some(rng, &draft) } else { draft.bytes() };
        bytes.truncate(self.wanted.longest);
        if bytes.len() < self.wanted.shortest {
            bytes.resize(self.wanted.shortest, 0);
        }
        let mut merged = Merged::default();
        if self.wanted.socket_buffers && rng.u8(..100) < 25 {
            merged.size = *pick(rng, &[1, 100, 500, 1448, 65_535]);
            merged.segments = *pick(rng, &[0, 0, 1, 2, 3, 45]);
        }
        let forwarded = self.wanted.socket_buffers && rng.u8(..100) < 20;
        GeneratedFrame { after: pause(rng), bytes, merged, forwarded }
    }
}

/// Mostly none; now and then the silences after which a tuple's next packet begins a new flow, or
/// almost.
fn pause(rng: &mut Rng) -> u64 {
    match rng.u32(..10_000) {
        0..7_000 => 0,
        7_000..9_960 => rng.u64(1..20),
        9_960..9_984 => rng.u64(100..1_500),
        9_984..9_992 => rng.u64(4_999..=5_001),
        9_992..9_996 => rng.u64(29_999..=30_001),
        9_996..9_999 => rng.u64(299_999..=300_001),
        _ => rng.u64(300_000..400_000),
    }
}
