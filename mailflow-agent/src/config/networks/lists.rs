//! The lists of internal networks: inline ones and files, read as often as they change.

use std::{collections::HashMap, fmt, sync::Arc};

use ipnet::IpNet;

pub(crate) use super::entry::{NetworkEntry, RawNetwork, group, prefix, role};
use super::{
    list_file::{ListFile, ListFormat},
    overlap,
};
use crate::{
    config::{
        diagnostics::{Diagnostic, DiagnosticSink, Diagnostics, Position, SourceLocation, quote},
        file,
        file_stamp::FileStamp,
    },
    util::terminal::escape,
};
use mailflow_engine::assets::Networks;

/// Where the internal networks come from, and how the files looked when they were read.
#[derive(Clone)]
pub struct NetworkLists {
    /// The configuration's name.
    main: Arc<str>,
    /// The setting that holds all of it.
    location: SourceLocation,
    setting: String,
    inline: Vec<NetworkEntry>,
    files: Vec<ListFile>,
    /// As they were when they were last read, or seen in change.
    stamps: Vec<Option<FileStamp>>,
    state: FileState,
}

/// What a look at the files has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileState {
    /// As they were read.
    Read,
    /// Somebody is writing, or was just now.
    Changing,
}

impl ListFormat {
    /// The names in a configuration.
    pub(crate) const NAMES: [(&str, ListFormat); 3] =
        [("lines", ListFormat::Lines), ("csv", ListFormat::Csv), ("netbox", ListFormat::Netbox)];

    /// By the file's extension, else by what stands in it.
    fn of(file: &ListFile, text: &str) -> Self {
        let extension = file.path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "csv" | "tsv" => ListFormat::Csv,
            "json" => ListFormat::Netbox,
            _ if text.trim_start().starts_with(['{', '[']) => ListFormat::Netbox,
            _ if super::csv::has_header(text) => ListFormat::Csv,
            _ => ListFormat::Lines,
        }
    }
}

impl NetworkLists {
    /// Lists of which nothing was read yet; `setting` at `place` holds them.
    pub(crate) fn new(
        main: Arc<str>,
        (location, setting): (SourceLocation, String),
        inline: Vec<NetworkEntry>,
        files: Vec<ListFile>,
    ) -> Self {
        Self { main, location, setting, inline, files, stamps: Vec::new(), state: FileState::Read }
    }

    /// The files.
    pub fn files(&self) -> impl Iterator<Item = &std::path::Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Returns true if the files are others than those that were read, and have kept still since the last time
    /// this was asked: a file that is being written is not read half.
    pub fn take_settled_change(&mut self) -> bool {
        let stamps = self.file_stamps();
        let before = std::mem::replace(&mut self.stamps, stamps);
        let is_outdated = before != self.stamps;
        let settled = !is_outdated && self.state == FileState::Changing;
        self.state = if is_outdated { FileState::Changing } else { FileState::Read };
        settled
    }

    /// Returns true if a file is another one than the one that was read, or was written to since.
    pub fn is_outdated(&self) -> bool {
        self.file_stamps() != self.stamps
    }

    /// Reads all of it again.
    ///
    /// # Errors
    /// All that is wrong with it. [`Lists::changed`] does not speak of the same files again.
    pub fn reload(&mut self) -> Result<(Networks, Vec<Diagnostic>), Diagnostics> {
        let mut diagnostics = DiagnosticSink::new(&self.main);
        let networks = self.read(&mut diagnostics, true);
        diagnostics.finish(networks)
    }

