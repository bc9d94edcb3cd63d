//! Loading of every entry point.

use std::{collections::BTreeSet, time::Instant};

use anyhow::{Result, ensure};
use mailflow_agent::config::LogLevel;
use mailflow_kernel::{Kernel, KernelVersion, LoadOptions, Programs};

use crate::{
    report::{Report, same},
    under_test,
};

/// Capacity of the flow table.
const FLOWS: u32 = 16_384;
/// Source limit: more than one batch of a poll.
pub(crate) const SHARE: u32 = 10_000;

fn options(programs: Programs) -> LoadOptions {
    let usual = under_test::options(programs);
    LoadOptions { flows: FLOWS, flows_per_source: SHARE, external_clock: false, ..usual }
}

/// Names of all entry points, except those for multi-buffer frames.
const PLAIN: [&str; 13] = [
    "tc_host_in",
    "tc_host_in_ip",
    "tc_host_out",
    "tc_host_out_ip",
    "tc_lan_in",
    "tc_lan_in_ip",
    "tc_lan_out",
    "tc_lan_out_ip",
    "tc_mirror",
    "tc_mirror_ip",
    "xdp_host",
    "xdp_lan",
    "xdp_mirror",
];
const FRAGS: [&str; 3] = ["xdp_host_frags", "xdp_lan_frags", "xdp_mirror_frags"];

/// Loads everything that this kernel accepts, and checks the effects on the process.
pub(crate) fn every_entry_point(report: &mut Report) -> Result<Kernel> {
    let began = Instant::now();
    let kernel = load(&options(Programs::All))?;
    let took = began.elapsed();
    let loaded: BTreeSet<&str> = kernel.programs().collect();
    for program in &loaded {
        report.loaded(program, kernel.verified_instructions(program));
    }
    let frags = report.version >= FRAGS_KNOWN;
    report.check(format!("every entry point is loaded ({:.1} s)", took.as_secs_f64()), || {
        let expected = PLAIN.iter().chain(if frags { &FRAGS[..] } else { &[] });
        let missing: Vec<_> = expected.filter(|name| !loaded.contains(**name)).collect();
        ensure!(missing.is_empty(), "not loaded: {missing:?}");
        Ok(())
    });
    for name in FRAGS.iter().filter(|name| !loaded.contains(**name)) {
        report.absent(*name, "frames in several buffers are known from Linux 5.18");
    }
    report.fact("entry points", if frags { "all" } else { "all but `_frags`" });
    report.fact("frames in several buffers (jumbo, native XDP)", if frags { "yes" } else { "no" });
    report.check("with what it says of packets it cannot count, the largest program loads too", || {
        let programs = Programs::One("tc_mirror");
        load(&LoadOptions { kernel_log: Some(LogLevel::Trace), ..options(programs) }).map(drop)
    });
    let lifted = memory_limit() == libc::RLIM_INFINITY;
    let charged = report.version < KernelVersion(5, 11);
    report.check("the limit on locked memory is lifted where maps are charged to it", || {
        same("lifted", lifted, charged)
    });
    let limit = if lifted { "`RLIMIT_MEMLOCK`, lifted at start" } else { "the control group" };
    report.fact("maps are charged to", limit);
    Ok(kernel)
}

/// Linux 5.18.
const FRAGS_KNOWN: KernelVersion = KernelVersion(5, 18);

fn memory_limit() -> libc::rlim_t {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one struct that lives through the call.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    limit.rlim_cur
}

/// Loads only the mirror's TC program.
pub(crate) fn tc_mirror() -> Result<Kernel> {
    load(&options(Programs::One("tc_mirror")))
}

/// Loads a program for replay, with an external clock.
pub(crate) fn for_replay(program: &'static str) -> Result<Kernel> {
    load(&LoadOptions { external_clock: true, ..options(Programs::One(program)) })
}

fn load(options: &LoadOptions) -> Result<Kernel> {
    Ok(under_test::load(options, &[25, 465, 587])?)
}
