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
    flow_table::{
        clock::Ticks,
        conservation::Held,
        evict,
        reader::{Moment, Reader, Table},
        snapshot::Snapshot,
    },
    host::{
        addresses::{self, Addresses},
        device::Device,
        kernel_version::KernelVersion,
    },
    options::{AtStop, Hook, LoadOptions, Role, SilenceLimits},
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
use mailflow_engine::{
    flow::{Fate, Flow},
    time::Time,
};

/// Length of a tick of a clock that is set from outside, in nanoseconds.
const EXTERNAL_TICK: u64 = 1_000_000;

/// Whether tables were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// They go on.
    Resumed,
    /// Others take their place, and what was open goes on in these.
    Carried,
    /// They begin empty.
    Anew,
}

/// Whose time the program goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    /// The kernel's.
    Kernel,
    /// Its caller's; then nobody else runs it either.
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
    /// What was read of tables before these, and does not go on.
    pub(crate) left: Snapshot,
}

/// What is pinned, and what an agent before left there.
pub(crate) struct Pinned {
    pins: Pins,
    pub(crate) old: Vec<Old>,
    at_stop: AtStop,
}

impl Kernel {
    /// Loads the program and lets it watch `ports`.
    ///
    /// # Errors
    /// The kernel is too old, the process may not, or the kernel refuses the program.
    pub fn load(object: &[u8], options: &LoadOptions, ports: &PortSet) -> Result<Self, KernelError> {
        let mut loaded = Loaded::new(object, options, None)?;
        let (clock, ticks) = match options.external_clock {
            true => (Clock::External, Ticks::of(EXTERNAL_TICK)),
            false => (Clock::Kernel, watch_ticks(&mut loaded)?),
        };
        Self::begin(loaded, options, ports, (clock, ticks), None)
    }

