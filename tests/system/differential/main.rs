//! A million frames of many forms, many of them malformed, through the loaded program, compared with the
//! reference parser and counter of `tests/support/src/reference_dataplane`.
//!
//! `MAILFLOW_MUTANTS` sets the number of frames, `MAILFLOW_SEED` their seed.

mailflow_test_support::needs_root!();

#[path = "../../fuzz/src/agree.rs"]
mod agree;
mod compare;
mod histogram;
mod run;
#[path = "../../common/under_test.rs"]
mod under_test;

use std::{sync::Mutex, time::Instant};

use mailflow_test_support::{
    frame_gen::{FrameGenerator, Wanted},
    reference_dataplane::{Link, Shown},
};

use self::{
    histogram::Histogram,
    run::{Epoch, GATEWAYS},
};

/// Total number of frames.
const FRAMES: usize = 1_000_000;
/// Minimum number of occurrences of every reason and every code path among [`FRAMES`] frames.
const OFTEN: usize = 1_000;
/// Default seed.
const SEED: u64 = 20_261_121;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")),
        Err(_) => default,
    }
}

#[test]
fn loaded_program_equals_reference_on_generated_frames() {
    let (seed, frames) = (number("MAILFLOW_SEED", SEED), number("MAILFLOW_MUTANTS", FRAMES as u64) as usize);
    println!("MAILFLOW_SEED={seed} MAILFLOW_MUTANTS={frames}");
    let began = Instant::now();
    let shares: usize = GATEWAYS.iter().map(|gateway| gateway.share).sum();
    let epochs = GATEWAYS.iter().enumerate().flat_map(|(index, gateway)| {
        let (share, seed) = ((frames * gateway.share).div_ceil(shares), seed + index as u64 * 1_000);
        (0..share.div_ceil(run::EPOCH)).map(move |epoch| Epoch {
            gateway,
            seed: seed + epoch as u64,
            frames: (share - epoch * run::EPOCH).min(run::EPOCH),
        })
    });
    let (epochs, histogram) = (Mutex::new(epochs), Mutex::new(Histogram::default()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |threads| threads.get()) {
            scope.spawn(|| {
                loop {
                    let Some(epoch) = epochs.lock().unwrap().next() else { return };
                    let seen = epoch.run();
                    histogram.lock().unwrap().add(&seen);
                }
            });
        }
    });
    let histogram = histogram.into_inner().unwrap();
    println!("{histogram}\nin {:.1} s", began.elapsed().as_secs_f64());
    assert!(histogram.frames >= frames);
    let rare = histogram.rare(OFTEN * frames / FRAMES);
    assert!(rare.is_empty(), "met too rarely: {rare:?}");
}

#[test]
fn parser_equals_reference_on_generated_frames_with_metadata() {
    println!("MAILFLOW_SEED={}", number("MAILFLOW_SEED", SEED));
    // Input that BPF_PROG_TEST_RUN cannot give: tags in metadata, unreadable headers, and frames without a
    // link header whose source address is no ethertype.
    for (ethernet, seed) in [(true, 1), (false, 2)] {
        let wanted = Wanted { ethernet, socket_buffers: true, shortest: 0, longest: 2_000 };
        let mut mutants = FrameGenerator::new(number("MAILFLOW_SEED", SEED) + seed, wanted);
        for index in 0..100_000_usize {
            let mutant = mutants.frame();
            let ethertype = [0x0800, 0x86dd, 0x8864, 0x8847][index % 4];
            let readable =
                if index % 3 == 0 { mutant.bytes.len() } else { mutant.bytes.len().min(index % 200) };
            agree::agree(&Shown {
                bytes: &mutant.bytes[..readable],
                length: mutant.bytes.len(),
                link: if ethernet { Link::Ethernet } else { Link::Ip(ethertype) },
                tag: [None, None, Some(7), Some(0xe000)][index / 4 % 4],
                merged: mutant.merged,
                forwarded: mutant.forwarded,
            });
        }
    }
}
