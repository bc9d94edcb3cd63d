//! Limits of the frames, and random choices.

use fastrand::Rng;

/// Options of the generated frames.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Frames begin with an Ethernet header.
    pub ethernet: bool,
    /// Buffers may stand for several packets, and be forwarded.
    pub socket_buffers: bool,
    /// Minimum frame length.
    pub shortest: usize,
    /// Maximum frame length.
    pub longest: usize,
}

/// Returns one of several values, each with equal probability.
pub(super) fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(..from.len())]
}