    /// The same with tables and links that outlive the process. If an agent before left tables, which
    /// `kept` belongs to, it goes on with them; those it cannot go on with are there to be read once
    /// ([`Kernel::carry`]).
    ///
    /// # Errors
    /// As above; or what is pinned cannot be taken over or set aside.
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
            let limits = kernel.table.limits();
            kernel_checkpoint::resume(kernel.table.book_mut(), kept, &limits);
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
        loaded.set_silences(silences(&options.silences, &ticks))?;
        let table = Table::new(options.silences);
        let (watched, left) = (Watched::new(), Snapshot::default());
        Ok(Self { loaded, ticks, clock, table, watched, pinned, begun: Begun::Anew, left })
    }

    /// Attaches to an interface, or to those that match a pattern, as the role asks, and watches from then on. What
    /// is not there is waited for.
    ///
    /// # Errors
    /// The interface of that name is there and no hook takes the program; every refusal is named.
    pub fn attach(&mut self, name: &str, role: Role, hook: Hook) -> Result<(), KernelError> {
        let pins = self.pinned.as_ref().map(|pinned| &pinned.pins);
        self.watched.add(&mut self.loaded, pins, name, role, hook)
    }

    /// What an agent before left at places that are not watched now goes: once all are attached that are to be.
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

    /// Takes the programs off an interface, if it is watched.
    pub fn unwatch(&mut self, name: &str) {
        self.watched.remove(&mut self.loaded, name);
    }

    /// Watches these ports from now on; packets pass meanwhile.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn watch_ports(&mut self, ports: &PortSet) -> Result<(), KernelError> {
        self.loaded.watch(ports)
    }

    /// Separates flows by these silences from now on; packets pass meanwhile.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_silences(&mut self, limits: &SilenceLimits) -> Result<(), KernelError> {
        self.table.set_limits(*limits);
        self.loaded.set_silences(silences(limits, &self.ticks))
    }

    /// From now on this process looks at the hooks, for who holds no capability to do so.
    pub fn look_through(&mut self, lookout: Lookout) {
        self.watched.lookout = Some(lookout);
    }

    /// Whether there is a process that looks at the hooks.
    pub fn lookout(&self) -> Option<&Lookout> {
        self.watched.lookout.as_ref().filter(|lookout| lookout.looks())
    }

    /// Follows what has become of the watched interfaces since it was called last, and attaches again
    /// what was taken away or is not the first.
    pub fn follow(&mut self, now: Time, verify: Verify) {
        let pins = self.pinned.as_ref().map(|pinned| &pinned.pins);
        self.watched.follow(&mut self.loaded, pins, now, verify);
    }

    /// Takes every program off its hook. The tables stay: what was counted can still be read.
    pub fn detach(&mut self) {
        self.watched.clear();
    }

    /// Removes the pins of the tables: nothing of them is needed any more.
    pub fn unpin(&self) {
        if let Some(Pinned { pins, .. }) = &self.pinned {
            pins.clear();
        }
    }

    /// Ends without taking the programs off their hooks: they count on, for the next agent. Where nothing is
    /// pinned they are taken off all the same.
    pub fn leave(mut self) {
        if self.pinned.is_some() {
            self.watched.leave();
        }
    }

    /// From now on the programs are not to count on after a stop.
    pub fn detach_at_stop(&mut self) {
        if let Some(pinned) = &mut self.pinned {
            pinned.at_stop = AtStop::Detach;
        }
    }

    /// Whether the programs are to count on after a stop.
    pub fn stays(&self) -> bool {
        self.pinned.as_ref().is_some_and(|pinned| pinned.at_stop == AtStop::Keep)
    }

    /// Which tables these are: the kernel's number of the flow table; none where nothing is pinned.
    pub fn generation(&self) -> Option<u32> {
        self.pinned.as_ref().and_then(|pinned| pinned.pins.generation())
    }

    /// Makes pins again that are gone; returns their names. The programs count meanwhile, but would end with the agent.
    ///
    /// # Errors
    /// They cannot be made.
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

    /// The entries that are watched, and the interfaces that each is bound to.
    pub fn bound(&self) -> Vec<Bound> {
        self.watched.bound()
    }

    /// The machine's addresses, and the networks behind the interfaces that are watched as the inside of a gateway.
    /// Default routes are looked up again where the addresses are not those of `before`.
    ///
    /// # Errors
    /// The kernel does not list its addresses.
    pub fn addresses(&self, before: Option<&Addresses>) -> io::Result<Addresses> {
        addresses::read(self.watched.inside(), before)
    }

    /// The mark that the pinned tables are ahead of the state on the disk; none where nothing is pinned.
    pub fn ahead(&self) -> Option<Ahead> {
        self.pinned.as_ref().map(|pinned| Ahead::of(&pinned.pins.directory()))
    }

    /// Where programs belong, and whether they are there.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.watched.places()
    }

    /// Reads the tables, shows them to `reader` and takes out of the flow table what that names, each
    /// flow only if it still is what was shown.
    ///
    /// A flow that begins at this very moment may be left for the next reading.
    ///
    /// # Errors
    /// The kernel refuses the read or a removal; what was shown by then holds.
    pub fn read(&mut self, now: Time, reader: &mut dyn Reader) -> Result<(), KernelError> {
        self.loaded.log.flush();
        let counting = self.counting();
        let horizon = if counting { see_ticks(&mut self.loaded)? } else { u64::MAX };
        let moment = Moment { ticks: &self.ticks, now, tick: self.ticks.tick(now), horizon };
        let made = self.loaded.made()?;
        let Self { loaded, table, .. } = self;
        if let Some(sets) = &loaded.sets {
            table.book_mut().held.late(&sets.free(counting));
        }
        let remove = |book: &mut _, flows: &[_]| evict::remove(loaded, book, flows, counting);
        table.read(&loaded.tables()?, moment, reader, &remove)?;
        let held = table.held();
        self.loaded.set_room(made, (held.flows, held.sources))
    }

    /// Whether packets are counted meanwhile.
    fn counting(&self) -> bool {
        self.clock == Clock::Kernel && self.places().any(|place| place.standing != Standing::Detached)
    }

    /// All of it at once, for tables that are small; takes nothing out.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn snapshot(&mut self, now: Time) -> Result<Snapshot, KernelError> {
        let mut snapshot = Snapshot::default();
        self.read(now, &mut snapshot)?;
        Ok(snapshot)
    }

    /// Takes flows out of the table, each only if it still is what the last reading showed. A fate for
    /// each, in their order.
    ///
    /// # Errors
    /// The kernel refuses it; flows before the refusal may be gone.
    pub fn remove(&mut self, flows: &[Flow]) -> Result<Vec<Fate>, KernelError> {
        let counting = self.counting();
        let Self { loaded, table, .. } = self;
        table.remove(flows, &|book, flows| evict::remove(loaded, book, flows, counting))
    }

    /// Where the packets are that were counted, as of the last reading and what was removed since.
    pub fn held(&self) -> &Held {
        self.table.held()
    }

    /// Bytes of kernel memory that the tables take.
    pub fn memory(&self) -> u64 {
        self.loaded.memory()
    }

    /// Totals over all CPUs.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn totals(&self) -> Result<Totals, KernelError> {
        self.loaded.totals()
    }

    /// Names of the programs this kernel took.
    pub fn programs(&self) -> impl Iterator<Item = &str> {
        self.loaded.programs.iter().map(String::as_str)
    }

    /// A descriptor of a loaded program, for who runs it by bpf(2) as benchmarks do.
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

    /// How many instructions the verifier went through for a loaded program; `None` where the kernel does
    /// not say (before Linux 5.16).
    pub fn verified_instructions(&self, program: &str) -> Option<u32> {
        self.loaded.verified_instructions(program)
    }

    /// Sets the program's clock, where it was loaded with an external one.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_now(&mut self, now: Time) -> Result<(), KernelError> {
        self.loaded.set_now(self.ticks.tick(now))
    }

    /// Runs a loaded program on one frame, by BPF_PROG_TEST_RUN. `context` is a `struct __sk_buff` in
    /// bytes, for TC programs that are to see one.
    ///
    /// # Errors
    /// There is no such program, or the kernel refuses the frame.
    pub fn run(&self, program: &str, frame: &[u8], context: Option<&[u8]>) -> Result<u32, KernelError> {
        run(&self.loaded, program, frame, context)
    }

    /// The same with the head of a frame that is larger than the kernel takes; only where the clock is
    /// external.
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

fn silences(limits: &SilenceLimits, ticks: &Ticks) -> IdleTimeoutTicks {
    let [closed, unanswered, idle] =
        [limits.closed, limits.unanswered, limits.idle].map(|limit| ticks.count(limit));
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
