//! Internal networks from inline entries and list files, which are read again after each change.

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
use mailflow_engine::network::Networks;

/// Sources of the internal networks, with the stamps of the files when they were read.
#[derive(Clone)]
pub struct NetworkLists {
    /// Name of the configuration.
    main: Arc<str>,
    /// Location and path of the setting `internal_networks`.
    location: SourceLocation,
    setting: String,
    inline: Vec<NetworkEntry>,
    files: Vec<ListFile>,
    /// Stamps of the files at the last read, or at the last detected change.
    stamps: Vec<Option<FileStamp>>,
    state: FileState,
}

/// State of the list files at the last check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileState {
    /// Files are unchanged since they were read.
    Read,
    /// Files have changed and may still be written to.
    Changing,
}

impl ListFormat {
    /// Names in a configuration.
    pub(crate) const NAMES: [(&str, ListFormat); 3] =
        [("lines", ListFormat::Lines), ("csv", ListFormat::Csv), ("netbox", ListFormat::Netbox)];

    /// Detects the format by the file's extension, then by its content.
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
    /// Returns lists that were not read yet. `setting` at `location` is their setting.
    pub(crate) fn new(
        main: Arc<str>,
        (location, setting): (SourceLocation, String),
        inline: Vec<NetworkEntry>,
        files: Vec<ListFile>,
    ) -> Self {
        Self { main, location, setting, inline, files, stamps: Vec::new(), state: FileState::Read }
    }

    /// Returns the paths of the files.
    pub fn files(&self) -> impl Iterator<Item = &std::path::Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Updates the stamps. Returns true if files changed since they were read, and are unchanged since the
    /// previous call. So a file that is being written is not read too early.
    pub fn take_settled_change(&mut self) -> bool {
        let stamps = self.file_stamps();
        let before = std::mem::replace(&mut self.stamps, stamps);
        let has_changed = before != self.stamps;
        let settled = !has_changed && self.state == FileState::Changing;
        self.state = if has_changed { FileState::Changing } else { FileState::Read };
        settled
    }

    /// Returns true if a file was replaced or written to since it was read.
    pub fn is_outdated(&self) -> bool {
        self.file_stamps() != self.stamps
    }

    /// Reads all lists again.
    ///
    /// # Errors
    /// All errors of the lists. [`NetworkLists::take_settled_change`] does not report the same files again.
    pub fn reload(&mut self) -> Result<(Networks, Vec<Diagnostic>), Diagnostics> {
        let mut diagnostics = DiagnosticSink::new(&self.main);
        let networks = self.read(&mut diagnostics, true);
        diagnostics.finish(networks)
    }

    /// Reads the networks; `None` after an error. If `complete` is false, some settings were invalid, and an
    /// empty list is no further error.
    pub(crate) fn read(&mut self, diagnostics: &mut DiagnosticSink, complete: bool) -> Option<Networks> {
        // The stamps are taken before reading, so that the next check detects a change meanwhile.
        self.stamps = self.file_stamps();
        self.state = FileState::Read;
        let before = diagnostics.count();
        let file_entries: Vec<Vec<NetworkEntry>> =
            self.files.iter().map(|file| file.read(diagnostics)).collect();
        let entries: Vec<NetworkEntry> =
            self.inline.iter().cloned().chain(file_entries.into_iter().flatten()).collect();
        let entries = deduplicate(entries, diagnostics);
        if diagnostics.count() > before || !complete {
            return None;
        }
        if entries.iter().all(|entry| entry.network.exclude) {
            diagnostics.report(Diagnostic {
                location: self.location.clone(),
                path: self.setting.clone(),
                value: None,
                expected: "expected at least one internal network; without one no rule can match".to_owned(),
            });
            return None;
        }
        overlap::warn(&entries, diagnostics);
        Some(Networks::new(entries.into_iter().map(|entry| entry.network).collect()))
    }

    fn file_stamps(&self) -> Vec<Option<FileStamp>> {
        self.files.iter().map(|file| FileStamp::of(&file.path)).collect()
    }
}

/// Shows the files. Inline entries are part of the networks.
impl fmt::Debug for NetworkLists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkLists").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ListFile {
    fn read(&self, diagnostics: &mut DiagnosticSink) -> Vec<NetworkEntry> {
        let text = match file::read_list(&self.path) {
            Ok(text) => text,
            Err(text_error) if text_error.position.is_none() => {
                diagnostics.report(Diagnostic {
                    location: self.location.clone(),
                    path: self.setting.clone(),
                    value: Some(quote(&self.typed)),
                    expected: format!("{}: {}", escape(&self.name), text_error.message),
                });
                return Vec::new();
            }
            Err(text_error) => {
                diagnostics.report(text_error.into_diagnostic(self.name.clone()));
                return Vec::new();
            }
        };
        let text = super::positions::normalize_line_ends(text);
        let text = text.trim_start_matches('\u{feff}');
        let before = diagnostics.count();
        let entries = match self.format.unwrap_or_else(|| ListFormat::of(self, text)) {
            ListFormat::Lines => super::lines::read(self, text, diagnostics),
            ListFormat::Csv => super::csv::read(self, text, diagnostics),
            ListFormat::Netbox => super::netbox::read(self, text, diagnostics),
        };
        if entries.is_empty() && diagnostics.count() == before {
            let location = SourceLocation { file: self.name.clone(), position: Some(Position::START) };
            let expected =
                "the file contains no network in use; an empty list is usually a failed export".to_owned();
            diagnostics.report(Diagnostic { location, path: String::new(), value: None, expected });
        }
        entries
    }
}

/// Reports networks that are listed twice. The first of equal entries stays.
fn deduplicate(entries: Vec<NetworkEntry>, diagnostics: &mut DiagnosticSink) -> Vec<NetworkEntry> {
    let mut locations: HashMap<IpNet, usize> = HashMap::with_capacity(entries.len());
    let mut unique: Vec<NetworkEntry> = Vec::with_capacity(entries.len());
    for entry in entries {
        match locations.get(&entry.network.net).and_then(|location| unique.get(*location)) {
            None => {
                locations.insert(entry.network.net, unique.len());
                unique.push(entry);
            }
            Some(before) if before.vrf != entry.vrf => {
                // This is valid in another routing table, but packets do not show their routing table.
                let why = format!(
                    "this network was listed before, at {}, in another VRF; this entry takes effect",
                    before.location
                );
                diagnostics.warn(entry.remark(why));
                locations.insert(entry.network.net, unique.len());
                unique.push(entry);
            }
            Some(before) => {
                let (now, then, location) = (&entry.network, &before.network, &before.location);
                if now.exclude != then.exclude {
                    let why = format!(
                        "this network is both internal and excluded; the other entry is at {location}"
                    );
                    diagnostics.report(entry.remark(why));
                } else if now.group != then.group {
                    let why = format!("this network was listed before, at {location}, with another group");
                    diagnostics.report(entry.remark(why));
                } else if now.role != then.role {
                    let why = format!("this network was listed before, at {location}, with another role");
                    diagnostics.report(entry.remark(why));
                } else {
                    let why = format!(
                        "this network was listed before, at {location}, with the same settings; it counts once"
                    );
                    diagnostics.warn(entry.remark(why));
                }
            }
        }
    }
    unique
}
