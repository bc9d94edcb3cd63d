//! What outlives the agent's process, in a directory of its own.
//!
//! ```text
//! state          how far it had come: rewritten as a whole, by renaming
//! journal        what each poll does to the kernel's tables, before it does it; since the last state
//! history-*      the records that the rules have judged and the alerts that were told; since the last state
//! ```
//!
//! **What is never lost, nor told twice.** A flow is in the journal before it is taken out of its table, and
//! is booked after that. So at start an entry of the journal that is still in its table was not booked, and
//! is left for the next reading; one that is gone is booked from the journal. What the rules know follows from
//! the records in their order: those since the state are judged again, and an alert that was told is not told
//! again. Lines that a file has already are not written to it again.
//!
//! **Without durability.** Where the files cannot be written ([`Unwritable::InMemory`]), entries are kept in memory only. They
//! are written again from a fresh state on: the state is replaced first, then the journal, so that no entry from before
//! is replayed over it.
//!
//! Nothing is forced to the disk: this is against the death of the process, not of the machine.

use super::{
    checkpoint::{Head, JOURNAL, STATE, VERSION},
    directory::Directory,
    journal::{
        file::{Appender, Frames},
        history::History,
    },
    machine_id::MachineId,
};
pub use super::{
    checkpoint::{State, Tables},
    error::{StateError, Unwritable},
    journal::{
        history::{Past, Told},
        output_offsets::Written,
        record::{Entry, Judged},
    },
    recovered::Recovered,
};

#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub use crate::outputs::pending_delivery::{Event, Untold};
use crate::util::disk::{FileLimits, is_disk_failure};

/// The setting, as errors name it.
const MIN_FREE: &str = "state.min_free";
/// Most alerts that are remembered as handed over while no state forgets them.
const MOST_UNTOLD: usize = 1_000;
/// A journal this long asks for a state.
const LONG: u64 = 16 << 20;
/// Entries whose lines are not written take at most this much; beyond it those lines are given up.
const MOST_UNWRITTEN: usize = 4 << 20;

/// The directory, locked.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    limits: FileLimits,
    boot: String,
    machine: MachineId,
    /// The files; none where there is no directory.
    files: Option<Files>,
    /// The moment of the state in the directory; none where there is none.
    state: Option<u64>,
    /// Bytes of that state.
    state_bytes: u64,
    /// Entries are kept in memory only.
    suspended: bool,
    /// Why that began, until it is asked for.
    cause: Option<String>,
    /// The journal's entries since the outputs had written all.
    unwritten: Frames,
    /// Alerts handed over since all of them were delivered.
    untold: Vec<Told>,
}

#[derive(Debug)]
struct Files {
    directory: Directory,
    /// None until it could be opened.
    journal: Option<Appender>,
    history: History,
}

impl Store {
    /// Opens a directory, which is made where it is missing, and reads what an agent before left. A directory on a
    /// disk that takes nothing is no error: the store is suspended then, and [`Recovered::trouble`] says why.
    ///
    /// # Errors
    /// Another agent uses it, others may write to it, or the system refuses it for good.
    pub fn open(path: &Path, limits: FileLimits, unix_seconds: u64) -> Result<(Self, Recovered), StateError> {
        let refused = |source| StateError::Refused { path: path.to_owned(), source };
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(refused)?.trim().to_owned();
        let mut store = Self {
            path: path.to_owned(),
            limits,
            boot,
            machine: MachineId::of_this_machine(),
            files: None,
            state: None,
            state_bytes: 0,
            suspended: false,
            cause: None,
            unwritten: Frames::default(),
            untold: Vec::new(),
        };
        let directory = match Directory::open(path) {
            Ok(directory) => directory,
            Err(StateError::Refused { source, .. }) if is_disk_failure(&source) => {
                store.suspended = true;
                let trouble = Some(refused(source).to_string());
                return Ok((store, Recovered { trouble, ..Recovered::default() }));
            }
            Err(error) => return Err(error),
        };
        let mut recovered = Recovered::read(&directory, (&store.boot, &store.machine), unix_seconds);
        store.state = recovered.state.as_ref().map(|state| state.now);
        store.state_bytes = recovered.bytes;
        let mut files = Files::new(directory);
        if let Err(source) = files.begin(recovered.state.is_none()) {
            store.suspended = true;
            recovered.trouble = Some(refused(source).to_string());
        }
        store.files = Some(files);
        Ok((store, recovered))
    }

