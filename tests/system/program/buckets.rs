//! Buckets of the flow table: a full table, freed slots, and two CPUs at once.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    sync::Barrier,
};

use mailflow_common::HashKeys;
use mailflow_engine::{
    flow::{EvictOutcome, Flow},
    time::Time,
};
use mailflow_kernel::{ConservationDifference, Kernel, LoadOptions, Programs};
use mailflow_test_support::frame::{FrameBuilder, flag::*};

const PROGRAM: &str = "xdp_mirror";
/// Number of flows: the slots of 2,341 buckets.
const FLOWS: u32 = 16_384;

fn load() -> Kernel {
    let all = crate::under_test::options(Programs::One(PROGRAM));
    let options = LoadOptions { flows: FLOWS, flows_per_source: FLOWS, ..all };
    let mut kernel = crate::under_test::load(&options, &[25]).unwrap();
    kernel.set_now(now()).unwrap();
    kernel
}

fn now() -> Time {
    Time::from_nanos(1_000_000_000)
}

/// Returns a packet of the flow with this number: two of three are IPv6.
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

/// Returns the flows, sorted by key; checks packet conservation.
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

/// Flows of a full bucket are in the fallback map: no flow is lost before the table is full, and evicted
/// flows make space.
#[test]
fn table_stores_its_capacity_again_after_eviction() {
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
        assert!(kernel.evict(first).unwrap().iter().all(|fate| *fate == EvictOutcome::Evicted));
        assert_eq!(flows(&mut kernel).len(), rest.len());
        assert!(kernel.evict(rest).unwrap().iter().all(|fate| *fate == EvictOutcome::Evicted));
        assert_eq!(flows(&mut kernel), []);
    }
}

/// A hash collision costs no record: with keys of zeros all flows have one tag and one bucket. One flow has
/// the slot there; the others are in the fallback map under their full keys, in every order of eviction.
#[test]
fn flows_with_equal_hash_have_separate_records() {
    const COLLIDING: u32 = 2_000;
    let all = crate::under_test::options(Programs::One(PROGRAM));
    let options =
        LoadOptions { flows: FLOWS, flows_per_source: FLOWS, hash_keys: Some(HashKeys::ZERO), ..all };
    let mut kernel = crate::under_test::load(&options, &[25]).unwrap();
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
        // Also if the flow in the bucket is evicted first, and begins again.
        let (first, rest) = seen.split_at(COLLIDING as usize / 2);
        assert!(kernel.evict(first).unwrap().iter().all(|fate| *fate == EvictOutcome::Evicted));
        let left: Vec<_> = flows(&mut kernel).into_iter().map(|flow| flow.key).collect();
        assert_eq!(left, rest.iter().map(|flow| flow.key).collect::<Vec<_>>());
        assert!(kernel.evict(rest).unwrap().iter().all(|fate| *fate == EvictOutcome::Evicted));
        assert_eq!(flows(&mut kernel), []);
    }
}

#[test]
fn concurrent_inserts_of_two_cpus_make_one_flow_each() {
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

/// Calls BPF_PROG_TEST_RUN, from any thread.
fn run(program: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    const PROG_TEST_RUN: i32 = 10;
    let mut attributes = [0_u64; 10];
    attributes[0] = program.as_raw_fd() as u64;
    attributes[1] = frame.len() as u64;
    attributes[2] = frame.as_ptr() as u64;
    attributes[4] = 1;
    // SAFETY: the attributes belong to the command; the frame lives through the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, attributes.as_mut_ptr(), size_of_val(&attributes))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