    /// The networks; `None` after a fault. Of what is no whole list (`complete` is false: some of it was
    /// refused before) it is not said that it is empty.
    pub(crate) fn read(&mut self, diagnostics: &mut DiagnosticSink, complete: bool) -> Option<Networks> {
        // Before the files are read: a change meanwhile is one of the next look.
        self.stamps = self.file_stamps();
        self.state = FileState::Read;
        let before = diagnostics.count();
        let filed: Vec<Vec<NetworkEntry>> = self.files.iter().map(|file| file.read(diagnostics)).collect();
        let listed: Vec<NetworkEntry> =
            self.inline.iter().cloned().chain(filed.into_iter().flatten()).collect();
        let listed = deduplicate(listed, diagnostics);
        if diagnostics.count() > before || !complete {
            return None;
        }
        if listed.iter().all(|listed| listed.network.exclude) {
            diagnostics.report(Diagnostic {
                location: self.location.clone(),
                path: self.setting.clone(),
                value: None,
                expected: "no network is internal, so no rule could ever match".to_owned(),
            });
            return None;
        }
        overlap::warn(&listed, diagnostics);
        Some(Networks::new(listed.into_iter().map(|listed| listed.network).collect()))
    }

    fn file_stamps(&self) -> Vec<Option<FileStamp>> {
        self.files.iter().map(|file| FileStamp::of(&file.path)).collect()
    }
}

/// The files; what is inline stands in the networks read.
impl fmt::Debug for NetworkLists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lists").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ListFile {
    fn read(&self, diagnostics: &mut DiagnosticSink) -> Vec<NetworkEntry> {
        let text = match file::read_list(&self.path) {
            Ok(text) => text,
            Err(no_text) if no_text.position.is_none() => {
                diagnostics.report(Diagnostic {
                    location: self.location.clone(),
                    path: self.setting.clone(),
                    value: Some(quote(&self.typed)),
                    expected: format!("{}: {}", escape(&self.name), no_text.why),
                });
                return Vec::new();
            }
            Err(no_text) => {
                diagnostics.report(no_text.into_diagnostic(self.name.clone()));
                return Vec::new();
            }
        };
        let text = super::positions::normalize_line_ends(text);
        let text = text.trim_start_matches('\u{feff}');
        let before = diagnostics.count();
        let listed = match self.format.unwrap_or_else(|| ListFormat::of(self, text)) {
            ListFormat::Lines => super::lines::read(self, text, diagnostics),
            ListFormat::Csv => super::csv::read(self, text, diagnostics),
            ListFormat::Netbox => super::netbox::read(self, text, diagnostics),
        };
        if listed.is_empty() && diagnostics.count() == before {
            let location = SourceLocation { file: self.name.clone(), position: Some(Position::START) };
            let expected = "names no network in use; an empty list is more often a failed export".to_owned();
            diagnostics.report(Diagnostic { location, path: String::new(), value: None, expected });
        }
        listed
    }
}

/// Reports networks that are listed twice. Of those that say the same the first one stays.
fn deduplicate(listed: Vec<NetworkEntry>, diagnostics: &mut DiagnosticSink) -> Vec<NetworkEntry> {
    let mut locations: HashMap<IpNet, usize> = HashMap::with_capacity(listed.len());
    let mut unique: Vec<NetworkEntry> = Vec::with_capacity(listed.len());
    for this in listed {
        match locations.get(&this.network.net).and_then(|location| unique.get(*location)) {
            None => {
                locations.insert(this.network.net, unique.len());
                unique.push(this);
            }
            Some(before) if before.vrf != this.vrf => {
                // Another routing table has it too: nobody's slip, but packets do not tell which they are of.
                let why = format!(
                    "this network was listed before, at {}, in another VRF; this one decides",
                    before.location
                );
                diagnostics.warn(this.remark(why));
                locations.insert(this.network.net, unique.len());
                unique.push(this);
            }
            Some(before) => {
                let (now, then, location) = (&this.network, &before.network, &before.location);
                if now.exclude != then.exclude {
                    let why = format!("this network was listed the other way before, at {location}");
                    diagnostics.report(this.remark(why));
                } else if now.group != then.group {
                    let why = format!("this network was listed before, at {location}, with another group");
                    diagnostics.report(this.remark(why));
                } else if now.role != then.role {
                    let why = format!("this network was listed before, at {location}, with another role");
                    diagnostics.report(this.remark(why));
                } else {
                    let why = format!(
                        "this network was listed before, at {location}, and says the same; it counts once"
                    );
                    diagnostics.warn(this.remark(why));
                }
            }
        }
    }
    unique
}