    /// Writes entries to the journal.
    ///
    /// # Errors
    /// The system refuses, or a bound is reached, and `otherwise` is [`Unwritable::Refused`]; then nothing of it is
    /// there.
    pub fn note(
        &mut self,
        entries: impl IntoIterator<Item = Entry>,
        otherwise: Unwritable,
    ) -> io::Result<()> {
        let (count, bytes) = (self.unwritten.len(), self.unwritten.bytes().len());
        let result = self.write_entries(entries);
        if let Err(error) = &result {
            if let Some(Files { journal: Some(journal), .. }) = &mut self.files {
                journal.drop_added();
            }
            if otherwise == Unwritable::InMemory {
                self.suspended = true;
                self.cause = Some(error.to_string());
                return Ok(());
            }
            self.unwritten.truncate(count, bytes);
        }
        result
    }

    fn write_entries(&mut self, entries: impl IntoIterator<Item = Entry>) -> io::Result<()> {
        let mut frames = Frames::default();
        let mut journal = match &mut self.files {
            Some(Files { journal: Some(journal), .. }) if !self.suspended => Some(journal),
            _ => None,
        };
        for entry in entries {
            let frame = match &mut journal {
                Some(journal) => journal.add(&entry.line()),
                None => {
                    frames.clear(0);
                    frames.add(&entry.line())
                }
            };
            let frame = frame.map_err(io::Error::other)?;
            // More of them are given up.
            if self.unwritten.bytes().len() <= MOST_UNWRITTEN {
                self.unwritten.push(frame);
            }
        }
        if self.suspended {
            return Ok(());
        }
        let closed = || io::Error::other("the journal could not be opened");
        let files = self.files.as_mut().ok_or_else(closed)?;
        files.room(&self.limits, self.state_bytes)?;
        files.journal.as_mut().ok_or_else(closed)?.write()
    }

    /// Writes to the history what the rules have judged, by which clock, and until when time passed. Nothing while the
    /// store is suspended.
    ///
    /// # Errors
    /// The system refuses, or a bound is reached.
    pub fn passed(&mut self, past: impl IntoIterator<Item = Past>) -> io::Result<()> {
        let Some(files) = self.files.as_mut().filter(|_| !self.suspended) else { return Ok(()) };
        files.room(&self.limits, self.state_bytes)?;
        files.history.write(&files.directory, past)
    }

    /// Alerts were handed to the outputs.
    pub fn handed_over(&mut self, alerts: impl IntoIterator<Item = Told>) {
        self.untold.extend(alerts);
        if self.suspended {
            // No state forgets them meanwhile.
            let surplus = self.untold.len().saturating_sub(MOST_UNTOLD);
            self.untold.drain(..surplus);
        }
    }

    /// All alerts that were handed over are delivered.
    ///
    /// # Errors
    /// The system refuses.
    pub fn delivered(&mut self) -> io::Result<()> {
        let told = std::mem::take(&mut self.untold);
        self.passed(told.into_iter().map(Past::Told))
    }

    /// The outputs have written all lines that they were handed; `files` are those that they write to.
    ///
    /// # Errors
    /// The system refuses.
    pub fn written(&mut self, files: &[PathBuf]) -> io::Result<()> {
        // The first is the last such note.
        if self.unwritten.len() <= 1 {
            return Ok(());
        }
        self.mark(files)
    }

    /// The same, whether there was anything or not: from here on the files' lines are looked at.
    ///
    /// # Errors
    /// The system refuses.
    pub fn mark(&mut self, files: &[PathBuf]) -> io::Result<()> {
        let entry = Entry::Written(
            files.iter().filter_map(|file| super::journal::output_offsets::Mark::of(file)).collect(),
        );
        self.unwritten.clear(0);
        let result = self.note([entry.clone()], Unwritable::Refused);
        if result.is_err() {
            // What the files have is so whether it can be written down or not; the next journal begins with it.
            self.unwritten.add(&entry.line()).map_err(io::Error::other)?;
        }
        result
    }

    /// Returns true if there is more that the outputs have not written than is kept for them.
    pub fn is_full(&self) -> bool {
        self.unwritten.bytes().len() > MOST_UNWRITTEN
    }

    /// Returns true if a state should be kept even if that takes a while.
    pub fn is_long(&self) -> bool {
        self.files.as_ref().is_some_and(|files| files.journal_bytes() > LONG)
    }

    /// From now on entries are kept in memory, until [`Store::keep`] succeeds.
    pub fn suspend(&mut self) {
        self.suspended = true;
    }

    /// Why entries are kept in memory from now on, once.
    pub fn take_cause(&mut self) -> Option<String> {
        self.cause.take()
    }

    /// Other limits hold from now on.
    pub fn set_limits(&mut self, limits: FileLimits) {
        self.limits = limits;
    }

    /// Returns true while entries are kept in memory only.
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// The moment of the state in the directory; none where there is none.
    pub fn state(&self) -> Option<u64> {
        self.state
    }

