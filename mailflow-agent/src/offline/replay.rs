//! Replay: runs the frames of captures through the loaded XDP program, with the time of the capture as the
//! clock.

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
        program_load::{HostScope, load},
    },
    config::{Config, Role},
    metrics::AgentMetrics,
    outputs::{gateway::Gateway, set::OutputSet},
    recovery::checkpointer::Checkpointer,
};
use mailflow_engine::{
    Engine,
    settings::{RuleLimits, Settings},
    time::{Time, WallClockOffset},
};
use mailflow_kernel::clock;
use mailflow_kernel::{self, Kernel, Programs};

/// Longest time that the outputs may take at the end to write their queues.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Clock offset of a replay: times in captures are times of the wall clock.
const CAPTURE_CLOCK_OFFSET: WallClockOffset = WallClockOffset::from_unix_nanos(0);
/// Number of bytes of a frame that hold its headers and the inspected payload.
const HEAD_BYTES: usize = 2_048;
/// Largest step of the clock that the program can process: its 32-bit ticks can be compared within 24 days. All flows
/// end before a larger step.
const MAX_CLOCK_STEP: Duration = Duration::from_secs(24 * 60 * 60);
/// Largest disorder that is normal in a capture, as of frames from several queues.
const MAX_REORDER: Duration = Duration::from_secs(1);
/// Smallest frame: a shorter one has no ethertype, and the kernel rejects it.
const MIN_FRAME_BYTES: usize = 14;

/// Counts of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplaySummary {
    /// Frames that the program processed.
    pub frames: u64,
    /// Frames whose link type carries no IP or is not supported, and frames without an ethertype.
    pub skipped: u64,
    /// Captures that could not be read to their end.
    pub damaged: u64,
}

/// Processing after the end of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfInput {
    /// Ends at the last time of the input. Open flows get a final record.
    Stop,
    /// Advances time to the end of the longest window.
    Drain,
}

/// Replays captures as one timeline, in the order of their first frames.
///
/// # Errors
/// Fails if the program cannot be loaded, or the kernel fails during the replay.
pub fn run(
    config: &Config,
    role: Role,
    captures: &[PathBuf],
    end_of_input: EndOfInput,
) -> Result<ReplaySummary> {
    let agent = AgentMetrics::new(env!("CARGO_PKG_VERSION"), clock::unix_seconds())?;
    let outputs =
        OutputSet::open_offline(&config.outputs, &agent, Gateway::new(config.gateway_name.as_deref()))?;
    let mut replay = Replay::new(config, role, outputs)?;
    let mut result = ReplaySummary::default();
    let mut progress = Progress::new(captures, &config.outputs, Unit::Frames);
    for path in &sort_by_begin(captures) {
        match replay.replay_capture(path, &mut result, &mut progress) {
            Ok(()) => {}
            Err(ReplayError::Capture(damage)) => {
                progress.suspend(|| error!("{damage}"));
                result.damaged += 1;
            }
            Err(ReplayError::Other(error)) => return Err(error),
        }
    }
    progress.finish();
    let totals = replay.finish(config, end_of_input)?;
    let counted = totals.up.buffers + totals.down.buffers;
    let ReplaySummary { frames, skipped, damaged } = result;
    info!(frames, counted, skipped, damaged, "replayed");
    if let Some(reasons) = format_uncounted(&totals) {
        info!("not counted: {reasons}");
    }
    Ok(result)
}

/// Sorts captures by their first frame, as a shell puts `cap10` before `cap2`. Keeps the order if one of
/// them can be read only once, as a pipe.
fn sort_by_begin(captures: &[PathBuf]) -> Vec<PathBuf> {
    let mut ordered = captures.to_vec();
    if captures.iter().all(|path| path.is_file()) {
        // An unreadable capture is reported when the replay reaches it.
        let begin = |path: &PathBuf| Some(Capture::open(path).ok()?.next_frame().ok()??.time);
        ordered.sort_by_cached_key(begin);
    }
    ordered
}

/// Formats the number of frames by the reason why they were not counted to a flow. With the counted frames
/// they are all frames.
fn format_uncounted(totals: &Totals) -> Option<String> {
    let counts = Reason::ALL.into_iter().map(|reason| (reason.name(), totals.reason(reason)));
    let counts: Vec<String> =
        counts.filter(|(_, frames)| *frames > 0).map(|(name, frames)| format!("{name} {frames}")).collect();
    (!counts.is_empty()).then(|| counts.join(", "))
}

/// Reason why a capture was not read to its end.
enum ReplayError {
    Capture(CaptureError),
    Other(anyhow::Error),
}

impl From<CaptureError> for ReplayError {
    fn from(error: CaptureError) -> Self {
        Self::Capture(error)
    }
}

