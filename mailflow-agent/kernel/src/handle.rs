//! Handle of the loaded program, its tables and its hooks.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
};

use aya::{maps::MapInfo, programs::Program};
use mailflow_common::{IdleTimeoutTicks, PortSet, Totals};

use crate::{
    attach::{
        clsact::remove_unwatched_filters,
        helper::HookQueryHelper,
        status::{AttachState, AttachmentStatus, EntryBinding, Verification},
        supervisor::AttachmentSupervisor,
    },
    error::KernelError,
    flow_table::{conservation::PacketAudit, reader::FlowReader, snapshot::Snapshot, tick_clock::TickClock},
    host::{
        addresses::{self, Addresses},
        device::Device,
        kernel_version::KernelVersion,
    },
    options::{AtStop, Hook, LoadOptions, Role},
    persist::{
        pins::{OldMaps, Pins},
        reader_checkpoint::{self, ReaderCheckpoint},
        stale_checkpoint::StaleCheckpointMark,
    },
    program::{
        load::{self, Loaded},
        names,
        test_run::run,
    },
};
use mailflow_engine::{settings::Timeouts, time::Time};

/// Tick of the clock of a replay, in nanoseconds.
const REPLAY_TICK_NANOS: u64 = 1_000_000;

/// Origin of the maps at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapOrigin {
    /// Reused: the maps of an earlier agent.
    Reused,
    /// Migrated: new maps, in which open flows of the old ones continue.
    Migrated,
    /// Fresh: empty maps.
    Fresh,
}

/// Clock of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClockSource {
    /// The kernel's jiffies.
    Kernel,
    /// The caller's (replay). Nothing else runs the program then.
    External,
}

/// The loaded program and its tables. Dropping it detaches everything.
pub struct Kernel {
    pub(crate) loaded: Loaded,
    pub(crate) ticks: TickClock,
    clock: ClockSource,
    pub(crate) reader: FlowReader,
    supervisor: AttachmentSupervisor,
    pub(crate) pinned: Option<PinnedState>,
    pub(crate) map_origin: MapOrigin,
    /// Flows and sources of old maps that do not continue in these.
    pub(crate) unmigrated: Snapshot,
}

