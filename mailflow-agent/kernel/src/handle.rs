//! Handle of the loaded program, its tables and its hooks.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
};

use aya::{maps::MapInfo, programs::Program};
use mailflow_common::{IdleTimeoutTicks, PortSet, Totals};

use crate::{
    attach::{
        clsact::leave_clsact,
        helper::Lookout,
        status::{Bound, Place, Standing, Verify},
        supervisor::Watched,
    },
    error::KernelError,
    flow_table::{clock::Ticks, conservation::Held, reader::Table, snapshot::Snapshot},
    host::{
        addresses::{self, Addresses},
        device::Device,
        kernel_version::KernelVersion,
    },
    options::{AtStop, Hook, LoadOptions, Role},
    persist::{
        kernel_checkpoint::{self, Kept},
        pins::{Old, Pins},
        stale_checkpoint::Ahead,
    },
    program::{
        load::{self, Loaded},
        test_run::run,
    },
};
use mailflow_engine::{settings::Timeouts, time::Time};

/// Tick of the clock of a replay, in nanoseconds.
const EXTERNAL_TICK: u64 = 1_000_000;

/// Origin of the maps at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Reused: the maps of an earlier agent.
    Resumed,
    /// Migrated: new maps, in which open flows of the old ones continue.
    Carried,
    /// Fresh: empty maps.
    Anew,
}

/// Clock of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    /// The kernel's jiffies.
    Kernel,
    /// The caller's (replay). Nothing else runs the program then.
    External,
}

/// The loaded program and its tables. Dropping it detaches everything.
pub struct Kernel {
    pub(crate) loaded: Loaded,
    pub(crate) ticks: Ticks,
    clock: Clock,
    pub(crate) table: Table,
    watched: Watched,
    pub(crate) pinned: Option<Pinned>,
    pub(crate) begun: Begun,
    /// Flows and sources of old maps that do not continue in these.
    pub(crate) left: Snapshot,
}

/// Pins, and old maps that an earlier agent left.
pub(crate) struct Pinned {
    pins: Pins,
    pub(crate) old: Vec<Old>,
    at_stop: AtStop,
}

impl Kernel {
    /// Loads the program, with `ports` watched.
    ///
    /// # Errors
    /// The kernel is too old, the process lacks capabilities, or the kernel refuses the program.
    pub fn load(object: &[u8], options: &LoadOptions, ports: &PortSet) -> Result<Self, KernelError> {
        let mut loaded = Loaded::new(object, options, None)?;
        let (clock, ticks) = match options.external_clock {
            true => (Clock::External, Ticks::of(EXTERNAL_TICK)),
            false => (Clock::Kernel, watch_ticks(&mut loaded)?),
        };
        Self::begin(loaded, options, ports, (clock, ticks), None)
    }

    /// Loads the program with pinned maps and links, which outlive the process. It continues with the maps of
    /// an earlier agent, to which `kept` belongs. Maps with which it cannot continue can be read once
    /// ([`Kernel::carry`]).
    ///
    /// # Errors
    /// The kernel is too old, the process lacks capabilities, the kernel refuses the program, or a pin cannot be taken over or set aside.
    pub fn load_pinned(
        object: &[u8],
        options: &LoadOptions,
        ports: &PortSet,
        (pins, at_stop): (Pins, AtStop),
        kept: Option<(u32, &Kept)>,
    ) -> Result<(Self, Begun), KernelError> {
        let old = pins.prepare(options, kept)?;
        let owned = |generation: &u32| match pins.generation() {
            Some(ours) if ours == *generation => Some(Begun::Resumed),
            _ => old.iter().any(|old| old.generation() == Some(*generation)).then_some(Begun::Carried),
        };
        let begun = kept.and_then(|(generation, _)| owned(&generation)).unwrap_or(Begun::Anew);
        let mut loaded = Loaded::new(object, options, Some(&pins))?;
        // The kernel's ticks are the boot's, whatever tables they are noted in.
        let before = kept.and_then(|(_, kept)| Ticks::from_words(kept.ticks));
        let before = before.filter(|_| begun != Begun::Anew);
        let ticks = before.map_or_else(|| watch_ticks(&mut loaded), Ok)?;
        let pinned = Some(Pinned { pins, old, at_stop });
        let mut kernel = Self::begin(loaded, options, ports, (Clock::Kernel, ticks), pinned)?;
        kernel.begun = begun;
        if let Some((_, kept)) = kept.filter(|_| begun == Begun::Resumed) {
            let timeouts = kernel.table.timeouts();
            kernel_checkpoint::resume(kernel.table.book_mut(), kept, &timeouts);
        }
        Ok((kernel, begun))
    }

