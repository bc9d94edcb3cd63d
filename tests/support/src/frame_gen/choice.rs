//! Limits of the frames, and choices by chance.

use fastrand::Rng;

/// What the frames are for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Whether frames begin with an Ethernet header.
    pub ethernet: bool,
    /// Whether buffers may stand for several packets, and be forwarded.
    pub socket_buffers: bool,
    /// Shortest frame.
    pub shortest: usize,
    /// Longest frame.
    pub longest: usize,
}

/// Returns one of several, each as likely as the others.
pub(super) fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(..from.len())]
}
