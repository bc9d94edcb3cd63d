//! A capture instead of an interface: each frame through the loaded XDP program, with the capture's
//! time as the clock.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use mailflow_common::{Reason, Totals};
use tracing::{error, info, warn};

use super::{
    capture::{Capture, CaptureError, Frame},
    progress::{Progress, Unit},
};
use crate::{
    agent::{
        poll,
        program_load::{Hosts, load},
    },
    config::{Config, Role},
    metrics::Agent,
    outputs::{gateway::Gateway, set::Outputs},
    recovery::checkpointer::Keeper,
};
use mailflow_engine::{
    Engine,
    settings::{RuleLimits, Settings},
    time::{Epoch, Time},
};
use mailflow_kernel::clock;
use mailflow_kernel::{self, Kernel, Programs};

/// How long what is waiting to be written may take at the end.
const GRACE: Duration = Duration::from_secs(60);
/// A capture's time is the wall clock's.
const EPOCH: Epoch = Epoch::from_unix_nanos(0);
/// Enough of a frame for its headers and the payload that is looked into.
const HEAD: usize = 2_048;
/// The program tells times apart by words of ticks, which suffices for 24 days. Before the clock leaps by more
/// than this, the flows before it end.
const LEAP: Duration = Duration::from_secs(24 * 60 * 60);
/// By so much frames of one capture may be out of order, as those of several queues are.
const DISORDER: Duration = Duration::from_secs(1);
/// Shorter frames have no ethertype, and the kernel takes none of them.
const SHORTEST: usize = 14;

/// How a replay went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Frames that went through the program.
    pub frames: u64,
    /// Frames of link types that carry no IP, and frames without an ethertype.
    pub skipped: u64,
    /// Captures that could not be read to their end.
    pub damaged: u64,
}

/// What is done beyond the capture's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// Nothing: flows still open get their record.
    Stop,
    /// Time goes on to the end of the longest window.
    Drain,
}

/// Replays captures, the one that begins first before the others, as one history.
///
/// # Errors
/// It cannot start, or the kernel refuses to go on.
pub fn run(config: &Config, role: Role, captures: &[PathBuf], at_end: AtEnd) -> Result<Replayed> {
    let agent = Agent::new(env!("CARGO_PKG_VERSION"), clock::unix_seconds())?;
    let outputs =
        Outputs::open_for_the_past(&config.outputs, &agent, Gateway::new(config.gateway_name.as_deref()))?;
    let mut replay = Replay::new(config, role, outputs)?;
    let mut result = Replayed::default();
    let mut progress = Progress::new(captures, &config.outputs, Unit::Frames);
    for path in &in_order(captures) {
        match replay.capture(path, &mut result, &mut progress) {
            Ok(()) => {}
            Err(Stop::Capture(damage)) => {
                progress.pause(|| error!("{damage}"));
                result.damaged += 1;
            }
            Err(Stop::Other(error)) => return Err(error),
        }
    }
    progress.end();
    let totals = replay.finish(config, at_end)?;
    let counted = totals.up.buffers + totals.down.buffers;
    let Replayed { frames, skipped, damaged } = result;
    info!(frames, counted, skipped, damaged, "replayed");
    if let Some(reasons) = uncounted(&totals) {
        info!("not counted: {reasons}");
    }
    Ok(result)
}

/// Captures in the order in which they begin: a shell puts `cap10` before `cap2`. What can be read only once, as a
/// pipe, is read where it stands.
fn in_order(captures: &[PathBuf]) -> Vec<PathBuf> {
    let mut ordered = captures.to_vec();
    if captures.iter().all(|path| path.is_file()) {
        // What cannot be read is told of when it is its turn.
        let begin = |path: &PathBuf| Some(Capture::open(path).ok()?.next_frame().ok()??.time);
        ordered.sort_by_cached_key(begin);
    }
    ordered
}

