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
//! Nothing is forced to the disk: this is against the death of the process, not of the machine.

mod entry;
mod frames;
mod history;
mod tail;
mod untold;

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use self::{
    entry::{Entry, Judged},
    history::{Past, Told},
    tail::Written,
    untold::{Event, Untold},
};
use self::{
    frames::{Appender, Frames},
    history::History,
};
use crate::{
    control::Firing,
    engine,
    kernel::{self, Kept},
};

/// Of the format of all files; another one's files are set aside.
const VERSION: u32 = 3;
const STATE: &str = "state";
const JOURNAL: &str = "journal";
/// A journal this long asks for a state.
const LONG: u64 = 16 << 20;
/// Entries whose lines are not written take at most this much; beyond it those lines are given up.
const MOST_UNWRITTEN: usize = 4 << 20;

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another agent uses the directory.
    #[error("the state directory {} is in use by another agent{}", path.display(), crate::kernel::holder(*.pid))]
    Held {
        /// The directory.
        path: PathBuf,
        /// The agent's process, where it can be told.
        pid: Option<u32>,
    },
    /// The system refuses.
    #[error("state directory {}: {source}", path.display())]
    Refused {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Something cannot be written down.
    #[error("state: {0}")]
    Encoding(#[from] postcard::Error),
}

/// How far an agent had come.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The tables it belongs to: the kernel's number of the flow table, where they are pinned.
    pub generation: Option<u32>,
    /// What belongs to the tables.
    pub tables: Tables,
    /// When it was kept.
    pub now: u64,
    /// The last reading of the tables.
    pub seen: u64,
    /// Seeds of the flows' names.
    pub seeds: [u64; 2],
    /// The living flows as they were last seen, by name.
    pub flows: Vec<[u64; 5]>,
    /// What the rules know.
    pub rules: engine::state::State,
    /// The alerts that fire, each with the moment it began to.
    pub firing: Vec<(u64, Firing)>,
    /// Alert events that were not delivered everywhere, oldest first.
    pub untold: Vec<Untold>,
}

/// What belongs to the kernel's tables, see [`Kept`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tables {
    prefix: u8,
    ticks: [u64; 3],
    bases: Vec<(Vec<u8>, Vec<u8>)>,
    retired: [u64; 4],
    overflow: [u64; 4],
    carried: Vec<entry::Plain>,
    read: Vec<u32>,
}

impl From<Kept> for Tables {
    fn from(Kept { prefix, ticks, bases, retired, overflow, carried, read }: Kept) -> Self {
        let carried = carried.iter().map(entry::plain).collect();
        Self { prefix, ticks, bases, retired, overflow, carried, read }
    }
}

impl From<Tables> for Kept {
    fn from(Tables { prefix, ticks, bases, retired, overflow, carried, read }: Tables) -> Self {
        let carried = carried.into_iter().map(entry::flow).collect();
        Self { prefix, ticks, bases, retired, overflow, carried, read }
    }
}

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    /// The boot of the machine that all times and tables are of.
    boot: String,
}

/// What an agent before left.
#[derive(Debug, Default)]
pub struct Recovered {
    /// How far it had come; none at the first start, after a boot of the machine, or of another format.
    pub state: Option<State>,
    /// What it did since.
    pub journal: Vec<Entry>,
    /// What the rules had judged.
    pub history: Vec<Past>,
    /// What its files have already of what may not have been written.
    pub written: Written,
}

/// The directory, locked.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    boot: String,
    _lock: File,
    journal: Appender,
    history: History,
    /// The journal's entries since the outputs had written all.
    unwritten: Frames,
    /// Alerts handed over since all of them were delivered.
    untold: Vec<Told>,
}

