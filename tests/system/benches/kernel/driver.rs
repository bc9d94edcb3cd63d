//! Driver program: sets another client and port in the frame each time, and tail-calls the program under
//! test. One BPF_PROG_TEST_RUN with `repeat` so visits any number of flows. The driver's own cost is measured
//! with an empty program as the target.

use std::{
    io::Result,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use super::sys::{self, Kind, MapKind};

/// Consecutive flows of one client address.
const PORTS: u32 = 32;

/// Order in which runs visit flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Round robin over this number of flows.
    Turn(u32),
    /// Random choice among this number of flows.
    Random(u32),
}

/// Loaded driver program.
pub(crate) struct Driver {
    program: OwnedFd,
    counter: OwnedFd,
    _tail: OwnedFd,
}

impl Driver {
    /// Loads a driver for Ethernet frames with IPv4 and no options that tail-calls `tail`.
    pub(crate) fn new(kind: Kind, order: Order, tail: BorrowedFd<'_>) -> Result<Self> {
        let counter = sys::map(MapKind::Word)?;
        let tails = sys::map(MapKind::Program)?;
        let program = sys::load(kind, &instructions(kind, order, &counter, &tails))?;
        sys::set(&tails, tail.as_raw_fd())?;
        Ok(Self { program, counter, _tail: tails })
    }

    /// Returns the program to run.
    pub(crate) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// Sets the next flow to `flow`.
    pub(crate) fn begin(&self, flow: u64) -> Result<()> {
        sys::set(&self.counter, flow)
    }
}

fn instructions(kind: Kind, order: Order, counter: &OwnedFd, tails: &OwnedFd) -> Vec<u64> {
    /// Offsets of the client address and port in such a frame.
    const CLIENT: i16 = 14 + 12;
    const PORT: i16 = 14 + 20;
    // Offset of `data` in `struct xdp_md` and `struct __sk_buff`; `data_end` follows.
    let data = match kind {
        Kind::Xdp => 0,
        Kind::Tc => 76,
    };
    let mut code = vec![
        op(0xbf, 6, 1, 0, 0),        // r6 = context
        op(0x61, 2, 1, data, 0),     // r2 = data
        op(0x61, 3, 1, data + 4, 0), // r3 = data_end
        op(0xbf, 4, 2, 0, 0),        // r4 = data
        op(0x07, 4, 0, 0, 54),       // r4 += a frame without payload
    ];
    let mut rest = Vec::new();
    rest.extend(map(5, 2, counter)); // r5 = the counter's address
    rest.push(op(0x79, 3, 5, 0, 0)); // r3 = counter
    match order {
        Order::Turn(flows) => rest.extend([
            op(0xbf, 0, 3, 0, 0),            // r0 = r3
            op(0x07, 0, 0, 0, 1),            // r0 += 1
            op(0xa5, 0, 0, 1, flows as i32), // if r0 < flows skip
            op(0xb7, 0, 0, 0, 0),            // r0 = 0
            op(0x7b, 5, 0, 0, 0),            // counter = r0
        ]),
        Order::Random(flows) => {
            // Knuth's linear congruential generator, of which the upper half is used.
            rest.extend(wide(0, 0, 6_364_136_223_846_793_005));
            rest.extend([
                op(0x2f, 3, 0, 0, 0),             // r3 *= r0
                op(0x07, 3, 0, 0, 1_442_695_041), // r3 += an odd number
                op(0x7b, 5, 3, 0, 0),             // counter = r3
                op(0x77, 3, 0, 0, 32),            // r3 >>= 32
                op(0x27, 3, 0, 0, flows as i32),  // r3 *= flows
                op(0x77, 3, 0, 0, 32),            // r3 >>= 32
            ]);
        }
    }
    rest.extend([
        op(0xbf, 4, 3, 0, 0),                             // r4 = flow
        op(0x77, 4, 0, 0, PORTS.trailing_zeros() as i32), // r4 /= ports
        op(0x07, 4, 0, 0, 10 << 24),                      // r4 += 10.0.0.0
        op(0xdc, 4, 0, 0, 32),                            // r4 = be32 r4
        op(0x63, 2, 4, CLIENT, 0),                        // client = r4
        op(0x57, 3, 0, 0, PORTS as i32 - 1),              // r3 %= ports
        op(0x07, 3, 0, 0, 40_000),                        // r3 += 40000
        op(0xdc, 3, 0, 0, 16),                            // r3 = be16 r3
        op(0x6b, 2, 3, PORT, 0),                          // port = r3
        op(0xbf, 1, 6, 0, 0),                             // r1 = context
    ]);
    rest.extend(map(2, 1, tails)); // r2 = tails
    rest.extend([
        op(0xb7, 3, 0, 0, 0),  // r3 = 0
        op(0x85, 0, 0, 0, 12), // tail call
    ]);
    code.push(op(0x2d, 4, 3, rest.len() as i16, 0)); // if r4 > r3 return
    code.extend(rest);
    // Not the verdict of the programs under test: a failed tail call is visible.
    code.extend([op(0xb7, 0, 0, 0, 1), op(0x95, 0, 0, 0, 0)]);
    code
}

/// Loads an empty program, the baseline of the other ones.
pub(crate) fn empty(kind: Kind) -> Result<OwnedFd> {
    sys::load(kind, &[op(0xb7, 0, 0, 0, kind.pass()), op(0x95, 0, 0, 0, 0)])
}

/// Encodes an instruction as in linux/bpf.h.
const fn op(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    code as u64
        | (to as u64) << 8
        | (from as u64) << 12
        | (offset as u16 as u64) << 16
        | (value as u32 as u64) << 32
}

/// Encodes a 64-bit immediate load: two instructions.
const fn wide(to: u8, from: u8, value: u64) -> [u64; 2] {
    [op(0x18, to, from, 0, value as u32 as i32), op(0, 0, 0, 0, (value >> 32) as u32 as i32)]
}

/// Encodes a load of a map (`from` 1) or of the address of its first value (`from` 2).
fn map(to: u8, from: u8, map: &OwnedFd) -> [u64; 2] {
    wide(to, from, map.as_raw_fd() as u64)
}
