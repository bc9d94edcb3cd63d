//! The flow table's sets: a table that is full, ways that are freed, and two CPUs at once.

mod under_test;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    sync::Barrier,
};

use mailflow_common::HashKeys;
use mailflow_engine::{
    flow::{Fate, Flow},
    time::Time,
};
use mailflow_kernel::{ConservationDifference, Kernel, LoadOptions, Programs};
use mailflow_tests::frame::{FrameBuilder, flag::*};

const PROGRAM: &str = "xdp_mirror";
/// As many flows as there are ways in 2,341 sets.
const FLOWS: u32 = 16_384;

fn load() -> Kernel {
    let all = under_test::options(Programs::One(PROGRAM));
    let options = LoadOptions { flows: FLOWS, flows_per_source: FLOWS, ..all };
    let mut kernel = under_test::load(&options, &[25]).unwrap();
    kernel.set_now(now()).unwrap();
    kernel
}

fn now() -> Time {
    Time::from_nanos(1_000_000_000)
}

/// A packet of the flow with this number: two of three are of IPv6.
fn packet(number: u32, flags: u8) -> FrameBuilder {
    match number % 3 {
        0 => {
            let client = Ipv4Addr::from(0x0a14_0000 | number >> 6);
            FrameBuilder::tcp(&format!("{client}:{}", 40_000 + number % 64), "93.184.215.25:25", flags)
        }
        _ => {
            let client = Ipv6Addr::from(0xfd20 << 112 | u128::from(number >> 6) << 64 | 7);
            FrameBuilder::tcp(&format!("[{client}]:{}", 40_000 + number % 64), "[2a00:1450::25]:25", flags)
        }
    }
}

/// The flows, in the order of their keys; every packet of the table is held somewhere.
fn flows(kernel: &mut Kernel) -> Vec<Flow> {
    let snapshot = kernel.snapshot(now()).unwrap();
    assert_eq!((snapshot.superseded, snapshot.overflow), (vec![], vec![]));
    let totals = kernel.totals().unwrap();
    assert_eq!(kernel.packet_audit().difference(&totals, &totals), ConservationDifference::default());
    assert_eq!((totals.unattributed_up.packets, totals.reasons), (0, [0; 16]));
    let mut flows = snapshot.flows;
    flows.sort_unstable_by_key(|flow| (flow.key.client, flow.key.client_port));
    flows
}

/// Those for which their set has no way lie beside it: nothing is lost before the table is full, and what was taken
/// out makes room where it was.
#[test]
fn a_table_holds_as_many_flows_as_it_says_and_again_when_they_were_taken_out() {
    let mut kernel = load();
    for turn in 0..3_u32 {
        for flags in [SYN, ACK] {
            for number in 0..FLOWS {
                kernel.run(PROGRAM, &packet(number + turn * 100, flags).build(), None).unwrap();
            }
        }
        let seen = flows(&mut kernel);
        assert_eq!(seen.len(), FLOWS as usize);
        assert!(seen.iter().all(|flow| (flow.up.packets, flow.facts.syn) == (2, 1)));
        let (first, rest) = seen.split_at(5_000);
        assert!(kernel.evict(first).unwrap().iter().all(|fate| *fate == Fate::Removed));
        assert_eq!(flows(&mut kernel).len(), rest.len());
        assert!(kernel.evict(rest).unwrap().iter().all(|fate| *fate == Fate::Removed));
        assert_eq!(flows(&mut kernel), []);
    }
}

/// A collision costs no record: with keys of zeros all flows have one tag and one set. One of them has a way there, the
/// others are in the fallback map under their whole keys, whatever is taken out first.
#[test]
fn flows_that_share_a_hash_have_a_record_each() {
    const COLLIDING: u32 = 2_000;
    let all = under_test::options(Programs::One(PROGRAM));
    let options =
        LoadOptions { flows: FLOWS, flows_per_source: FLOWS, hash_keys: Some(HashKeys::ZERO), ..all };
    let mut kernel = under_test::load(&options, &[25]).unwrap();
    kernel.set_now(now()).unwrap();
    for turn in 0..2 {
        for flags in [SYN, ACK, ACK | PSH] {
            for number in 0..COLLIDING {
                let frame = packet(number, flags).payload(vec![b'x'; if flags == SYN { 0 } else { 10 }]);
                kernel.run(PROGRAM, &frame.build(), None).unwrap();
            }
        }
        let seen = flows(&mut kernel);
        assert_eq!(seen.len(), COLLIDING as usize, "turn {turn}");
        let other = seen.iter().find(|flow| (flow.up.packets, flow.up.payload, flow.facts.syn) != (3, 20, 1));
        assert_eq!(other, None);
        // Also where the flow with the way in the set goes first, and comes back.
        let (first, rest) = seen.split_at(COLLIDING as usize / 2);
        assert!(kernel.evict(first).unwrap().iter().all(|fate| *fate == Fate::Removed));
        let left: Vec<_> = flows(&mut kernel).into_iter().map(|flow| flow.key).collect();
        assert_eq!(left, rest.iter().map(|flow| flow.key).collect::<Vec<_>>());
        assert!(kernel.evict(rest).unwrap().iter().all(|fate| *fate == Fate::Removed));
        assert_eq!(flows(&mut kernel), []);
    }
}

#[test]
fn two_cpus_that_meet_the_same_new_flows_at_once_make_one_of_each() {
    const TURNS: u32 = 12_000;
    let mut kernel = load();
    let program = kernel.descriptor(PROGRAM).unwrap();
    let frames: Vec<_> = (0..TURNS).map(|number| packet(number, SYN).build()).collect();
    let together = Barrier::new(2);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for frames in frames.chunks(16) {
                    together.wait();
                    frames.iter().for_each(|frame| run(&program, frame).unwrap());
                }
            });
        }
    });
    let seen = flows(&mut kernel);
    assert_eq!(seen.len(), TURNS as usize);
    let other: Vec<_> = seen.iter().filter(|flow| flow.up.packets != 2 || flow.facts.syn != 1).collect();
    assert!(other.is_empty(), "{other:?}");
    let totals = kernel.totals().unwrap();
    assert_eq!((totals.shown(), totals.up.packets), (2 * u64::from(TURNS), 2 * u64::from(TURNS)));
}

/// BPF_PROG_TEST_RUN, from any thread.
fn run(program: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    const PROG_TEST_RUN: i32 = 10;
    let mut attributes = [0_u64; 10];
    attributes[0] = program.as_raw_fd() as u64;
    attributes[1] = frame.len() as u64;
    attributes[2] = frame.as_ptr() as u64;
    attributes[4] = 1;
    // SAFETY: the attributes are the command's; the frame is alive through the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, attributes.as_mut_ptr(), size_of_val(&attributes))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