impl From<anyhow::Error> for ReplayError {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

struct Replay {
    kernel: Kernel,
    engine: Engine,
    outputs: OutputSet,
    program: &'static str,
    poll_interval: Duration,
    /// Time without a packet after which no flow is open.
    idle_timeout: Duration,
    now: Time,
    next_poll: Time,
    /// Frames of this capture that are older than an earlier one by more than [`MAX_REORDER`].
    late_frames: u64,
}

impl Replay {
    fn new(config: &Config, role: Role, outputs: OutputSet) -> Result<Self> {
        let program = mailflow_kernel::replay_program(role)?;
        Ok(Self {
            kernel: load(config, Programs::One(program), HostScope::Any)?,
            // No alert of a capture is to be dropped.
            engine: Engine::new(Settings { limits: RuleLimits::WIDEST, ..config.engine.clone() }),
            outputs,
            program,
            poll_interval: config.poll_interval,
            idle_timeout: config.engine.timeouts.idle,
            now: Time::ZERO,
            next_poll: Time::ZERO,
            late_frames: 0,
        })
    }

    fn replay_capture(
        &mut self,
        path: &Path,
        result: &mut ReplaySummary,
        progress: &mut Progress,
    ) -> Result<(), ReplayError> {
        let mut capture = Capture::open(path)?;
        let result_of_capture = loop {
            match capture.next_frame() {
                Ok(Some(frame)) if frame.bytes.len() < MIN_FRAME_BYTES => result.skipped += 1,
                Ok(Some(frame)) => {
                    self.replay_frame(frame).with_context(|| path.display().to_string())?;
                    result.frames += 1;
                    progress.update(result.frames, capture.position());
                }
                Ok(None) => break Ok(()),
                Err(damage) => break Err(damage.into()),
            }
        };
        progress.finish_file(result.frames, capture.position());
        let late_frames = std::mem::take(&mut self.late_frames);
        if late_frames > 0 {
            progress.suspend(|| {
                warn!(capture = %path.display(), frames = late_frames, "frames out of order are counted at the time of the newest frame");
            });
        }
        if capture.skipped() > 0 {
            progress.suspend(|| {
                let types: Vec<String> =
                    capture.skipped_types().iter().map(|(link, frames)| format!("{link}: {frames}")).collect();
                let (frames, types) = (capture.skipped(), types.join(", "));
                warn!(capture = %path.display(), frames, link_types = types, "frames without IP, or of link types that are not supported");
            });
        }
        result.skipped += capture.skipped();
        result_of_capture
    }

    fn replay_frame(&mut self, frame: Frame) -> Result<()> {
        // The clock of the program never goes back, even if the frames are out of order.
        let time = Time::from_nanos(frame.time);
        let now = self.now.max(time);
        // A frame without a time (a simple packet block) has the time of the previous frame.
        if time != Time::ZERO && now.since(time) > MAX_REORDER {
            self.late_frames += 1;
        }
        let idle_period = self.idle_timeout + Duration::from_secs(1);
        if self.now != Time::ZERO && now.since(self.now) > idle_period.max(MAX_CLOCK_STEP) {
            self.now = self.now + idle_period;
            self.poll()?;
        }
        self.now = now;
        if self.now >= self.next_poll {
            self.poll()?;
            self.next_poll = self.now + self.poll_interval;
        }
        self.kernel.set_now(self.now)?;
        let Frame { bytes, length, .. } = &frame;
        // The whole frame, if it was captured completely and the kernel accepts its size.
        if bytes.len() >= *length && self.kernel.run(self.program, bytes, None).is_ok() {
            return Ok(());
        }
        // Otherwise the head and the length on the wire: bytes that were not captured are not zeros, and a
        // length that is only claimed must not cost memory.
        let length = u32::try_from(bytes.len().max(*length)).unwrap_or(u32::MAX);
        Ok(self.kernel.run_truncated(self.program, &frame.head(HEAD_BYTES), length).map(drop)?)
    }

    fn poll(&mut self) -> Result<()> {
        let Self { kernel, engine, outputs, now, .. } = self;
        poll::poll(kernel, engine, &mut Checkpointer::disabled(), (*now, CAPTURE_CLOCK_OFFSET), |effects| {
            outputs.write_all(effects, CAPTURE_CLOCK_OFFSET)
        })
        .map(drop)
    }

    /// Finishes the replay, and returns the counters of the program.
    fn finish(mut self, config: &Config, end_of_input: EndOfInput) -> Result<Totals> {
        self.poll()?;
        if end_of_input == EndOfInput::Drain {
            let longest_window = config.engine.rules.iter().map(|rule| rule.max_alert_delay()).max();
            self.now = self.now + config.engine.timeouts.idle;
            self.poll()?;
            self.now = self.now + longest_window.unwrap_or_default();
            self.poll()?;
        }
        let Self { mut kernel, mut engine, mut outputs, now, .. } = self;
        poll::final_poll(
            &mut kernel,
            &mut engine,
            &mut Checkpointer::disabled(),
            (now, CAPTURE_CLOCK_OFFSET),
            |effects| outputs.write_all(effects, CAPTURE_CLOCK_OFFSET),
        )?;
        let totals = kernel.totals()?;
        outputs.close(CLOSE_TIMEOUT)?;
        Ok(totals)
    }
}
