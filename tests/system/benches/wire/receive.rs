//! Overhead of the counter on the path of a packet that is no mail, from the driver to a socket.
//!
//! The length of the path is the time of packets that pass an empty program minus the time of packets that a
//! program drops. A native XDP program changes the path, whatever it does. So the counter is compared with an
//! empty program at XDP, and with no program at TC. The overhead of an empty program is printed too: at TC it
//! is the cost of the hook, at XDP the noise of the measurement.

use anyhow::Result;
use mailflow_agent::config::{Hook, Role};
use mailflow_kernel::{Kernel, Programs};
use mailflow_test_support::{
    frame::{FrameBuilder, flag::ACK},
    lab::{Attached, Bystander, Lab, LabOptions, Slot, Verdict},
    wire::Wire,
};

use crate::{HOOKS, cpu, line, under_test};

pub(crate) const NAME: &str = "wire: receive path";
const ROUNDS: usize = 80;
/// Frames of one measurement.
const FRAMES: usize = 16_384;
/// CPU that sends and receives.
const CPU: usize = 0;

/// Program at the hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Nothing,
    Empty,
    Drop,
    Counter,
}

pub(crate) fn measure() -> Result<()> {
    cpu::pin(CPU)?;
    let lab = Lab::new(&LabOptions::default())?;
    lab.gateway.ip("link set lan0 address 02:00:00:00:00:02")?;
    // The socket is never read: the kernel drops what exceeds its buffer, at the end of the path.
    let _socket = lab.gateway.enter(|| std::net::UdpSocket::bind("10.20.0.1:9"))??;
    let wire = Wire::open(&lab.client, "eth0")?;
    let frames = vec![frame(); FRAMES];
    let mut kernel = under_test::load(&under_test::options(Programs::All), &[25, 465, 587, 994])?;
    for (name, hook) in HOOKS {
        let base = if hook == Hook::Xdp { Standing::Empty } else { Standing::Nothing };
        let standings = [base, Standing::Drop, Standing::Counter, Standing::Empty];
        let mut times = [const { Vec::new() }; 4];
        for round in 0..ROUNDS {
            for place in 0..standings.len() {
                // Each program has each position equally often.
                let index = (place + round) % standings.len();
                let there = stand(&lab, &mut kernel, standings[index], hook)?;
                wire.send(&frames[..FRAMES / 8])?;
                let before = cpu::thread() + cpu::put_off(CPU);
                wire.send(&frames)?;
                times[index].push((cpu::thread() + cpu::put_off(CPU) - before) / FRAMES as f64);
                drop(there);
                lab.gateway.enter(|| kernel.detach())?;
            }
        }
        let [base, dropped, counted, empty] = times.map(tenth_percentile);
        let way = base - dropped;
        let bar = if hook == Hook::Xdp { 2.0 } else { 6.0 };
        line(&format!("{NAME} alone, {name}"), "ns", way, None);
        line(&format!("{NAME}, an empty program adds, {name}"), "ns", empty - base, None);
        line(&format!("{NAME}, the counter adds, {name}"), "ns", counted - base, None);
        line(&format!("{NAME}, added of it, {name}"), "%", (counted - base) / way * 100.0, Some(bar));
    }
    Ok(())
}

fn stand(lab: &Lab, kernel: &mut Kernel, standing: Standing, hook: Hook) -> Result<Option<Attached>> {
    let bystander = |verdict, slot| -> Result<Option<Attached>> {
        Ok(Some(Bystander::load("bystander", verdict)?.attach(&lab.gateway, "lan0", slot)?))
    };
    match (standing, hook) {
        (Standing::Nothing, _) => Ok(None),
        (Standing::Empty, Hook::Xdp) => bystander(Verdict::XdpPass, Slot::NativeXdp),
        (Standing::Empty, _) => bystander(Verdict::TcNext, Slot::TcxIngressFirst),
        (Standing::Drop, Hook::Xdp) => bystander(Verdict::XdpDrop, Slot::NativeXdp),
        (Standing::Drop, _) => bystander(Verdict::TcDrop, Slot::TcxIngressFirst),
        (Standing::Counter, _) => {
            lab.gateway.enter(|| kernel.attach("lan0", Role::Lan, hook))??;
            Ok(None)
        }
    }
}

/// Builds a datagram that the gateway's own stack accepts.
fn frame() -> Vec<u8> {
    const HEADER: std::ops::Range<usize> = 14..34;
    let mut frame = FrameBuilder::tcp("10.20.0.2:40000", "10.20.0.1:9", ACK).udp().payload("no mail").build();
    // RFC 1071: ones' complement of the sum; the checksum field of the frame is zero.
    let words = frame[HEADER].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// Returns the tenth percentile: other processes only ever add time.
fn tenth_percentile(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 10]
}
