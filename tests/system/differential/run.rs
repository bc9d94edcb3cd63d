//! Frames through the loaded program and through the model.
//!
//! BPF_PROG_TEST_RUN accepts no frame under 14 bytes. At TC it accepts none that is shorter than the IP
//! header of its ethertype, and none above some 3.5 kB. Neither tags nor the length of a frame can be set.

use std::time::Duration;

use mailflow_engine::settings::Timeouts;
use mailflow_engine::time::Time;
use mailflow_kernel::{Kernel, LoadOptions, Programs};
use mailflow_test_support::{
    frame_gen::{FrameGenerator, GeneratedFrame, WATCHED, Wanted},
    reference_dataplane::{
        Hook, Link, Merged, Model, Shown,
        Toward::{self, Both, Client, Server},
        Whose::{self, Any, Made, Received},
    },
};

use crate::{compare, histogram::Histogram, under_test};

/// Frames per load of the program: few enough that no entry of the fragment map is evicted.
pub(crate) const EPOCH: usize = 20_000;
/// Frames between two comparisons.
const BATCH: usize = 2_000;
/// Capacity for all flows of an epoch: the suite `overflow` tests full tables.
const FLOWS: u32 = 32_768;
/// Idle timeouts: closed, unanswered, other, in milliseconds.
const SILENCES: [u64; 3] = [5_000, 30_000, 300_000];

/// Hooks that share their maps.
pub(crate) struct Gateway {
    /// Weight among all frames.
    pub(crate) share: usize,
    /// The gateway's `host` hooks count only what the machine itself sends.
    local_only: bool,
    hooks: &'static [Entry],
}

struct Entry {
    program: &'static str,
    name: &'static str,
    hook: Hook,
}

const fn entry(program: &'static str, name: &'static str, toward: Toward, whose: Whose) -> Entry {
    Entry { program, name, hook: Hook { toward, whose } }
}

impl Entry {
    /// Returns true if the program has a socket buffer: the frame's bytes and metadata.
    fn socket_buffer(&self) -> bool {
        matches!(self.name, TC | IP)
    }

    /// Returns what the program sees of a frame.
    fn shown<'a>(&self, mutant: &'a GeneratedFrame) -> Shown<'a> {
        Shown {
            bytes: &mutant.bytes,
            length: mutant.bytes.len(),
            link: match self.name {
                // The bytes that the kernel takes for the ethertype of a frame without a link header.
                IP => Link::Ip(u16::from_be_bytes([mutant.bytes[12], mutant.bytes[13]])),
                _ => Link::Ethernet,
            },
            tag: None,
            merged: if self.socket_buffer() { mutant.merged } else { Merged::default() },
            forwarded: self.socket_buffer() && mutant.forwarded,
        }
    }
}

const XDP: &str = "xdp";
const FRAGS: &str = "xdp in several buffers";
const TC: &str = "tc";
const IP: &str = "tc without ethernet";

/// Every entry point, with those that share an interface with it.
pub(crate) const GATEWAYS: [Gateway; 10] = [
    Gateway { share: 20, local_only: false, hooks: &[entry("xdp_mirror", XDP, Both, Any)] },
    Gateway { share: 15, local_only: false, hooks: &[entry("xdp_mirror_frags", FRAGS, Both, Any)] },
    Gateway { share: 20, local_only: false, hooks: &[entry("tc_mirror", TC, Both, Any)] },
    Gateway { share: 10, local_only: false, hooks: &[entry("tc_mirror_ip", IP, Both, Any)] },
    Gateway {
        share: 7,
        local_only: false,
        hooks: &[entry("xdp_lan", XDP, Server, Any), entry("tc_lan_out", TC, Client, Any)],
    },
    Gateway {
        share: 6,
        local_only: false,
        hooks: &[entry("tc_lan_in", TC, Server, Any), entry("tc_lan_out", TC, Client, Any)],
    },
    Gateway {
        share: 6,
        local_only: false,
        hooks: &[entry("tc_lan_in_ip", IP, Server, Any), entry("tc_lan_out_ip", IP, Client, Any)],
    },
    Gateway {
        share: 6,
        local_only: false,
        hooks: &[entry("xdp_host_frags", FRAGS, Client, Any), entry("xdp_lan_frags", FRAGS, Server, Any)],
    },
    Gateway {
        share: 6,
        local_only: true,
        hooks: &[entry("tc_host_in", TC, Client, Received), entry("tc_host_out", TC, Server, Made)],
    },
    Gateway {
        share: 4,
        local_only: true,
        hooks: &[entry("tc_host_in_ip", IP, Client, Received), entry("tc_host_out_ip", IP, Server, Made)],
    },
];

impl Gateway {
    fn wanted(&self) -> Wanted {
        let name = self.hooks[0].name;
        Wanted {
            ethernet: name != IP,
            socket_buffers: name == TC || name == IP,
            shortest: 14,
            longest: if name == FRAGS { 9_000 } else { 3_400 },
        }
    }
}

/// One load of the program, and its frames.
pub(crate) struct Epoch {
    pub(crate) gateway: &'static Gateway,
    pub(crate) seed: u64,
    pub(crate) frames: usize,
}