    fn begin(
        mut loaded: Loaded,
        options: &LoadOptions,
        ports: &PortSet,
        (clock, ticks): (Clock, Ticks),
        pinned: Option<Pinned>,
    ) -> Result<Self, KernelError> {
        loaded.watch(ports)?;
        if clock == Clock::External {
            // No tick is 0.
            loaded.set_now(ticks.tick(Time::from_nanos(0)))?;
        }
        loaded.set_timeouts(timeout_ticks(&options.timeouts, &ticks))?;
        let table = Table::new(options.timeouts);
        let (watched, left) = (Watched::new(), Snapshot::default());
        Ok(Self { loaded, ticks, clock, table, watched, pinned, begun: Begun::Anew, left })
    }

    /// Attaches to an interface, or to all that match a pattern, and supervises them from then on. It waits
    /// for an interface that does not exist.
    ///
    /// # Errors
    /// The interface exists, and every hook refuses the program; each refusal is named.
    pub fn attach(&mut self, name: &str, role: Role, hook: Hook) -> Result<(), KernelError> {
        let pins = self.pinned.as_ref().map(|pinned| &pinned.pins);
        self.watched.add(&mut self.loaded, pins, name, role, hook)
    }

    /// Detaches what an earlier agent left at places that are not watched now. Call after everything is
    /// attached.
    pub fn leave_others(&mut self) {
        let Some(pinned) = &self.pinned else { return };
        let watched: Vec<_> = self.places().map(|place| (place.interface.clone(), place.direction)).collect();
        pinned.pins.leave_links(&watched);
        if self.loaded.version < KernelVersion::TCX {
            // An interface may be configured by another of its names.
            let devices = watched.iter().map(|(name, direction)| (Device::index_of(name), *direction));
            leave_clsact(&devices.collect::<Vec<_>>());
        }
    }

    /// Detaches the programs of an interface, if it is watched.
    pub fn unwatch(&mut self, name: &str) {
        self.watched.remove(&mut self.loaded, name);
    }

