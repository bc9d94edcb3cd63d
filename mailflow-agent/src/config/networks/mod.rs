//! `internal_networks`: inline networks and list files.

pub(crate) mod csv;
pub(crate) mod entry;
pub(crate) mod lines;
pub(crate) mod list_file;
pub(crate) mod lists;
pub(crate) mod netbox;
pub(crate) mod overlap;
pub(crate) mod positions;
pub(crate) mod sets;

use std::path::Path;

use self::{
    list_file::{ListFile, ListFormat, OtherColumns},
    lists::{NetworkEntry, NetworkLists, RawNetwork, group, role},
};
use super::{
    diagnostics::{DiagnosticSink, SourceLocation},
    yaml::{
        get::{Cursor, MappingReader},
        values::{choice, items, parsed, string},
    },
};
use mailflow_engine::network::{AssetRole, NetworkOrigin, Networks};

/// Reads the internal networks, and returns them with their sources. Paths are relative to `directory`.
pub(crate) fn read(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    directory: &Path,
) -> Option<(Networks, NetworkLists)> {
    // A file with networks of its own does not get the shipped ones in addition.
    let cursor = &if cursor.is_explicit() { cursor.clone().with_defaults(None) } else { cursor.clone() };
    let before = diagnostics.count();
    let (inline, files) = MappingReader::read(cursor, diagnostics, |mapping| {
        let inline = mapping
            .optional("networks", Vec::new(), |cursor, diagnostics| items(cursor, diagnostics, inline));
        let files = mapping.optional("files", Vec::new(), |cursor, diagnostics| {
            items(cursor, diagnostics, |item, diagnostics| file(item, diagnostics, directory))
        });
        Some((inline.unwrap_or_default(), files.unwrap_or_default()))
    })?;
    let (inline, files) = (inline.into_iter().flatten().collect(), files.into_iter().flatten().collect());
    let location = cursor.location(diagnostics);
    let mut lists =
        NetworkLists::new(location.file.clone(), (location, cursor.path().to_owned()), inline, files);
    // Files are read even if settings are invalid, so that all errors are reported at once.
    let complete = diagnostics.count() == before;
    Some((lists.read(diagnostics, complete)?, lists))
}

/// Reads an inline entry: `CIDR`, `!CIDR`, or a mapping with a group, a role and a comment.
fn inline(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<NetworkEntry> {
    if cursor.text().is_some() {
        let cidr = string(cursor, diagnostics)?;
        return listed(cursor, diagnostics, RawNetwork { cidr, ..RawNetwork::default() });
    }
    MappingReader::read(cursor, diagnostics, |mapping| {
        let group = mapping.optional("group", None, group_name);
        let role = mapping.optional("role", None, asset_role);
        let comment =
            mapping.optional("comment", None, |cursor, diagnostics| string(cursor, diagnostics).map(Some));
        let cidr = mapping
            .required("cidr", |cursor, diagnostics| Some((cursor.clone(), string(cursor, diagnostics)?)));
        let ((cursor, cidr), group, role, comment) = (cidr?, group?, role?, comment?);
        listed(&cursor, mapping.diagnostics, RawNetwork { cidr, comment, group, role, exclude: false })
    })
}

fn listed(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    said: RawNetwork<'_>,
) -> Option<NetworkEntry> {
    match said.network() {
        Ok(mut network) => {
            let SourceLocation { file, position } = cursor.source_location(diagnostics);
            network.origin = position.map(|position| NetworkOrigin { file, line: position.line });
            Some(NetworkEntry {
                location: cursor.location(diagnostics),
                path: cursor.path().to_owned(),
                network,
                vrf: None,
            })
        }
        Err(expected) => cursor.reject(diagnostics, expected),
    }
}

/// Reads a list file: a path, or a mapping with defaults for all of its networks.
fn file(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink, directory: &Path) -> Option<ListFile> {
    let named = |cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink| {
        let typed = string(cursor, diagnostics)?;
        let path = directory.join(typed);
        Some(ListFile {
            typed: typed.to_owned(),
            name: path.display().to_string().into(),
            path,
            format: None,
            columns: OtherColumns::Refuse,
            group: None,
            role: None,
            location: cursor.location(diagnostics),
            setting: cursor.path().to_owned(),
        })
    };
    if cursor.text().is_some() {
        return named(cursor, diagnostics);
    }
    const COLUMNS: [(&str, OtherColumns); 2] =
        [("refuse", OtherColumns::Refuse), ("ignore", OtherColumns::Ignore)];
    MappingReader::read(cursor, diagnostics, |mapping| {
        let file = mapping.required("path", named);
        let format = mapping.optional("format", None, |cursor, diagnostics| {
            choice(cursor, diagnostics, &ListFormat::NAMES).map(Some)
        });
        let columns = mapping.optional("other_columns", OtherColumns::Refuse, |cursor, diagnostics| {
            choice(cursor, diagnostics, &COLUMNS)
        });
        let group = mapping.optional("group", None, group_name);
        let role = mapping.optional("role", None, asset_role);
        let group = group?.map(str::to_owned);
        Some(ListFile { format: format?, columns: columns?, group, role: role?, ..file? })
    })
}

fn group_name<'a>(cursor: &Cursor<'a>, diagnostics: &mut DiagnosticSink) -> Option<Option<&'a str>> {
    match group(string(cursor, diagnostics)?) {
        Ok(name) => Some(Some(name)),
        Err(expected) => cursor.reject(diagnostics, expected),
    }
}

fn asset_role(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<Option<AssetRole>> {
    parsed(cursor, diagnostics, "a role", role).map(Some)
}
