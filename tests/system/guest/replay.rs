//! Load for replay: one program, and an external clock.

use anyhow::Result;
use mailflow_agent::config::Role;
use mailflow_engine::time::Time;
use mailflow_kernel::{Kernel, replay_program};
use mailflow_test_support::frame::{FrameBuilder, flag::ACK};

use crate::{
    load,
    report::{Report, same},
};

/// Replays a flow with a pause longer than the idle timeout, which makes two flows.
pub(crate) fn check(report: &mut Report) {
    report.check("replay: the clock is the capture's", || {
        let program = replay_program(Role::Mirror)?;
        let mut kernel = load::for_replay(program)?;
        let frame = FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:25", ACK).build();
        show(&mut kernel, program, &frame, 1000)?;
        show(&mut kernel, program, &frame, 1299)?;
        show(&mut kernel, program, &frame, 1600)?;
        let snapshot = kernel.snapshot(at(1600))?;
        same("finished flows", snapshot.superseded.len(), 1)?;
        let finished = &snapshot.superseded[0].flow;
        same(
            "packets of the first",
            (finished.up.packets, finished.first, finished.last()),
            (2, at(1000), at(1299)),
        )?;
        let living: Vec<_> = snapshot.flows.iter().map(|flow| (flow.up.packets, flow.first)).collect();
        same("packets of the second", living, vec![(1, at(1600))])
    });
}

fn show(kernel: &mut Kernel, program: &str, frame: &[u8], seconds: u64) -> Result<()> {
    kernel.set_now(at(seconds))?;
    kernel.run(program, frame, None)?;
    Ok(())
}

fn at(seconds: u64) -> Time {
    Time::from_nanos(seconds * 1_000_000_000)
}