    /// Bytes of the state, the journal and the history.
    pub fn bytes(&self) -> u64 {
        self.state_bytes
            + self.files.as_ref().map_or(0, |files| files.journal_bytes() + files.history.bytes())
    }

    /// Returns true if the directory is where it was opened; where it could not be opened there is none to miss.
    pub fn is_in_place(&self) -> bool {
        self.files.as_ref().is_none_or(|files| files.directory.is_in_place())
    }

    /// Replaces the state. What the outputs have not written or delivered stays known. A directory that was removed
    /// is made again. Afterwards the store is not suspended any more.
    ///
    /// # Errors
    /// The system refuses, or a bound is reached. Then the state in the directory is the one before, with the journal
    /// and the history since then, or this one.
    pub fn keep(&mut self, state: &State) -> Result<(), StateError> {
        let path = self.path.clone();
        let refused = |source| StateError::Refused { path: path.clone(), source };
        let mut whole = Frames::default();
        whole.add(&Head { version: VERSION, boot: self.boot.clone() })?;
        whole.add(state)?;
        whole.add(&self.machine)?;
        if !self.is_in_place() {
            tracing::warn!(
                directory = %self.path.display(),
                "the state directory was removed or replaced; it is made again with what the agent knows"
            );
            // Its lock is on a directory that nobody can open by this name any more.
            self.files = None;
            (self.state, self.state_bytes) = (None, 0);
        }
        let files = match &mut self.files {
            Some(files) => files,
            none => none.insert(Files::new(Directory::open(&self.path)?)),
        };
        if files.journal.is_none() {
            files.begin(self.state.is_none()).map_err(refused)?;
        }
        let Files { directory, journal: Some(journal), history } = files else {
            return Err(refused(io::Error::other("the journal could not be opened")));
        };
        let size = whole.bytes().len() as u64;
        self.limits.min_free.check(directory.file(), size, MIN_FREE).map_err(refused)?;
        // The old state and the new one are there together for a moment; of the journal and the history little is left.
        if size + self.state_bytes > self.limits.max_size {
            let (size, limit) = (size + self.state_bytes, self.limits.max_size);
            return Err(StateError::Size { path, size, limit });
        }
        let new = super::journal::file::stage(directory, STATE, [&whole]).map_err(refused)?;
        let mut kept = Frames::default();
        let before = journal.bytes();
        let finished = (|| {
            // The journal first says that the state has it all, so that nothing is booked twice whenever this ends.
            kept.push(journal.add(&Entry::Kept(state.now).line()).map_err(io::Error::other)?);
            journal.write()?;
            history.write(directory, [Past::Kept(state.now)])?;
            directory.rename(&new, STATE)
        })();
        if let Err(error) = finished {
            let _ = directory.remove(&new);
            let _ = journal.cut(before);
            return Err(refused(error));
        }
        (self.state, self.state_bytes) = (Some(state.now), size);
        // While outputs are behind it is not written anew each time.
        if self.suspended || self.unwritten.len() <= 1 || journal.bytes() > LONG {
            super::journal::file::replace(directory, JOURNAL, [&self.unwritten, &kept]).map_err(refused)?;
            *journal = Appender::open(directory, JOURNAL).map_err(refused)?;
        }
        // Of the alerts before, the state has those that are to be told yet.
        let left: Vec<Told> = state.untold.iter().map(|untold| Told::of(&untold.event.event().0)).collect();
        self.untold.retain(|told| left.contains(told));
        history.forget(directory).map_err(refused)?;
        self.suspended = false;
        Ok(())
    }
}

impl Files {
    fn new(directory: Directory) -> Self {
        Self { directory, journal: None, history: History::default() }
    }

    /// Opens the files; where they are to begin empty, what is there goes.
    fn begin(&mut self, empty: bool) -> io::Result<()> {
        self.history = History::open(&self.directory)?;
        if empty {
            self.history.forget(&self.directory)?;
            super::journal::file::replace(&self.directory, JOURNAL, [])?;
        }
        self.journal = Some(Appender::open(&self.directory, JOURNAL)?);
        Ok(())
    }

    fn journal_bytes(&self) -> u64 {
        self.journal.as_ref().map_or(0, Appender::bytes)
    }

    /// Returns an error if what was added to the journal would reach a bound. `state` are the bytes of the state.
    fn room(&self, limits: &FileLimits, state: u64) -> io::Result<()> {
        let more = self.journal.as_ref().map_or(0, Appender::added);
        let size = state + self.journal_bytes() + self.history.bytes() + more;
        if size > limits.max_size {
            let text = format!("state.max_size is {}, and {size} bytes are needed", limits.max_size);
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        limits.min_free.check(self.directory.file(), more, MIN_FREE)
    }
}
