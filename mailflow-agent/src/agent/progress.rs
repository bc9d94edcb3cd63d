//! How far a replay is, shown on a terminal.

use std::{
    fs,
    io::{self, IsTerminal},
    path::PathBuf,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::config::{Outputs, Target};

/// Frames between two looks at the position.
const FRAMES: u64 = 1_024;

/// A bar on standard error: bytes read of all captures, as they are on the disk, and frames a second.
pub(super) struct Progress {
    bar: ProgressBar,
    /// Bytes of the captures that are done.
    done: u64,
}

impl Progress {
    /// Shows nothing where standard error is no terminal, or where lines for standard output would run
    /// over the same one.
    pub(super) fn new(captures: &[PathBuf], outputs: &Outputs) -> Self {
        let lines = [&outputs.flow_log, &outputs.alerts].contains(&&Some(Target::Stdout));
        let target = if lines && io::stdout().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr_with_hz(5)
        };
        let lengths = captures.iter().filter_map(|path| fs::metadata(path).ok());
        let bar = ProgressBar::with_draw_target(Some(lengths.map(|file| file.len()).sum()), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:32} {bytes}/{total_bytes} {msg} {eta}") {
            bar.set_style(style);
        }
        Self { bar, done: 0 }
    }

    /// Shows that `frames` frames in all, and `position` bytes of this capture, are done.
    pub(super) fn at(&self, frames: u64, position: u64) {
        if frames.is_multiple_of(FRAMES) && !self.bar.is_hidden() {
            self.show(frames, position);
        }
    }

    /// Shows that a capture is done.
    pub(super) fn captured(&mut self, frames: u64, position: u64) {
        self.show(frames, position);
        self.done += position;
    }

    /// Lets `print` write to the terminal.
    pub(super) fn pause<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn show(&self, frames: u64, position: u64) {
        let rate = frames as f64 / self.bar.elapsed().as_secs_f64().max(0.001);
        self.bar.set_message(format!("{frames} frames, {rate:.0} frames/s"));
        self.bar.set_position(self.done + position);
    }
}