impl Epoch {
    /// Runs the frames.
    ///
    /// # Panics
    /// Program and model differ; the message has the first frame after which they do.
    pub(crate) fn run(&self) -> Histogram {
        let mut sides = Sides::new(self);
        while sides.frames < self.frames {
            let before = sides.frames;
            for _ in 0..BATCH.min(self.frames - before) {
                sides.frame();
            }
            if sides.difference().is_some() {
                self.find(before);
            }
        }
        sides.histogram
    }

    /// Runs the frames again, and compares after each one from `from` on.
    fn find(&self, from: usize) {
        let mut sides = Sides::new(self);
        while sides.frames < from {
            sides.frame();
        }
        assert_eq!(sides.difference(), None, "{}: there was none before", sides.place());
        for _ in 0..BATCH {
            let (program, mutant) = sides.frame();
            if let Some(difference) = sides.difference() {
                let hex: String = mutant.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                panic!(
                    "{} after frame {} by {program} ({} ms later, {:?}, forwarded {}):\n{hex}\n{difference}",
                    sides.place(),
                    sides.frames,
                    mutant.after,
                    mutant.merged,
                    mutant.forwarded,
                );
            }
        }
        panic!("{}: a difference that does not come again", sides.place());
    }
}

/// Program and model.
struct Sides<'a> {
    epoch: &'a Epoch,
    mutants: FrameGenerator,
    kernel: Kernel,
    model: Model,
    histogram: Histogram,
    frames: usize,
}

impl<'a> Sides<'a> {
    fn new(epoch: &'a Epoch) -> Self {
        let [closed, unanswered, idle] = SILENCES.map(Duration::from_millis);
        let programs = match epoch.gateway.hooks {
            [one] => Programs::One(one.program),
            _ => Programs::All,
        };
        let options = LoadOptions {
            flows: FLOWS,
            flows_per_source: FLOWS,
            overflow: 64,
            local_only: epoch.gateway.local_only,
            timeouts: Timeouts { closed, unanswered, idle, active: idle },
            ..under_test::options(programs)
        };
        let kernel = under_test::load(&options, &WATCHED).unwrap_or_else(|error| panic!("{error}"));
        let mut sides = Self {
            epoch,
            mutants: FrameGenerator::new(epoch.seed, epoch.gateway.wanted()),
            kernel,
            model: Model::new(&WATCHED, SILENCES),
            histogram: Histogram::default(),
            frames: 0,
        };
        sides.advance(1_000);
        sides
    }

    fn place(&self) -> String {
        format!("seed {}, {}", self.epoch.seed, self.epoch.gateway.hooks[0].program)
    }

    fn advance(&mut self, milliseconds: u64) {
        if milliseconds != 0 {
            self.model.now += milliseconds;
            self.kernel.set_now(moment(self.model.now)).unwrap();
        }
    }

    /// Runs one frame that the kernel accepts on both sides.
    fn frame(&mut self) -> (&'static str, GeneratedFrame) {
        let hooks = self.epoch.gateway.hooks;
        let entry = &hooks[self.frames % hooks.len()];
        self.frames += 1;
        let mut mutant = self.mutants.frame();
        self.advance(mutant.after);
        while !self.show(entry, &mutant) {
            self.histogram.refuse();
            mutant = self.mutants.frame();
            self.advance(mutant.after);
        }
        let outcome = self.model.count(&entry.shown(&mutant), entry.hook);
        self.histogram.note(outcome, entry.name, mutant.bytes.len());
        (entry.program, mutant)
    }

    /// Runs the program on a frame; returns false if the kernel does not accept the frame.
    fn show(&mut self, entry: &Entry, mutant: &GeneratedFrame) -> bool {
        let context = entry.socket_buffer().then(|| context(mutant));
        match self.kernel.run(entry.program, &mutant.bytes, context.as_ref().map(|bytes| &bytes[..])) {
            Ok(verdict) => {
                let pass = if entry.socket_buffer() { u32::MAX } else { 2 };
                assert_eq!(verdict, pass, "{} must let every packet pass", entry.program);
                true
            }
            Err(error) => {
                let short = entry.socket_buffer() && mutant.bytes.len() < 14 + 40;
                assert!(short, "{error}: {} bytes, {mutant:02x?}", mutant.bytes.len());
                false
            }
        }
    }

    fn difference(&mut self) -> Option<String> {
        compare::difference(&mut self.kernel, &mut self.model)
    }
}

/// Converts a time of the model's clock.
pub(crate) fn moment(milliseconds: u64) -> Time {
    Time::from_nanos(milliseconds * 1_000_000)
}

/// Builds a `struct __sk_buff`: ingress_ifindex at 36, gso_segs at 164, gso_size at 176.
fn context(mutant: &GeneratedFrame) -> [u8; 192] {
    let mut context = [0; 192];
    context[36..40].copy_from_slice(&u32::from(mutant.forwarded).to_ne_bytes());
    context[164..168].copy_from_slice(&mutant.merged.segments.to_ne_bytes());
    context[176..180].copy_from_slice(&mutant.merged.size.to_ne_bytes());
    context
}