/// Why frames were not counted to a flow, and how many: with those that were, they are all.
fn uncounted(totals: &Totals) -> Option<String> {
    let told = Reason::ALL.into_iter().map(|reason| (reason.name(), totals.reason(reason)));
    let told: Vec<String> =
        told.filter(|(_, frames)| *frames > 0).map(|(name, frames)| format!("{name} {frames}")).collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// Why a capture was left.
enum Stop {
    Capture(CaptureError),
    Other(anyhow::Error),
}

impl From<CaptureError> for Stop {
    fn from(error: CaptureError) -> Self {
        Self::Capture(error)
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

struct Replay {
    kernel: Kernel,
    engine: Engine,
    outputs: Outputs,
    program: &'static str,
    poll_interval: Duration,
    /// After so long without a packet no flow lives.
    silence: Duration,
    now: Time,
    next_poll: Time,
    /// Frames of this capture that are older than what came before them by more than [`DISORDER`].
    late: u64,
}

impl Replay {
    fn new(config: &Config, role: Role, outputs: Outputs) -> Result<Self> {
        let program = mailflow_kernel::replay_program(role)?;
        Ok(Self {
            kernel: load(config, Programs::One(program), Hosts::Any)?,
            // Each alert of a capture is wanted.
            engine: Engine::new(Settings { limits: RuleLimits::WIDEST, ..config.engine.clone() }),
            outputs,
            program,
            poll_interval: config.poll_interval,
            silence: config.engine.timeouts.idle,
            now: Time::ZERO,
            next_poll: Time::ZERO,
            late: 0,
        })
    }

    fn capture(&mut self, path: &Path, result: &mut Replayed, progress: &mut Progress) -> Result<(), Stop> {
        let mut capture = Capture::open(path)?;
        let ended = loop {
            match capture.next_frame() {
                Ok(Some(frame)) if frame.bytes.len() < SHORTEST => result.skipped += 1,
                Ok(Some(frame)) => {
                    self.frame(frame).with_context(|| path.display().to_string())?;
                    result.frames += 1;
                    progress.at(result.frames, capture.position());
                }
                Ok(None) => break Ok(()),
                Err(damage) => break Err(damage.into()),
            }
        };
        progress.file_done(result.frames, capture.position());
        let late = std::mem::take(&mut self.late);
        if late > 0 {
            progress.pause(|| {
                warn!(capture = %path.display(), frames = late, "frames older than those before them count at the time of the newest");
            });
        }
        if capture.skipped() > 0 {
            progress.pause(|| {
                let types: Vec<String> =
                    capture.skipped_types().iter().map(|(link, frames)| format!("{link}: {frames}")).collect();
                let (frames, types) = (capture.skipped(), types.join(", "));
                warn!(capture = %path.display(), frames, link_types = types, "frames without IP, or of link types that are not read");
            });
        }
        result.skipped += capture.skipped();
        ended
    }

    fn frame(&mut self, frame: Frame) -> Result<()> {
        // The program's clock does not go back, whatever order the frames were written in.
        let time = Time::from_nanos(frame.time);
        let now = self.now.max(time);
        // A frame without a time (a simple packet block) has that of the one before.
        if time != Time::ZERO && now.since(time) > DISORDER {
            self.late += 1;
        }
        let rest = self.silence + Duration::from_secs(1);
        if self.now != Time::ZERO && now.since(self.now) > rest.max(LEAP) {
            self.now = self.now + rest;
            self.poll()?;
        }
        self.now = now;
        if self.now >= self.next_poll {
            self.poll()?;
            self.next_poll = self.now + self.poll_interval;
        }
        self.kernel.set_now(self.now)?;
        let Frame { bytes, length, .. } = &frame;
        // Written whole, and not larger than the kernel takes.
        if bytes.len() >= *length && self.kernel.run(self.program, bytes, None).is_ok() {
            return Ok(());
        }
        // Otherwise its head, and its length told beside it: what was not captured is no payload of zeros, and
        // a length that only stands in a file costs no memory.
        let length = u32::try_from(bytes.len().max(*length)).unwrap_or(u32::MAX);
        Ok(self.kernel.run_truncated(self.program, &frame.head(HEAD), length).map(drop)?)
    }

    fn poll(&mut self) -> Result<()> {
        let Self { kernel, engine, outputs, now, .. } = self;
        poll::poll(kernel, engine, &mut Keeper::none(), (*now, EPOCH), |effects| {
            outputs.write_all(effects, EPOCH)
        })
        .map(drop)
    }

    /// Goes to the end; gives back what the program counted.
    fn finish(mut self, config: &Config, at_end: AtEnd) -> Result<Totals> {
        self.poll()?;
        if at_end == AtEnd::Drain {
            let longest = config.engine.rules.iter().map(|rule| rule.memory()).max();
            self.now = self.now + config.engine.timeouts.idle;
            self.poll()?;
            self.now = self.now + longest.unwrap_or_default();
            self.poll()?;
        }
        let Self { mut kernel, mut engine, mut outputs, now, .. } = self;
        poll::final_poll(&mut kernel, &mut engine, &mut Keeper::none(), (now, EPOCH), |effects| {
            outputs.write_all(effects, EPOCH)
        })?;
        let totals = kernel.totals()?;
        outputs.close(GRACE)?;
        Ok(totals)
    }
}
