//! `cargo xtask test kernels`: the program on the supported kernels, each booted in QEMU.
//!
//! Debian's kernels are downloaded and unpacked under `target/kernels`; nothing is installed. Each kernel
//! boots without a disk or a network, with [`guest`] as its only process. The guest tests the program and
//! reports on the serial console.

mod apt;
mod boot;
mod emulator;
mod guest;
mod initramfs;
mod kernel;
mod modules;
mod report;
mod series;
mod table;

use std::sync::Mutex;

use anyhow::{Result, bail, ensure};

use self::{
    boot::Booted,
    emulator::Emulator,
    guest::Guest,
    kernel::Kernel,
    report::Report,
    series::{SERIES, Series},
    table::Table,
};
use crate::terminal::say;

/// Guests that run in parallel: each of them uses one CPU.
const AT_ONCE: usize = 2;

/// Boots every available kernel and compares the reports with the documentation.
pub(crate) fn run() -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the guests are x86-64 machines, and their program is built here");
    let emulator = Emulator::get()?;
    let guest = Guest::build()?;
    let mut kernels = Vec::new();
    let mut missing = Vec::new();
    for series in &SERIES {
        match Kernel::get(series) {
            Ok(kernel) => kernels.push((series, kernel)),
            Err(error) => {
                say(format!("{:<7} NOT RUN: {error:#}", series.name));
                missing.push(series);
            }
        }
    }
    let booted = boot_all(&guest, &kernels, &emulator);
    let mut failed = Vec::new();
    let mut table = Table::new();
    for ((series, kernel), booted) in kernels.iter().zip(booted) {
        match booted.and_then(|booted| judge(series, kernel, &booted)) {
            Ok(report) => table.add(series.name, &report),
            Err(error) => {
                say(format!("{:<7} FAILED: {error:#}", series.name));
                failed.push(series.name);
            }
        }
    }
    ensure!(failed.is_empty(), "failed on {}", failed.join(", "));
    println!("{table}");
    table.compare_with_documentation()?;
    if std::env::var_os("CI").is_some() {
        let missing: Vec<_> =
            missing.iter().filter(|series| series.required).map(|series| series.name).collect();
        ensure!(missing.is_empty(), "not run, though CI must: {}", missing.join(", "));
    }
    if kernels.is_empty() {
        bail!("no kernel could be had");
    }
    Ok(())
}

/// Boots the guests, some of them in parallel; the results are in the order of the kernels.
fn boot_all(guest: &Guest, kernels: &[(&Series, Kernel)], emulator: &Emulator) -> Vec<Result<Booted>> {
    let results: Vec<Mutex<Option<Result<Booted>>>> = kernels.iter().map(|_| Mutex::new(None)).collect();
    let next = Mutex::new(0..kernels.len());
    let take = || next.lock().ok()?.next();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(index) = take() {
                    let booted = boot::boot(guest, &kernels[index].1, emulator);
                    if let Ok(mut result) = results[index].lock() {
                        *result = Some(booted);
                    }
                }
            });
        }
    });
    let unwrapped = results.into_iter().map(|result| result.into_inner().ok().flatten());
    unwrapped.map(|result| result.unwrap_or_else(|| bail!("its thread has ended"))).collect()
}

fn judge(series: &Series, kernel: &Kernel, booted: &Booted) -> Result<Report> {
    let report = Report::read(&booted.console);
    say(format!(
        "{:<7} {} ({}): {:.1} s",
        series.name,
        report.release(),
        kernel.version,
        booted.took.as_secs_f64()
    ));
    report.show();
    report.verdict()?;
    Ok(report)
}