    /// Sets the watched ports, while packets pass.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn watch_ports(&mut self, ports: &PortSet) -> Result<(), KernelError> {
        self.loaded.watch(ports)
    }

    /// Sets the idle timeouts, while packets pass.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_timeouts(&mut self, timeouts: &Timeouts) -> Result<(), KernelError> {
        self.table.set_timeouts(*timeouts);
        self.loaded.set_timeouts(timeout_ticks(timeouts, &self.ticks))
    }

    /// Uses this helper process to query hooks, as the agent gives up the capability.
    pub fn look_through(&mut self, lookout: Lookout) {
        self.watched.lookout = Some(lookout);
    }

    /// Returns true if there is a helper process.
    pub fn lookout(&self) -> Option<&Lookout> {
        self.watched.lookout.as_ref().filter(|lookout| lookout.looks())
    }

    /// Follows changes of the watched interfaces since the last call, and attaches again what was detached or
    /// is not first.
    pub fn follow(&mut self, now: Time, verify: Verify) {
        let pins = self.pinned.as_ref().map(|pinned| &pinned.pins);
        self.watched.follow(&mut self.loaded, pins, now, verify);
    }

    /// Detaches every program. The maps stay readable.
    pub fn detach(&mut self) {
        self.watched.clear();
    }

    /// Removes the pins of the maps.
    pub fn unpin(&self) {
        if let Some(Pinned { pins, .. }) = &self.pinned {
            pins.clear();
        }
    }

    /// Ends without detaching the programs: they keep counting for the next agent. Without pins they are
    /// detached.
    pub fn leave(mut self) {
        if self.pinned.is_some() {
            self.watched.leave();
        }
    }

    /// Sets that the programs are detached at a stop.
    pub fn detach_at_stop(&mut self) {
        if let Some(pinned) = &mut self.pinned {
            pinned.at_stop = AtStop::Detach;
        }
    }

    /// Returns true if the programs keep counting after a stop.
    pub fn stays(&self) -> bool {
        self.pinned.as_ref().is_some_and(|pinned| pinned.at_stop == AtStop::Keep)
    }

    /// Returns the generation of the maps: the kernel's number of the flow table; `None` without pins.
    pub fn generation(&self) -> Option<u32> {
        self.pinned.as_ref().and_then(|pinned| pinned.pins.generation())
    }

    /// Restores pins that are gone, and returns their names. Without them the programs would end with the
    /// agent.
    ///
    /// # Errors
    /// The pins cannot be made.
    pub fn mend_pins(&mut self) -> io::Result<Vec<String>> {
        let Self { loaded, watched, pinned: Some(Pinned { pins, .. }), .. } = self else {
            return Ok(Vec::new());
        };
        let mut made = Vec::new();
        if pins.mend_directories()? {
            made.push(pins.directory().display().to_string());
        }
        for (name, path) in pins.maps() {
            let Some(map) = loaded.ebpf.map(name) else { continue };
            // What else bears the name is left alone: the next agent compares it.
            if fs::symlink_metadata(&path).is_err() && MapInfo::from_pin(&path).is_err() {
                map.pin(&path).map_err(io::Error::other)?;
                made.push(name.to_owned());
            }
        }
        made.extend(watched.mend_pins(pins)?);
        Ok(made)
    }

    /// Returns the watched entries, and the interfaces to which each is bound.
    pub fn bound(&self) -> Vec<Bound> {
        self.watched.bound()
    }

    /// Returns the addresses of the machine, and the networks behind interfaces in the `lan` role. Looks up
    /// default routes again if the addresses differ from `before`.
    ///
    /// # Errors
    /// The kernel does not list its addresses.
    pub fn addresses(&self, before: Option<&Addresses>) -> io::Result<Addresses> {
        addresses::read(self.watched.inside(), before)
    }

    /// Returns the mark of a stale checkpoint; `None` without pins.
    pub fn ahead(&self) -> Option<Ahead> {
        self.pinned.as_ref().map(|pinned| Ahead::of(&pinned.pins.directory()))
    }

    /// Returns the places of the programs, and whether they are attached.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.watched.places()
    }

    /// Returns true if packets are counted at the same time.
    pub(crate) fn counting(&self) -> bool {
        self.clock == Clock::Kernel && self.places().any(|place| place.standing != Standing::Detached)
    }

    /// Returns the kernel's tick, as the program sees it.
    pub(crate) fn tick(&mut self) -> Result<u64, KernelError> {
        see_ticks(&mut self.loaded)
    }

    /// Returns the location of counted packets, as of the last scan and the evictions since.
    pub fn held(&self) -> &Held {
        self.table.held()
    }

    /// Returns the kernel memory of the maps, in bytes.
    pub fn memory(&self) -> u64 {
        self.loaded.memory()
    }

    /// Returns the totals over all CPUs.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn totals(&self) -> Result<Totals, KernelError> {
        self.loaded.totals()
    }

    /// Returns the names of the loaded programs.
    pub fn programs(&self) -> impl Iterator<Item = &str> {
        self.loaded.programs.iter().map(String::as_str)
    }

    /// Returns a descriptor of a loaded program, for benchmarks that run it by bpf(2).
    ///
    /// # Errors
    /// There is no such program, or no descriptor is left.
    pub fn descriptor(&self, program: &str) -> Result<OwnedFd, KernelError> {
        let fd = match self.loaded.ebpf.program(program) {
            Some(Program::Xdp(program)) => program.fd(),
            Some(Program::SchedClassifier(program)) => program.fd(),
            _ => return Err(KernelError::Missing("program to run")),
        };
        let failed = |source| KernelError::Program { program: program.to_owned(), source: Box::new(source) };
        fd.map_err(failed)?.as_fd().try_clone_to_owned().map_err(KernelError::Table)
    }

    /// Returns the number of instructions that the verifier processed for a program; `None` if the kernel
    /// does not report it (before Linux 5.16).
    pub fn verified_instructions(&self, program: &str) -> Option<u32> {
        self.loaded.verified_instructions(program)
    }

    /// Sets the time of a program with the clock of a replay.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_now(&mut self, now: Time) -> Result<(), KernelError> {
        self.loaded.set_now(self.ticks.tick(now))
    }

    /// Runs a program on one frame (BPF_PROG_TEST_RUN). `context` is a `struct __sk_buff` as bytes, for TC
    /// programs.
    ///
    /// # Errors
    /// There is no such program, or the kernel refuses the frame.
    pub fn run(&self, program: &str, frame: &[u8], context: Option<&[u8]>) -> Result<u32, KernelError> {
        run(&self.loaded, program, frame, context)
    }

    /// Runs a program on the head of a frame that is longer than the kernel accepts. Only with the clock of a
    /// replay.
    ///
    /// # Errors
    /// There is no such program, or the kernel refuses the frame.
    pub fn run_head(&mut self, program: &str, head: &[u8], length: u32) -> Result<u32, KernelError> {
        self.loaded.tell_length(u64::from(length))?;
        let result = run(&self.loaded, program, head, None);
        self.loaded.tell_length(0)?;
        result
    }
}

fn timeout_ticks(timeouts: &Timeouts, ticks: &Ticks) -> IdleTimeoutTicks {
    let [closed, unanswered, idle] =
        [timeouts.closed, timeouts.unanswered, timeouts.idle].map(|timeout| ticks.count(timeout));
    // As the engine has it: an unanswered SYN does not outlive silence.
    let unanswered = unanswered.min(idle);
    IdleTimeoutTicks { closed, unanswered, idle, least: closed.min(unanswered) }
}

fn watch_ticks(loaded: &mut Loaded) -> Result<Ticks, KernelError> {
    let watched = Ticks::watch(|| see_ticks(loaded))?;
    watched.ok_or(KernelError::Missing("running tick"))
}

/// The kernel's ticks, as the program sees them.
fn see_ticks(loaded: &mut Loaded) -> Result<u64, KernelError> {
    run(loaded, load::TICKS, &[0; 64], None)?;
    loaded.noted_ticks()
}
