//! The kernel seam, the only user of aya: load, attach, read. It knows no rule.

mod attach;
mod batch;
mod device;
mod error;
mod interface;
mod load;
mod machine;
mod netlink;
mod object;
mod query;
mod table;
mod ticks;
mod watch;

use std::os::fd::{AsFd, OwnedFd};

use aya::{TestRun, TestRunOptions, programs::Program};
use mailflow_common::{FlowKey, PortSet, Silences, Totals};
use tracing::info;

pub use self::{
    attach::{Attachment, Direction},
    device::present,
    error::KernelError,
    load::{LoadOptions, Programs, SilenceLimits},
    machine::KernelVersion,
    netlink::LinkChanges,
    object::OBJECT,
    table::Snapshot,
    watch::{Place, Standing, Verify},
};
use self::{interface::Interface, load::Loaded, table::Table, ticks::Ticks, watch::Watched};
use crate::{
    config::{Hook, Role},
    engine::{flow::Flow, time::Time},
};

/// Length of a tick of a clock that is set from outside, in nanoseconds.
const EXTERNAL_TICK: u64 = 1_000_000;

/// The loaded program and its tables. Dropping it detaches everything.
pub struct Kernel {
    loaded: Loaded,
    ticks: Ticks,
    table: Table,
    watched: Watched,
}

impl Kernel {
    /// Loads the program and lets it watch `ports`.
    ///
    /// # Errors
    /// The kernel is too old, the process may not, or the kernel refuses the program.
    pub fn load(object: &[u8], options: &LoadOptions, ports: &PortSet) -> Result<Self, KernelError> {
        let mut loaded = Loaded::new(object, options)?;
        loaded.watch(ports)?;
        let ticks = if options.external_clock { Ticks::of(EXTERNAL_TICK) } else { watch_ticks(&mut loaded)? };
        loaded.set_silences(silences(&options.silences, &ticks))?;
        Ok(Self { loaded, ticks, table: Table::new(), watched: Watched::new() })
    }

    /// Attaches to an interface, as its role asks, and watches it from then on.
    ///
    /// # Errors
    /// There is no such interface, or no hook takes the program; every refusal is named.
    pub fn attach(&mut self, name: &str, role: Role, hook: Hook) -> Result<(), KernelError> {
        self.watched.add(&mut self.loaded, name, role, hook)
    }

    /// Follows what has become of the watched interfaces since it was called last, and attaches again
    /// what was taken away or is not the first.
    pub fn follow(&mut self, now: Time, verify: Verify) {
        self.watched.follow(&mut self.loaded, now, verify);
    }

    /// Takes every program off its hook. The tables stay: what was counted can still be read.
    pub fn detach(&mut self) {
        self.watched.clear();
    }

    /// Where programs belong, and whether they are there.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.watched.places()
    }

    /// The flow table as it is now, and the flows that were finished since it was read last.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn read(&mut self, now: Time) -> Result<Snapshot<'_>, KernelError> {
        self.table.read(self.loaded.flows()?, self.loaded.retired()?, &self.ticks, now)
    }

    /// Takes ended flows out of the table and returns their last values; those no longer there are
    /// left out.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn take(&mut self, keys: &[FlowKey], now: Time) -> Result<Vec<Flow>, KernelError> {
        self.table.take(self.loaded.flows()?, keys, &self.ticks, now)
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

/// The role of an interface: as configured, or chosen by what the machine does, and said so.
///
/// # Errors
/// There is no such interface.
pub fn choose_role(name: &str, role: Role) -> Result<Role, KernelError> {
    let interface = Interface::find(name)?;
    if role != Role::Auto {
        return Ok(role);
    }
    let (role, reason) = interface.guess_role();
    info!(interface = name, role = role.name(), %reason, "role chosen");
    Ok(role)
}

/// The program that captures of a role are run through: where this kernel has it, the one that takes
/// frames of more than a page.
///
/// # Errors
/// The kernel is too old, or its version cannot be read.
pub fn replay_program(role: Role) -> Result<&'static str, KernelError> {
    let frags = KernelVersion::running()? >= KernelVersion::XDP_FRAGS;
    Ok(match (role, frags) {
        (Role::Lan, true) => "xdp_lan_frags",
        (Role::Lan, false) => "xdp_lan",
        (Role::Host, true) => "xdp_host_frags",
        (Role::Host, false) => "xdp_host",
        (Role::Mirror | Role::Auto, true) => "xdp_mirror_frags",
        (Role::Mirror | Role::Auto, false) => "xdp_mirror",
    })
}

fn run(loaded: &Loaded, name: &str, frame: &[u8], context: Option<&[u8]>) -> Result<u32, KernelError> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.ctx_in = context;
    let result = match loaded.ebpf.program(name) {
        Some(Program::Xdp(program)) => program.test_run(options),
        Some(Program::SchedClassifier(program)) => program.test_run(options),
        _ => return Err(KernelError::Missing("program to run")),
    };
    match result {
        Ok(result) => Ok(result.return_value),
        Err(error) => Err(KernelError::Program { program: name.to_owned(), source: Box::new(error) }),
    }
}

fn silences(limits: &SilenceLimits, ticks: &Ticks) -> Silences {
    let [closed, unanswered, idle] =
        [limits.closed, limits.unanswered, limits.idle].map(|limit| ticks.count(limit));
    // As the engine has it: an unanswered SYN does not outlive silence.
    let unanswered = unanswered.min(idle);
    Silences { closed, unanswered, idle, least: closed.min(unanswered) }
}

fn watch_ticks(loaded: &mut Loaded) -> Result<Ticks, KernelError> {
    let frame = [0; 64];
    let watched = Ticks::watch(|| {
        run(loaded, load::TICKS, &frame, None)?;
        loaded.noted_ticks()
    })?;
    watched.ok_or(KernelError::Missing("running tick"))
}
