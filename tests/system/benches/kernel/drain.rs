//! Poll of the flow table: the reader's CPU time, alone and while another CPU counts packets.

use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use mailflow_kernel::{FlowBatch, Kernel};

use super::{
    cases::{self, Fill},
    driver::{Driver, Order},
    line,
    measure::{NOW, tenth_percentile},
    sys::{self, Kind},
};

/// Polls of each kind.
const READINGS: usize = 11;

/// Measures polls of the table of `kernel`, which has `fill` flows.
pub(crate) fn measure(kernel: &mut Kernel, fill: Fill) -> anyhow::Result<()> {
    let flows = fill as u32;
    let bar = (fill == Fill::Many).then_some(0.35);
    let quiet = readings(kernel, flows)?;
    let busy = while_counting(kernel, flows)?;
    for (name, seconds) in [("nothing counted", quiet), ("while counting", busy)] {
        line(&format!("drain {flows} flows, {name}"), "CPU s", seconds, bar);
    }
    Ok(())
}

fn readings(kernel: &mut Kernel, flows: u32) -> anyhow::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..READINGS {
        let began = sys::thread_time();
        let read = count(kernel)?;
        times.push((sys::thread_time() - began) / 1e9);
        anyhow::ensure!(read == flows as usize, "{read} flows were read, not {flows}");
    }
    Ok(tenth_percentile(&times))
}

/// Reads the flow table, and returns the number of its flows.
fn count(kernel: &mut Kernel) -> anyhow::Result<usize> {
    let (mut scan, mut flows) = (kernel.scan(NOW)?, 0);
    while let Some(batch) = scan.next_batch()? {
        match batch {
            FlowBatch::Active(batch) => flows += batch.len(),
            FlowBatch::Superseded(pending) => drop(scan.delete_superseded(pending)?),
            FlowBatch::Overflow(pending) => drop(scan.delete_idle_sources(pending)?),
        }
    }
    Ok(flows)
}

fn while_counting(kernel: &mut Kernel, flows: u32) -> anyhow::Result<f64> {
    let driver = Driver::new(Kind::Xdp, Order::Random(flows), kernel.descriptor(cases::FILLER)?.as_fd())?;
    let (driver, over) = (&driver, &AtomicBool::new(false));
    thread::scope(|scope| {
        let counting = scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                sys::run(driver.program(), Kind::Xdp, &cases::known(), 100_000)?;
            }
            Ok::<_, std::io::Error>(())
        });
        let read = readings(kernel, flows);
        over.store(true, Ordering::Relaxed);
        match counting.join() {
            Ok(counted) => counted?,
            Err(_) => anyhow::bail!("the counting thread panicked"),
        }
        read
    })
}

/// Prints the memory that the kernel charges for the flow table, per flow of its capacity, by
/// /proc/self/fdinfo.
pub(crate) fn memory(fill: Fill) -> anyhow::Result<()> {
    let capacity = fill.capacity();
    let (mut sets, mut beside) = (None, None);
    for entry in std::fs::read_dir("/proc/self/fdinfo")? {
        // The descriptor of the directory listing itself is closed by now.
        let Ok(text) = std::fs::read_to_string(entry?.path()) else { continue };
        let field = |name: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        };
        // The buckets have as many slots as the capacity. The fallback map has 19 % of that.
        let ways = field("max_entries:").unwrap_or(0) * mailflow_common::BUCKET_SLOTS as u64;
        if field("value_size:") == Some(size_of::<mailflow_common::Bucket>() as u64)
            && ways.abs_diff(u64::from(capacity)) < mailflow_common::BUCKET_SLOTS as u64
        {
            sets = field("memlock:");
        }
        if field("key_size:") == Some(size_of::<mailflow_common::FlowKey>() as u64)
            && field("value_size:") == Some(size_of::<mailflow_common::FlowCounters>() as u64)
            && field("max_entries:") == Some(u64::from(capacity) * 19 / 100)
        {
            beside = field("memlock:");
        }
    }
    let (Some(sets), Some(beside)) = (sets, beside) else {
        anyhow::bail!("no tables of {capacity} flows in /proc/self/fdinfo")
    };
    let name = format!("kernel table of {capacity} flows");
    line(&name, "B/flow", (sets + beside) as f64 / f64::from(capacity), Some(230.0));
    Ok(())
}
