//! Fuzz targets in one binary: `MAILFLOW_FUZZ_TARGET` selects one. libFuzzer searches for inputs that reach
//! new code; `cargo xtask fuzz` builds and runs the binary.
#![no_main]

mod agree;
mod answers;
mod budget;
mod captures;
mod configurations;
mod control;
mod faults;
mod frames;
mod lists;
mod logs;
mod pieces;
mod state;
mod targets;

use std::sync::LazyLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

use self::targets::{Target, VARIABLE};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var(VARIABLE).unwrap_or_default();
    let known = || Target::ALL.map(Target::name).join(", ");
    Target::named(&name).unwrap_or_else(|| panic!("{VARIABLE}={name:?}: expected one of {}", known()))
});

fuzz_target!(|data: &[u8]| {
    let run = match *TARGET {
        Target::Frames => frames::run,
        Target::Pcap | Target::Pcapng => captures::run,
        Target::FlowLog => logs::any,
        Target::Eve => logs::eve,
        Target::ZeekJson => logs::zeek_json,
        Target::ZeekTsv => logs::zeek_tsv,
        Target::Csv => lists::csv,
        Target::Lines => lists::lines,
        Target::Netbox => lists::netbox,
        Target::Config => configurations::config,
        Target::Web => configurations::web,
        Target::Journal => state::journal,
        Target::State => state::state,
        Target::Control => control::run,
        Target::Http => answers::run,
    };
    budget::within(*TARGET, run, data);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    match *TARGET {
        Target::Frames => frames::mutate(data, size, max_size, seed),
        _ => fuzzer_mutate(data, size, max_size),
    }
});
