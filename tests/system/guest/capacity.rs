//! Many flows: polled, evicted, and beyond the limit of a source.

use anyhow::Result;
use mailflow_engine::flow::Flow;
use mailflow_kernel::Kernel;
use mailflow_kernel::clock;
use mailflow_test_support::frame::{FrameBuilder, flag::SYN};

use crate::{
    frames::{conserved, take_all},
    load::SHARE,
    report::{Report, same},
};

/// Flows beyond the source limit.
const BEYOND: u32 = 500;

/// Fills the table up to the source limit, reads and evicts the flows, then inserts more than the limit.
pub(crate) fn check(kernel: &mut Kernel, report: &mut Report) {
    report.check(format!("{SHARE} flows of a source are read and taken out, each once"), || {
        take_all(kernel)?;
        begin(kernel, SHARE)?;
        let read = kernel.snapshot(clock::now())?.flows;
        same(
            "ports read",
            sorted_ports(&read),
            (0..SHARE).map(|number| FIRST_PORT + number as u16).collect(),
        )?;
        let taken = take_all(kernel)?;
        same("flows taken out", taken.len(), SHARE as usize)?;
        same("packets taken out", taken.iter().map(|flow| flow.up.packets).sum(), u64::from(SHARE))?;
        same("flows left", kernel.snapshot(clock::now())?.flows.len(), 0)?;
        conserved(kernel)
    });
    report.check("flows beyond a source's share are counted to the source", || {
        begin(kernel, SHARE + BEYOND)?;
        let snapshot = kernel.snapshot(clock::now())?;
        same("flows", snapshot.flows.len(), SHARE as usize)?;
        same(
            "packets of the source",
            snapshot.overflow.iter().map(|spill| spill.up.packets).sum(),
            u64::from(BEYOND),
        )?;
        conserved(kernel)
    });
}

const FIRST_PORT: u16 = 30_000;

/// Sends a SYN for each flow of one source.
fn begin(kernel: &Kernel, flows: u32) -> Result<()> {
    for number in 0..flows as u16 {
        let client = format!("10.20.0.2:{}", FIRST_PORT + number);
        kernel.run("tc_lan_in", &FrameBuilder::tcp(&client, "93.184.215.25:25", SYN).build(), None)?;
    }
    Ok(())
}

fn sorted_ports(flows: &[Flow]) -> Vec<u16> {
    let mut ports: Vec<u16> = flows.iter().map(|flow| flow.key.client_port).collect();
    ports.sort_unstable();
    ports
}
