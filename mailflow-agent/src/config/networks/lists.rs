//! The lists of internal networks: inline ones and files, read as often as they change.

use std::{collections::HashMap, fmt, sync::Arc};

use ipnet::IpNet;

pub(crate) use super::entry::{Listed, Said, group, prefix, role};
use super::{
    list_file::{Format, ListFile},
    overlap,
};
use crate::{
    config::{
        diagnostics::{Collector, Fault, Faults, Place, Position, quote},
        file,
        file_stamp::Stamp,
    },
    util::terminal::escape,
};
use mailflow_engine::network::Networks;

/// Where the internal networks come from, and how the files looked when they were read.
#[derive(Clone)]
pub struct Lists {
    /// The configuration's name.
    main: Arc<str>,
    /// The setting that holds all of it.
    place: Place,
    setting: String,
    inline: Vec<Listed>,
    files: Vec<ListFile>,
    /// As they were when they were last read, or seen in change.
    stamps: Vec<Option<Stamp>>,
    state: State,
}

/// What a look at the files has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// As they were read.
    Read,
    /// Somebody is writing, or was just now.
    Changing,
}

impl Format {
    /// The names in a configuration.
    pub(crate) const NAMES: [(&str, Format); 3] =
        [("lines", Format::Lines), ("csv", Format::Csv), ("netbox", Format::Netbox)];

    /// By the file's extension, else by what stands in it.
    fn of(file: &ListFile, text: &str) -> Self {
        let extension = file.path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "csv" | "tsv" => Format::Csv,
            "json" => Format::Netbox,
            _ if text.trim_start().starts_with(['{', '[']) => Format::Netbox,
            _ if super::csv::has_header(text) => Format::Csv,
            _ => Format::Lines,
        }
    }
}

impl Lists {
    /// Lists of which nothing was read yet; `setting` at `place` holds them.
    pub(crate) fn new(
        main: Arc<str>,
        (place, setting): (Place, String),
        inline: Vec<Listed>,
        files: Vec<ListFile>,
    ) -> Self {
        Self { main, place, setting, inline, files, stamps: Vec::new(), state: State::Read }
    }

    /// The files.
    pub fn files(&self) -> impl Iterator<Item = &std::path::Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Returns true if the files are others than those that were read, and have kept still since the last time
    /// this was asked: a file that is being written is not read half.
    pub fn changed(&mut self) -> bool {
        let stamps = self.look();
        let before = std::mem::replace(&mut self.stamps, stamps);
        let moved = before != self.stamps;
        let settled = !moved && self.state == State::Changing;
        self.state = if moved { State::Changing } else { State::Read };
        settled
    }

    /// Returns true if a file is another one than the one that was read, or was written to since.
    pub fn moved(&self) -> bool {
        self.look() != self.stamps
    }

    /// Reads all of it again.
    ///
    /// # Errors
    /// All that is wrong with it. [`Lists::changed`] does not speak of the same files again.
    pub fn read_again(&mut self) -> Result<(Networks, Vec<Fault>), Faults> {
        let mut faults = Collector::new(&self.main);
        let networks = self.read(&mut faults, true);
        faults.finish(networks)
    }

    /// The networks; `None` after a fault. Of what is no whole list (`complete` is false: some of it was
    /// refused before) it is not said that it is empty.
    pub(crate) fn read(&mut self, faults: &mut Collector, complete: bool) -> Option<Networks> {
        // Before the files are read: a change meanwhile is one of the next look.
        self.stamps = self.look();
        self.state = State::Read;
        let before = faults.count();
        let filed: Vec<Vec<Listed>> = self.files.iter().map(|file| file.read(faults)).collect();
        let listed: Vec<Listed> = self.inline.iter().cloned().chain(filed.into_iter().flatten()).collect();
        let listed = without_repeats(listed, faults);
        if faults.count() > before || !complete {
            return None;
        }
        if listed.iter().all(|listed| listed.network.exclude) {
            faults.fault(Fault {
                place: self.place.clone(),
                path: self.setting.clone(),
                value: None,
                expected: "no network is internal, so no rule could ever match".to_owned(),
            });
            return None;
        }
        overlap::warn(&listed, faults);
        Some(Networks::new(listed.into_iter().map(|listed| listed.network).collect()))
    }

    fn look(&self) -> Vec<Option<Stamp>> {
        self.files.iter().map(|file| Stamp::of(&file.path)).collect()
    }
}

/// The files; what is inline stands in the networks read.
impl fmt::Debug for Lists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lists").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ListFile {
    fn read(&self, faults: &mut Collector) -> Vec<Listed> {
        let text = match file::read_list(&self.path) {
            Ok(text) => text,
            Err(no_text) if no_text.position.is_none() => {
                faults.fault(Fault {
                    place: self.place.clone(),
                    path: self.setting.clone(),
                    value: Some(quote(&self.typed)),
                    expected: format!("{}: {}", escape(&self.name), no_text.why),
                });
                return Vec::new();
            }
            Err(no_text) => {
                faults.fault(no_text.fault(self.name.clone()));
                return Vec::new();
            }
        };
        let text = super::positions::one_line_end(text);
        let text = text.trim_start_matches('\u{feff}');
        let before = faults.count();
        let listed = match self.format.unwrap_or_else(|| Format::of(self, text)) {
            Format::Lines => super::lines::read(self, text, faults),
            Format::Csv => super::csv::read(self, text, faults),
            Format::Netbox => super::netbox::read(self, text, faults),
        };
        if listed.is_empty() && faults.count() == before {
            let place = Place { file: self.name.clone(), position: Some(Position::START) };
            let expected = "names no network in use; an empty list is more often a failed export".to_owned();
            faults.fault(Fault { place, path: String::new(), value: None, expected });
        }
        listed
    }
}

/// Reports networks that are listed twice. Of those that say the same the first one stays.
fn without_repeats(listed: Vec<Listed>, faults: &mut Collector) -> Vec<Listed> {
    let mut places: HashMap<IpNet, usize> = HashMap::with_capacity(listed.len());
    let mut kept: Vec<Listed> = Vec::with_capacity(listed.len());
    for this in listed {
        match places.get(&this.network.net).and_then(|place| kept.get(*place)) {
            None => {
                places.insert(this.network.net, kept.len());
                kept.push(this);
            }
            Some(before) if before.vrf != this.vrf => {
                // Another routing table has it too: nobody's slip, but packets do not tell which they are of.
                let why = format!(
                    "this network was listed before, at {}, in another VRF; this one decides",
                    before.place
                );
                faults.warn(this.remark(why));
                places.insert(this.network.net, kept.len());
                kept.push(this);
            }
            Some(before) => {
                let (now, then, place) = (&this.network, &before.network, &before.place);
                if now.exclude != then.exclude {
                    let why = format!("this network was listed the other way before, at {place}");
                    faults.fault(this.remark(why));
                } else if now.group != then.group {
                    let why = format!("this network was listed before, at {place}, with another group");
                    faults.fault(this.remark(why));
                } else if now.role != then.role {
                    let why = format!("this network was listed before, at {place}, with another role");
                    faults.fault(this.remark(why));
                } else {
                    let why = format!(
                        "this network was listed before, at {place}, and says the same; it counts once"
                    );
                    faults.warn(this.remark(why));
                }
            }
        }
    }
    kept
}
