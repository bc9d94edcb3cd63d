//! Progress of a replay or a backtest, on a terminal.

use std::{
    fs,
    io::{self, IsTerminal},
    path::PathBuf,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::config::Outputs;

/// Number of units between two updates of the bar.
const UPDATE_INTERVAL_UNITS: u64 = 1_024;

/// Unit that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Frames,
    Records,
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Unit::Frames => "frames",
            Unit::Records => "records",
        }
    }
}

/// Progress bar on standard error: bytes read of all files, before decompression, and units a second.
pub(crate) struct Progress {
    bar: ProgressBar,
    unit: Unit,
    /// Bytes of the finished files.
    bytes_done: u64,
}

impl Progress {
    /// Creates a bar. It is hidden if standard error is no terminal, or if events are written to the same
    /// terminal.
    pub(crate) fn new(files: &[PathBuf], outputs: &Outputs, unit: Unit) -> Self {
        let to_stdout = outputs.to_stdout();
        let target = if to_stdout && io::stdout().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr_with_hz(5)
        };
        let lengths = files.iter().filter_map(|path| fs::metadata(path).ok());
        let bar = ProgressBar::with_draw_target(Some(lengths.map(|file| file.len()).sum()), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:32} {bytes}/{total_bytes} {msg} {eta}") {
            bar.set_style(style);
        }
        Self { bar, unit, bytes_done: 0 }
    }

    /// Shows that `units` in total, and `position` bytes of this file, were read.
    pub(crate) fn update(&self, units: u64, position: u64) {
        if units.is_multiple_of(UPDATE_INTERVAL_UNITS) && !self.bar.is_hidden() {
            self.redraw(units, position);
        }
    }

    /// Shows the progress at once. For callers that count many units at a time.
    pub(crate) fn update_block(&self, units: u64, position: u64) {
        if !self.bar.is_hidden() {
            self.redraw(units, position);
        }
    }

    /// Shows that a file is finished.
    pub(crate) fn finish_file(&mut self, units: u64, position: u64) {
        self.redraw(units, position);
        self.bytes_done += position;
    }

    /// Hides the bar while `print` writes to the terminal.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn redraw(&self, units: u64, position: u64) {
        let rate = units as f64 / self.bar.elapsed().as_secs_f64().max(0.001);
        let unit = self.unit.name();
        self.bar.set_message(format!("{units} {unit}, {rate:.0} {unit}/s"));
        self.bar.set_position(self.bytes_done + position);
    }
}