impl Store {
    /// Opens a directory, which is made where it is missing, and reads what an agent before left.
    ///
    /// # Errors
    /// Another agent uses it, or the system refuses.
    pub fn open(directory: &Path) -> Result<(Self, Recovered), StateError> {
        let refused = |source| StateError::Refused { path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(refused)?;
        let lock = File::open(directory).map_err(refused)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = kernel::lock_holder(directory);
                return Err(StateError::Held { path: directory.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(refused(source)),
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(refused)?.trim().to_owned();
        let recovered = Self::recover(directory, &boot).map_err(refused)?;
        if recovered.state.is_none() {
            History::clear(directory).map_err(refused)?;
            frames::replace(&directory.join(JOURNAL), []).map_err(refused)?;
        }
        let journal = Appender::open(&directory.join(JOURNAL)).map_err(refused)?;
        let history = History::open(directory).map_err(refused)?;
        let directory = directory.to_owned();
        let store = Self {
            directory,
            boot,
            _lock: lock,
            journal,
            history,
            unwritten: Frames::default(),
            untold: Vec::new(),
        };
        Ok((store, recovered))
    }

    fn recover(directory: &Path, boot: &str) -> io::Result<Recovered> {
        let mut found = frames::read(&directory.join(STATE))?.into_iter();
        let (Some(head), Some(state)) = (found.next(), found.next()) else { return Ok(Recovered::default()) };
        let known =
            postcard::from_bytes(&head).is_ok_and(|head: Head| head.version == VERSION && head.boot == boot);
        let Some(state) = known.then(|| postcard::from_bytes(&state).ok()).flatten() else {
            tracing::info!("the state is of another boot or another version: windows begin anew");
            return Ok(Recovered::default());
        };
        let journal: Vec<Entry> =
            frames::read(&directory.join(JOURNAL))?.iter().filter_map(|frame| Entry::read(frame)).collect();
        let files = journal.iter().rev().find_map(|entry| match entry {
            Entry::Written(files) => Some(files.as_slice()),
            _ => None,
        });
        let written = Written::read(files.unwrap_or_default());
        let state: State = state;
        let history = history::since(History::read(directory)?, state.now);
        Ok(Recovered { state: Some(state), written, journal, history })
    }

    /// Writes entries to the journal.
    ///
    /// # Errors
    /// The system refuses; then nothing of it is there.
    pub fn note(&mut self, entries: impl IntoIterator<Item = Entry>) -> io::Result<()> {
        for entry in entries {
            let frame = self.journal.add(&entry.line()).map_err(io::Error::other)?;
            // More of them are given up.
            if self.unwritten.bytes().len() <= MOST_UNWRITTEN {
                self.unwritten.push(frame);
            }
        }
        self.journal.write()
    }

    /// Writes to the history what the rules have judged, by which clock, and until when time passed.
    ///
    /// # Errors
    /// The system refuses.
    pub fn passed(&mut self, past: impl IntoIterator<Item = Past>) -> io::Result<()> {
        self.history.write(past)
    }

    /// Alerts were handed to the outputs.
    pub fn handed_over(&mut self, alerts: impl IntoIterator<Item = Told>) {
        self.untold.extend(alerts);
    }

    /// All alerts that were handed over are delivered.
    ///
    /// # Errors
    /// The system refuses.
    pub fn delivered(&mut self) -> io::Result<()> {
        self.history.write(self.untold.drain(..).map(Past::Told))
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
        let entry = Entry::Written(files.iter().filter_map(|file| tail::Mark::of(file)).collect());
        self.unwritten.clear(0);
        self.note([entry])
    }

    /// Whether there is more that the outputs have not written than is kept for them.
    pub fn is_full(&self) -> bool {
        self.unwritten.bytes().len() > MOST_UNWRITTEN
    }

    /// Whether a state should be kept even if that takes a while.
    pub fn is_long(&self) -> bool {
        self.journal.bytes() > LONG
    }

    /// Replaces the state. What the outputs have not written or delivered stays known.
    ///
    /// # Errors
    /// The system refuses; the state before, and the journal and the history since then, stay.
    pub fn keep(&mut self, state: &State) -> Result<(), StateError> {
        let (mut whole, mut kept) = (Frames::default(), Frames::default());
        whole.add(&Head { version: VERSION, boot: self.boot.clone() })?;
        whole.add(state)?;
        let refused = |source| StateError::Refused { path: self.directory.clone(), source };
        // The journal first says that the state has it all, so that nothing is booked twice whenever this ends.
        kept.push(self.journal.add(&Entry::Kept(state.now).line())?);
        self.journal.write().map_err(refused)?;
        self.history.write([Past::Kept(state.now)]).map_err(refused)?;
        frames::replace(&self.directory.join(STATE), [&whole]).map_err(refused)?;
        // While outputs are behind it is not written anew each time.
        if self.unwritten.len() <= 1 || self.is_long() {
            let journal = self.directory.join(JOURNAL);
            frames::replace(&journal, [&self.unwritten, &kept]).map_err(refused)?;
            self.journal = Appender::open(&journal).map_err(refused)?;
        }
        // Of the alerts before, the state has those that are to be told yet.
        let left: Vec<Told> = state.untold.iter().map(|untold| Told::of(&untold.event.event().0)).collect();
        self.untold.retain(|told| left.contains(told));
        self.history.forget().map_err(refused)
    }
}
