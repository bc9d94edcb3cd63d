//! Generator of frames of many forms, many of them malformed. Equal seeds give equal frames.

mod choice;
mod frame_spec;
mod mutate;
mod pools;

use fastrand::Rng;

pub use self::{choice::Wanted, pools::WATCHED};
use self::{choice::pick, frame_spec::FrameSpec, pools::Ends};
use crate::reference_dataplane::Merged;

/// Generated frame, with the kernel's metadata.
#[derive(Clone, Debug)]
pub struct GeneratedFrame {
    /// Milliseconds since the previous frame.
    pub after: u64,
    /// The frame.
    pub bytes: Vec<u8>,
    /// Segmentation metadata of the buffer.
    pub merged: Merged,
    /// The machine forwards the frame.
    pub forwarded: bool,
}

/// Generator of a sequence of frames.
#[derive(Debug)]
pub struct FrameGenerator {
    rng: Rng,
    wanted: Wanted,
    /// Endpoints of the last frame: flows have several frames.
    ends: Ends,
}

impl FrameGenerator {
    /// Creates the sequence of a seed.
    pub fn new(seed: u64, wanted: Wanted) -> Self {
        let mut rng = Rng::with_seed(seed);
        let ends = Ends::any(&mut rng);
        Self { rng, wanted, ends }
    }

    /// Returns the next frame.
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

/// Returns the milliseconds before the next frame: mostly none, sometimes just below or above an idle
/// timeout.
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
