//! Mirror port: both directions at one interface, and the detection of duplicated packets.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use mailflow_test_support::frame::{FrameBuilder, flag::*};
use mailflow_test_support::lab::{Agent, Lab, LabOptions};

use super::watched::{metric, start, wait_for_metric};

/// Connections per test: enough for the duplicate detector.
const CONNECTIONS: u16 = 15;

#[test]
fn duplicated_mirror_packets_are_detected() {
    for (times, twice) in [(1, 0), (2, 1)] {
        let lab = Lab::new(&LabOptions::default()).unwrap();
        let mut agent = start(&lab, "--interface lan0 --role mirror");
        let frames: Vec<Vec<u8>> = (0..CONNECTIONS).flat_map(handshake).collect();
        send(&lab, frames.iter().flat_map(|frame| std::iter::repeat_n(frame, times))).unwrap();
        let sent = u64::from(CONNECTIONS) * times as u64;
        for packet in ["syn", "syn_ack"] {
            wait_for_metric(
                &agent,
                &format!("mailflow_handshake_packets_total{{packet=\"{packet}\"}}"),
                sent,
            );
        }
        wait_for_metric(&agent, "mailflow_duplicate_delivery", twice);
        let copies = copies(&agent);
        // A copy that arrives after a clock tick, on a busy machine, is not recognised as one.
        assert!(copies <= sent * 2 * twice / 2 && copies >= sent * 2 * twice * 2 / 5, "{copies} of {sent}");
        assert_eq!(agent.log().matches("delivered twice").count() as u64, twice, "{}", agent.log());
        assert!(agent.stop().unwrap().success());
    }
}

fn copies(agent: &Agent) -> u64 {
    let of = |packet| format!("mailflow_handshake_copies_total{{packet=\"{packet}\"}}");
    ["syn", "syn_ack"].iter().map(|packet| metric(agent, &of(packet)).unwrap()).sum()
}

/// Returns a connection's first packets, as a mirror shows them.
fn handshake(number: u16) -> [Vec<u8>; 3] {
    let (client, server) = (format!("10.20.0.2:{}", 20_000 + number), "93.184.215.25:25");
    [
        FrameBuilder::tcp(&client, server, SYN).sequence(7).build(),
        FrameBuilder::tcp(server, &client, SYN | ACK).sequence(9).build(),
        FrameBuilder::tcp(&client, server, ACK).sequence(8).build(),
    ]
}

/// Sends frames to `lan0`.
fn send<'a>(lab: &Lab, frames: impl Iterator<Item = &'a Vec<u8>> + Send) -> io::Result<()> {
    lab.client
        .enter(|| {
            // SAFETY: socket(2) takes three integers and returns a descriptor that the caller owns.
            let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
            if socket < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: as above.
            let socket = unsafe { OwnedFd::from_raw_fd(socket) };
            // SAFETY: all zeros are a valid value of the struct.
            let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            to.sll_family = libc::AF_PACKET as u16;
            // SAFETY: the string lives through the call.
            to.sll_ifindex = unsafe { libc::if_nametoindex(c"eth0".as_ptr()) } as i32;
            for frame in frames {
                // SAFETY: the frame and the address live through the call.
                let sent = unsafe {
                    libc::sendto(
                        socket.as_raw_fd(),
                        frame.as_ptr().cast(),
                        frame.len(),
                        0,
                        (&raw const to).cast(),
                        size_of_val(&to) as u32,
                    )
                };
                if sent < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        })
        .unwrap()
}