/// Pins, and old maps that an earlier agent left.
pub(crate) struct PinnedState {
    pins: Pins,
    pub(crate) old: Vec<OldMaps>,
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
            true => (ClockSource::External, TickClock::new(REPLAY_TICK_NANOS)),
            false => (ClockSource::Kernel, calibrate_ticks(&mut loaded)?),
        };
        Self::begin(loaded, options, ports, (clock, ticks), None)
    }

    /// Loads the program with pinned maps and links, which outlive the process. It continues with the maps of
    /// an earlier agent, to which `checkpoint` belongs. Maps with which it cannot continue can be read once
    /// ([`Kernel::migrate`]).
    ///
    /// # Errors
    /// The kernel is too old, the process lacks capabilities, the kernel refuses the program, or a pin cannot be taken over or set aside.
    pub fn load_pinned(
        object: &[u8],
        options: &LoadOptions,
        ports: &PortSet,
        (pins, at_stop): (Pins, AtStop),
        checkpoint: Option<(u32, &ReaderCheckpoint)>,
    ) -> Result<(Self, MapOrigin), KernelError> {
        let old = pins.prepare(options, checkpoint)?;
        let origin_of = |generation: &u32| match pins.generation() {
            Some(ours) if ours == *generation => Some(MapOrigin::Reused),
            _ => old.iter().any(|old| old.generation() == Some(*generation)).then_some(MapOrigin::Migrated),
        };
        let origin =
            checkpoint.and_then(|(generation, _)| origin_of(&generation)).unwrap_or(MapOrigin::Fresh);
        let mut loaded = Loaded::new(object, options, Some(&pins))?;
        // Ticks count from the boot, so the calibration is valid for other maps too.
        let before = checkpoint.and_then(|(_, checkpoint)| TickClock::from_words(checkpoint.ticks));
        let before = before.filter(|_| origin != MapOrigin::Fresh);
        let ticks = before.map_or_else(|| calibrate_ticks(&mut loaded), Ok)?;
        let pinned = Some(PinnedState { pins, old, at_stop });
        let mut kernel = Self::begin(loaded, options, ports, (ClockSource::Kernel, ticks), pinned)?;
        kernel.map_origin = origin;
        if let Some((_, checkpoint)) = checkpoint.filter(|_| origin == MapOrigin::Reused) {
            let timeouts = kernel.reader.timeouts();
            reader_checkpoint::restore(kernel.reader.state_mut(), checkpoint, &timeouts);
        }
        Ok((kernel, origin))
    }

    fn begin(
        mut loaded: Loaded,
        options: &LoadOptions,
        ports: &PortSet,
        (clock, ticks): (ClockSource, TickClock),
        pinned: Option<PinnedState>,
    ) -> Result<Self, KernelError> {
        loaded.set_ports(ports)?;
        if clock == ClockSource::External {
            // No tick is 0.
            loaded.set_now(ticks.tick_at(Time::from_nanos(0)))?;
        }
        loaded.set_timeouts(timeout_ticks(&options.timeouts, &ticks))?;
        let reader = FlowReader::new(options.timeouts);
        let (supervisor, unmigrated) = (AttachmentSupervisor::new(), Snapshot::default());
        Ok(Self {
            loaded,
            ticks,
            clock,
            reader,
            supervisor,
            pinned,
            map_origin: MapOrigin::Fresh,
            unmigrated,
        })
    }

    /// Attaches to an interface, or to all that match a pattern, and supervises them from then on. It waits
    /// for an interface that does not exist.
    ///
    /// # Errors
    /// The interface exists, and every hook refuses the program; each refusal is named.
    pub fn attach(&mut self, name: &str, role: Role, hook: Hook) -> Result<(), KernelError> {
        let pins = self.pinned.as_ref().map(|pinned| &pinned.pins);
        self.supervisor.add(&mut self.loaded, pins, name, role, hook)
    }

    /// Detaches what an earlier agent left at places that are not watched now. Call after everything is
    /// attached.
    pub fn detach_unwatched(&mut self) {
        let Some(pinned) = &self.pinned else { return };
        let watched: Vec<_> = self
            .attachments()
            .map(|attachment| (attachment.interface.clone(), attachment.direction))
            .collect();
        pinned.pins.remove_unwatched_links(&watched);
        if self.loaded.version < KernelVersion::TCX {
            // An interface may be configured by another of its names.
            let devices = watched.iter().map(|(name, direction)| (Device::index_of(name), *direction));
            remove_unwatched_filters(&devices.collect::<Vec<_>>());
        }
    }

    /// Detaches the programs of an interface, if it is watched.
    pub fn unwatch(&mut self, name: &str) {
        self.supervisor.remove(&mut self.loaded, name);
    }

    /// Sets the watched ports, while packets pass.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_ports(&mut self, ports: &PortSet) -> Result<(), KernelError> {
        self.loaded.set_ports(ports)
    }

    /// Sets the idle timeouts, while packets pass.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_timeouts(&mut self, timeouts: &Timeouts) -> Result<(), KernelError> {
        self.reader.set_timeouts(*timeouts);
        self.loaded.set_timeouts(timeout_ticks(timeouts, &self.ticks))
    }

    /// Uses this helper process to query hooks, as the agent gives up the capability.
    pub fn set_hook_query_helper(&mut self, helper: HookQueryHelper) {
        self.supervisor.helper = Some(helper);
    }

    /// Returns the helper process, if it answers.
    pub fn hook_query_helper(&self) -> Option<&HookQueryHelper> {
        self.supervisor.helper.as_ref().filter(|helper| helper.is_alive())
    }

    /// Follows changes of the watched interfaces since the last call, and attaches again what was detached or
    /// is not first.
    pub fn follow_interfaces(&mut self, now: Time, verify: Verification) {
        let pins = self.pinned.as_ref().map(|pinned| &pinned.pins);
        self.supervisor.follow_interfaces(&mut self.loaded, pins, now, verify);
    }

    /// Detaches every program. The maps stay readable.
    pub fn detach(&mut self) {
        self.supervisor.detach_all();
    }

    /// Removes the pins of the maps.
    pub fn unpin(&self) {
        if let Some(PinnedState { pins, .. }) = &self.pinned {
            pins.remove_all();
        }
    }

    /// Ends without detaching the programs: they keep counting for the next agent. Without pins they are
    /// detached.
    pub fn keep_attached(mut self) {
        if self.pinned.is_some() {
            self.supervisor.keep_attached();
        }
    }

    /// Sets that the programs are detached at a stop.
    pub fn detach_at_stop(&mut self) {
        if let Some(pinned) = &mut self.pinned {
            pinned.at_stop = AtStop::Detach;
        }
    }

    /// Returns true if the programs keep counting after a stop.
    pub fn keeps_counting(&self) -> bool {
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
    pub fn restore_pins(&mut self) -> io::Result<Vec<String>> {
        let Self { loaded, supervisor, pinned: Some(PinnedState { pins, .. }), .. } = self else {
            return Ok(Vec::new());
        };
        let mut restored = Vec::new();
        if pins.restore_directories()? {
            restored.push(pins.directory().display().to_string());
        }
        for (name, path) in pins.maps() {
            let Some(map) = loaded.ebpf.map(name) else { continue };
            // A pin of another map under this name stays: the next agent checks it.
            if fs::symlink_metadata(&path).is_err() && MapInfo::from_pin(&path).is_err() {
                map.pin(&path).map_err(io::Error::other)?;
                restored.push(name.to_owned());
            }
        }
        restored.extend(supervisor.restore_pins(pins)?);
        Ok(restored)
    }

    /// Returns the watched entries, and the interfaces to which each is bound.
    pub fn entry_bindings(&self) -> Vec<EntryBinding> {
        self.supervisor.entry_bindings()
    }

    /// Returns the addresses of the machine, and the networks behind interfaces in the `lan` role. Looks up
    /// default routes again if the addresses differ from `before`.
    ///
    /// # Errors
    /// The kernel does not list its addresses.
    pub fn addresses(&self, before: Option<&Addresses>) -> io::Result<Addresses> {
        addresses::read(self.supervisor.lan_interfaces(), before)
    }

    /// Returns the mark of a stale checkpoint; `None` without pins.
    pub fn stale_checkpoint_mark(&self) -> Option<StaleCheckpointMark> {
        self.pinned.as_ref().map(|pinned| StaleCheckpointMark::of(&pinned.pins.directory()))
    }

    /// Returns the status of each program.
    pub fn attachments(&self) -> impl Iterator<Item = &AttachmentStatus> {
        self.supervisor.attachments()
    }

    /// Returns true if packets are counted at the same time.
    pub(crate) fn counting(&self) -> bool {
        self.clock == ClockSource::Kernel
            && self.attachments().any(|attachment| attachment.state != AttachState::Detached)
    }

    /// Returns the kernel's tick, as the program sees it.
    pub(crate) fn current_tick(&mut self) -> Result<u64, KernelError> {
        read_tick(&mut self.loaded)
    }

    /// Returns the location of counted packets, as of the last scan and the evictions since.
    pub fn packet_audit(&self) -> &PacketAudit {
        self.reader.audit()
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

    /// Returns true if the programs of a role are loaded.
    pub fn has_programs_of(&self, role: Role) -> bool {
        self.programs().any(|name| names::role_of(name) == Some(role))
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
        fd.map_err(failed)?.as_fd().try_clone_to_owned().map_err(KernelError::FlowTable)
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
        self.loaded.set_now(self.ticks.tick_at(now))
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
    pub fn run_truncated(&mut self, program: &str, head: &[u8], length: u32) -> Result<u32, KernelError> {
        self.loaded.set_frame_length(u64::from(length))?;
        let result = run(&self.loaded, program, head, None);
        self.loaded.set_frame_length(0)?;
        result
    }
}

fn timeout_ticks(timeouts: &Timeouts, ticks: &TickClock) -> IdleTimeoutTicks {
    let [closed, unanswered, idle] =
        [timeouts.closed, timeouts.unanswered, timeouts.idle].map(|timeout| ticks.ticks_in(timeout));
    // As in the engine: the timeout of an unanswered SYN is at most the idle timeout.
    let unanswered = unanswered.min(idle);
    IdleTimeoutTicks { closed, unanswered, idle, least: closed.min(unanswered) }
}

fn calibrate_ticks(loaded: &mut Loaded) -> Result<TickClock, KernelError> {
    let calibrated = TickClock::calibrate(|| read_tick(loaded))?;
    calibrated.ok_or(KernelError::Missing("running tick"))
}

/// The kernel's ticks, as the program sees them.
fn read_tick(loaded: &mut Loaded) -> Result<u64, KernelError> {
    run(loaded, load::TICK_PROGRAM, &[0; 64], None)?;
    loaded.published_tick()
}
