//! A command in a pseudo-terminal, and what the terminal shows.

use std::{
    fs::File,
    io::{Read, Write},
    num::NonZeroU16,
    ops::Range,
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::interrupt;

/// Byte of Ctrl-C.
const CONTROL_C: u8 = 3;

/// End of a command.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// The command ends by itself within this time.
    Itself(Duration),
    /// The capture shows the terminal at this time; then the command gets a key that ends it.
    Key { after: Duration, key: u8 },
}

/// Screen of a terminal.
pub(super) struct Capture {
    parser: vt100::Parser,
}

impl Capture {
    /// Runs a command in a terminal of `(rows, columns)`.
    pub(super) fn run(command: &Command, (rows, columns): (u16, u16), end: End) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("a pseudo-terminal")?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
        tcsetwinsize(&slave, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
        // setsid makes the terminal the controlling one: programs ask /dev/tty for its size.
        let mut inside = Command::new("setsid");
        inside.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        inside.env("TERM", "xterm-256color").env_remove("NO_COLOR").env_remove("RUST_LOG");
        if let Some(folder) = command.get_current_dir() {
            inside.current_dir(folder);
        }
        inside.stdin(Stdio::from(slave.try_clone()?)).stdout(Stdio::from(slave.try_clone()?)).stderr(slave);
        let mut child = inside.spawn().context("cannot run setsid")?;
        drop(inside);

        let [height, width] = [rows, columns].map(|side| NonZeroU16::new(side).unwrap_or(NonZeroU16::MIN));
        let mut capture = Self { parser: vt100::Parser::new(height, width, 0) };
        let mut keyboard = File::from(master);
        let output = read(keyboard.try_clone()?);
        let (patience, key) = match end {
            End::Itself(patience) => (patience, None),
            End::Key { after, key } => (after, Some(key)),
        };
        let ended = capture.follow(&output, patience);
        match key {
            Some(key) if interrupt::check().is_ok() => {
                ensure!(!ended, "the command ended: {}", capture.text(0));
                keyboard.write_all(&[key])?;
            }
            None if ended => {}
            _ => {
                // The terminal makes a signal of it: the command cleans up.
                keyboard.write_all(&[CONTROL_C])?;
                child.wait()?;
                interrupt::check()?;
                bail!("the command still ran after {patience:?}");
            }
        }
        let status = child.wait()?;
        ensure!(status.success(), "{status}:\n{}", capture.parser.screen().contents());
        Ok(capture)
    }

    /// Feeds the terminal until the command has ended (true), or the time is over or a signal was caught (false).
    fn follow(&mut self, output: &mpsc::Receiver<Vec<u8>>, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match output.recv_timeout(left.min(interrupt::CHECK_INTERVAL)) {
                Ok(bytes) => self.parser.process(&bytes),
                Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) if left.is_zero() || interrupt::check().is_err() => {
                    return false;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    pub(super) fn screen(&self) -> &vt100::Screen {
        self.parser.screen()
    }

    /// Returns the numbers of rows and columns.
    pub(super) fn size(&self) -> (u16, u16) {
        let (rows, columns) = self.screen().size();
        (rows.get(), columns.get())
    }

    /// Returns the text of a row, without blanks at its end.
    pub(super) fn text(&self, row: u16) -> String {
        let (_, columns) = self.size();
        let text = self.screen().contents_between(row, 0, row, columns);
        text.trim_end().to_owned()
    }

    /// Returns the number of rows up to the last one with text.
    pub(super) fn rows_in_use(&self) -> u16 {
        let (rows, _) = self.size();
        (0..rows).rev().find(|row| !self.text(*row).is_empty()).map_or(0, |last| last + 1)
    }

    /// Returns the rows from the first one that `begins` accepts to the one before `ends`, without empty rows at the
    /// end.
    pub(super) fn between(&self, begins: fn(&str) -> bool, ends: fn(&str) -> bool) -> Result<Range<u16>> {
        let find = |from: u16, accepts: fn(&str) -> bool| {
            (from..self.rows_in_use()).find(|row| accepts(&self.text(*row)))
        };
        let first = find(0, begins).context("the output lacks its first line")?;
        let mut end = find(first, ends).context("the output lacks its last line")?;
        while end > first && self.text(end - 1).is_empty() {
            end -= 1;
        }
        Ok(first..end)
    }
}

/// Reads a terminal until its last program has ended.
fn read(mut terminal: File) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = vec![0; 16 << 10];
        // EIO is the end of a pseudo-terminal.
        while let Ok(length @ 1..) = terminal.read(&mut bytes) {
            if sender.send(bytes[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        shell
    }

    #[test]
    fn output_of_a_command_is_on_the_screen() {
        let script = "echo zero; echo one; stty size; echo; echo end";
        let capture = Capture::run(&shell(script), (9, 33), End::Itself(Duration::from_secs(20))).unwrap();
        let rows = capture.between(|line| line == "one", |line| line == "end").unwrap();
        assert_eq!((rows, capture.text(2), capture.rows_in_use()), (1..3, "9 33".to_owned(), 5));
        assert!(Capture::run(&shell("exit 3"), (9, 33), End::Itself(Duration::from_secs(20))).is_err());
        let slow = Capture::run(&shell("sleep 60"), (9, 33), End::Itself(Duration::from_secs(1)));
        assert!(slow.is_err_and(|error| error.to_string().contains("still ran")));
    }

    #[test]
    fn key_ends_a_command_after_the_capture() {
        let script = "stty -icanon -echo; echo before; dd bs=1 count=1 2>/dev/null; echo after";
        let end = End::Key { after: Duration::from_secs(1), key: b'q' };
        let capture = Capture::run(&shell(script), (5, 20), end).unwrap();
        assert_eq!((capture.text(0).as_str(), capture.rows_in_use()), ("before", 1));
    }
}
