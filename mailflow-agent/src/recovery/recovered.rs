//! Reading what an agent before left. A file that cannot be used is set aside under its cause, and the start goes on.

use std::io;

use tracing::{info, warn};

use super::{
    checkpoint::{Head, JOURNAL, STATE, VERSION},
    directory::Directory,
    journal::{
        file::{self, DamageKind, Found},
        history::{self, History, Past},
        output_offsets::Written,
        record::Entry,
    },
    machine_id::MachineId,
    store::State,
};

/// What an agent before left.
#[derive(Debug, Default)]
pub struct Recovered {
    /// How far it had come; none at the first start, after a boot of the machine, or where it cannot be used.
    pub state: Option<State>,
    /// What it did since.
    pub journal: Vec<Entry>,
    /// What the rules had judged.
    pub history: Vec<Past>,
    /// What its files have already of what may not have been written.
    pub written: Written,
    /// Files that could not be used and were set aside, each with its cause.
    pub notes: Vec<String>,
    /// Why the directory takes nothing, if it does not.
    pub trouble: Option<String>,
    /// Bytes of the state's file.
    pub(crate) bytes: u64,
}

/// Why a state is not used.
enum Unusable {
    /// It is of another boot of this machine, as after every boot.
    OtherBoot,
    /// It should not be so.
    Cause(String),
}

impl Recovered {
    /// Reads the files of a directory, for an agent in this boot of this machine.
    pub(crate) fn read(directory: &Directory, here: (&str, &MachineId), unix_seconds: u64) -> Self {
        let mut recovered = Self::default();
        let found = match directory.read(STATE) {
            Ok(None) => return recovered,
            Ok(Some(bytes)) if bytes.is_empty() => Err(Unusable::Cause("it is empty".to_owned())),
            Ok(Some(bytes)) => {
                recovered.bytes = bytes.len() as u64;
                state(&file::found(&bytes), here)
            }
            Err(error) => Err(Unusable::Cause(format!("it cannot be read: {error}"))),
        };
        match found {
            Ok(state) => recovered.state = Some(state),
            Err(Unusable::OtherBoot) => {
                info!("the state is of another boot of this machine: windows begin anew");
                return recovered;
            }
            Err(Unusable::Cause(cause)) => {
                recovered.bytes = 0;
                let aside = directory.set_aside(STATE, STATE, unix_seconds);
                recovered.note(directory, (STATE, &cause), aside, "windows begin anew");
                return recovered;
            }
        }
        recovered.read_journal(directory, unix_seconds);
        recovered.read_history(directory, unix_seconds);
        recovered
    }

    fn read_journal(&mut self, directory: &Directory, unix_seconds: u64) {
        let entries = match file::read(directory, JOURNAL) {
            Ok(found) => self.usable(directory, JOURNAL, JOURNAL, found, unix_seconds, Entry::read),
            Err(error) => self.unreadable(directory, JOURNAL, JOURNAL, &error, unix_seconds),
        };
        let files = entries.iter().rev().find_map(|entry| match entry {
            Entry::Written(files) => Some(files.as_slice()),
            _ => None,
        });
        self.written = Written::read(files.unwrap_or_default());
        self.journal = entries;
    }

    fn read_history(&mut self, directory: &Directory, unix_seconds: u64) {
        const LABEL: &str = "history";
        let files = match History::read(directory) {
            Ok(files) => files,
            Err(error) => {
                warn!(%error, "the state directory cannot be listed; records since the last state are not judged again");
                return;
            }
        };
        let mut past = Vec::new();
        for (name, found) in files {
            past.extend(match found {
                Ok(found) => self.usable(directory, &name, LABEL, found, unix_seconds, Past::read),
                Err(error) => self.unreadable(directory, &name, LABEL, &error, unix_seconds),
            });
        }
        let now = self.state.as_ref().map_or(0, |state| state.now);
        self.history = history::since(past, now);
    }

    /// The entries of a file up to its damage. A last entry that is cut off is what a kill leaves.
    fn usable<T>(
        &mut self,
        directory: &Directory,
        name: &str,
        label: &str,
        found: Found,
        unix_seconds: u64,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Vec<T> {
        let entries: Vec<T> = found.frames.iter().map_while(|frame| read(frame)).collect();
        let unknown = found.frames.len() - entries.len();
        let cause = match found.damage {
            Some(damage) if damage.kind == DamageKind::CutOff && unknown == 0 => {
                info!(file = name, bytes = damage.left, "the last entry is cut off and left out");
                return entries;
            }
            _ if unknown > 0 => Some(format!("its entry {} is unknown", entries.len() + 1)),
            damage => damage.map(|damage| damage.to_string()),
        };
        if let Some(cause) = cause {
            let bytes = directory.read(name).map(Option::unwrap_or_default);
            let aside = bytes.and_then(|bytes| directory.copy_aside(&bytes, label, unix_seconds));
            self.note(directory, (name, &cause), aside, "what follows in it is left out");
        }
        entries
    }

    fn unreadable<T>(
        &mut self,
        directory: &Directory,
        name: &str,
        label: &str,
        error: &io::Error,
        unix_seconds: u64,
    ) -> Vec<T> {
        let aside = directory.set_aside(name, label, unix_seconds);
        let cause = format!("it cannot be read: {error}");
        self.note(directory, (name, &cause), aside, "the agent goes on without it");
        Vec::new()
    }

    /// Notes a file that cannot be used, and what comes of that.
    fn note(
        &mut self,
        directory: &Directory,
        (name, cause): (&str, &str),
        aside: io::Result<String>,
        consequence: &str,
    ) {
        let path = directory.path().join(name);
        let kept = match aside {
            Ok(aside) => format!("set aside as {aside}"),
            Err(error) => format!("it cannot be set aside: {error}"),
        };
        let note = format!("{} cannot be used: {cause}; {kept}; {consequence}", path.display());
        warn!("{note}");
        self.notes.push(note);
    }
}

/// The state in a file's frames, for this boot of this machine.
fn state(found: &Found, (boot, machine): (&str, &MachineId)) -> Result<State, Unusable> {
    let cause = |cause: String| Unusable::Cause(cause);
    let damaged =
        || cause(found.damage.map_or_else(|| "it ends too early".to_owned(), |damage| damage.to_string()));
    let head = found.frames.first().ok_or_else(damaged)?;
    let head: Head =
        postcard::from_bytes(head).map_err(|error| cause(format!("its head cannot be read: {error}")))?;
    if head.version != VERSION {
        let of = head.version;
        return Err(cause(format!("it has format {of}, and this agent reads format {VERSION}")));
    }
    let bytes = found.frames.get(1).ok_or_else(damaged)?;
    if head.boot != boot {
        // States of before had no machine in them.
        let other = found.frames.get(2).and_then(|frame| postcard::from_bytes::<MachineId>(frame).ok());
        return Err(match other {
            Some(MachineId(other)) if !other.is_empty() && !machine.0.is_empty() && other != machine.0 => {
                cause(format!("it is of another machine (machine id {other})"))
            }
            _ => Unusable::OtherBoot,
        });
    }
    if found.damage.is_some() {
        return Err(damaged());
    }
    postcard::from_bytes(bytes).map_err(|error| cause(format!("it cannot be decoded: {error}")))
}
