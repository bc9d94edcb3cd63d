//! Burst of mail packets from two CPUs while the table is read: no packet may be missing.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use mailflow_agent::config::Role;
use mailflow_kernel::clock;
use mailflow_kernel::{Kernel, LoadOptions, Programs};
use mailflow_test_support::{
    frame::{FrameBuilder, flag::*},
    lab::{Lab, LabOptions},
    wire::Wire,
};

use crate::{HOOKS, cpu, line, under_test};

pub(crate) const NAME: &str = "wire: burst";
const FLOWS: u32 = 200_000;
/// Packets of a flow: SYN, SYN-ACK, and one payload packet each way.
const EACH: usize = 4;
const SERVER: &str = "93.184.215.25:25";

pub(crate) fn measure() -> Result<()> {
    let traffic = [0, 1].map(|half| frames(half * FLOWS / 2..(half + 1) * FLOWS / 2));
    for (name, hook) in HOOKS {
        let lab = Lab::new(&LabOptions::default())?;
        let usual = under_test::options(Programs::All);
        let options =
            LoadOptions { flows: 262_144, flows_per_source: 262_144, external_clock: false, ..usual };
        let mut kernel = under_test::load(&options, &[25])?;
        lab.gateway.enter(|| kernel.attach("lan0", Role::Mirror, hook))??;
        let over = AtomicBool::new(false);
        let began = Instant::now();
        let rate = thread::scope(|scope| -> Result<f64> {
            let senders = [0, 1].map(|half: usize| {
                let (lab, frames) = (&lab, &traffic[half]);
                scope.spawn(move || -> Result<()> {
                    cpu::pin(half)?;
                    Wire::open(&lab.client, "eth0")?.send(frames)
                })
            });
            let reader = scope.spawn(|| -> Result<()> {
                while !over.load(Ordering::Relaxed) {
                    kernel.snapshot(clock::now())?;
                    thread::sleep(Duration::from_millis(100));
                }
                Ok(())
            });
            let mut sent = Ok(());
            for sender in senders {
                sent = sent.and(sender.join().unwrap_or_else(|_| anyhow::bail!("a sender panicked")));
            }
            let took = began.elapsed().as_secs_f64();
            over.store(true, Ordering::Relaxed);
            reader.join().unwrap_or_else(|_| anyhow::bail!("the reader panicked"))?;
            sent?;
            Ok(f64::from(FLOWS) * EACH as f64 / took)
        })?;
        let counted = settled(&mut kernel)?;
        line(&format!("{NAME} of {} packets, {name}", FLOWS as usize * EACH), "packets/s", rate, None);
        let lost = FLOWS as usize as f64 * EACH as f64 - counted as f64;
        line(&format!("{NAME} in {FLOWS} flows, lost, {name}"), "packets", lost, Some(0.0));
    }
    Ok(())
}

/// Returns the packets of all flows, once the number stays the same.
fn settled(kernel: &mut Kernel) -> Result<u64> {
    let mut before = None;
    for _ in 0..50 {
        let flows = kernel.snapshot(clock::now())?.flows;
        let packets = flows.iter().map(|flow| flow.up.packets + flow.down.packets).sum();
        if before == Some(packets) {
            ensure!(flows.len() <= FLOWS as usize, "{} flows of {FLOWS}", flows.len());
            return Ok(packets);
        }
        before = Some(packets);
        thread::sleep(Duration::from_millis(200));
    }
    anyhow::bail!("packets come without end")
}

fn frames(flows: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    let mut frames = Vec::with_capacity(flows.len() * EACH);
    for flow in flows {
        let client = format!("{}:{}", std::net::Ipv4Addr::from(0x0a14_0100 + flow / 32), 40_000 + flow % 32);
        let up = |flags| FrameBuilder::tcp(&client, SERVER, flags);
        let down = |flags| FrameBuilder::tcp(SERVER, &client, flags);
        frames.push(up(SYN).build());
        frames.push(down(SYN | ACK).build());
        frames.push(down(ACK | PSH).payload("220 mx.example ESMTP\r\n").build());
        frames.push(up(ACK | PSH).payload("EHLO client.example\r\n").build());
    }
    frames
}
