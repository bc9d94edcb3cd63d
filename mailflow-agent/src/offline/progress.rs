//! How far a replay or a backtest is, shown on a terminal.

use std::{
    fs,
    io::{self, IsTerminal},
    path::PathBuf,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::config::Outputs;

/// Units between two looks at the position.
const UPDATE_INTERVAL_UNITS: u64 = 1_024;

/// What is counted.
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

/// A bar on standard error: bytes read of all files, as they are on the disk, and units a second.
pub(crate) struct Progress {
    bar: ProgressBar,
    unit: Unit,
    /// Bytes of the files that are done.
    bytes_done: u64,
}

impl Progress {
    /// Shows nothing where standard error is no terminal, or where lines for standard output would run
    /// over the same one.
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

    /// Shows that `units` in all, and `position` bytes of this file, are done.
    pub(crate) fn update(&self, units: u64, position: u64) {
        if units.is_multiple_of(UPDATE_INTERVAL_UNITS) && !self.bar.is_hidden() {
            self.show(units, position);
        }
    }

    /// Shows the same, for who has counted many units.
    pub(crate) fn update_block(&self, units: u64, position: u64) {
        if !self.bar.is_hidden() {
            self.show(units, position);
        }
    }

    /// Shows that a file is done.
    pub(crate) fn finish_file(&mut self, units: u64, position: u64) {
        self.show(units, position);
        self.bytes_done += position;
    }

    /// Lets `print` write to the terminal.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn show(&self, units: u64, position: u64) {
        let rate = units as f64 / self.bar.elapsed().as_secs_f64().max(0.001);
        let unit = self.unit.name();
        self.bar.set_message(format!("{units} {unit}, {rate:.0} {unit}/s"));
        self.bar.set_position(self.bytes_done + position);
    }
}
