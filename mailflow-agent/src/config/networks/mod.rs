//! `internal_networks`: inline prefixes and files of them.

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
    list_file::{Format, ListFile, OtherColumns},
    lists::{Listed, Lists, Said, group, role},
};
use super::{
    diagnostics::{Collector, Place},
    yaml::{
        get::{At, Fields},
        values::{choice, items, parsed, string},
    },
};
use mailflow_engine::network::{AssetRole, NetworkOrigin, Networks};

/// Reads the internal networks, and tells where they come from; files are relative to `directory`.
pub(crate) fn read(at: &At<'_>, faults: &mut Collector, directory: &Path) -> Option<(Networks, Lists)> {
    // The list is one: a file that names networks of its own does not get the shipped ones as well.
    let at = &if at.is_own() { at.clone().over(None) } else { at.clone() };
    let before = faults.count();
    let (inline, files) = Fields::read(at, faults, |fields| {
        let inline = fields.or("networks", Vec::new(), |at, faults| items(at, faults, inline));
        let files = fields.or("files", Vec::new(), |at, faults| {
            items(at, faults, |item, faults| file(item, faults, directory))
        });
        Some((inline.unwrap_or_default(), files.unwrap_or_default()))
    })?;
    let (inline, files) = (inline.into_iter().flatten().collect(), files.into_iter().flatten().collect());
    let place = at.place(faults);
    let mut lists = Lists::new(place.file.clone(), (place, at.path().to_owned()), inline, files);
    // Files are read beside faulty settings too: all that is wrong is told at once.
    let complete = faults.count() == before;
    Some((lists.read(faults, complete)?, lists))
}

/// An inline entry: `CIDR`, `!CIDR`, or a mapping with a group, a role and a comment.
fn inline(at: &At<'_>, faults: &mut Collector) -> Option<Listed> {
    if at.text().is_some() {
        let cidr = string(at, faults)?;
        return listed(at, faults, Said { cidr, ..Said::default() });
    }
    Fields::read(at, faults, |fields| {
        let group = fields.or("group", None, group_name);
        let role = fields.or("role", None, asset_role);
        let comment = fields.or("comment", None, |at, faults| string(at, faults).map(Some));
        let cidr = fields.needed("cidr", |at, faults| Some((at.clone(), string(at, faults)?)));
        let ((at, cidr), group, role, comment) = (cidr?, group?, role?, comment?);
        listed(&at, fields.faults, Said { cidr, comment, group, role, exclude: false })
    })
}

fn listed(at: &At<'_>, faults: &mut Collector, said: Said<'_>) -> Option<Listed> {
    match said.network() {
        Ok(mut network) => {
            let Place { file, position } = at.written(faults);
            network.origin = position.map(|position| NetworkOrigin { file, line: position.line });
            Some(Listed { place: at.place(faults), path: at.path().to_owned(), network, vrf: None })
        }
        Err(expected) => at.fault(faults, expected),
    }
}

/// A file: its path, or a mapping with what is true for all of it.
fn file(at: &At<'_>, faults: &mut Collector, directory: &Path) -> Option<ListFile> {
    let named = |at: &At<'_>, faults: &mut Collector| {
        let typed = string(at, faults)?;
        let path = directory.join(typed);
        Some(ListFile {
            typed: typed.to_owned(),
            name: path.display().to_string().into(),
            path,
            format: None,
            columns: OtherColumns::Refuse,
            group: None,
            role: None,
            place: at.place(faults),
            setting: at.path().to_owned(),
        })
    };
    if at.text().is_some() {
        return named(at, faults);
    }
    const COLUMNS: [(&str, OtherColumns); 2] =
        [("refuse", OtherColumns::Refuse), ("ignore", OtherColumns::Ignore)];
    Fields::read(at, faults, |fields| {
        let file = fields.needed("path", named);
        let format = fields.or("format", None, |at, faults| choice(at, faults, &Format::NAMES).map(Some));
        let columns =
            fields.or("other_columns", OtherColumns::Refuse, |at, faults| choice(at, faults, &COLUMNS));
        let group = fields.or("group", None, group_name);
        let role = fields.or("role", None, asset_role);
        let group = group?.map(str::to_owned);
        Some(ListFile { format: format?, columns: columns?, group, role: role?, ..file? })
    })
}

fn group_name<'a>(at: &At<'a>, faults: &mut Collector) -> Option<Option<&'a str>> {
    match group(string(at, faults)?) {
        Ok(name) => Some(Some(name)),
        Err(expected) => at.fault(faults, expected),
    }
}

fn asset_role(at: &At<'_>, faults: &mut Collector) -> Option<Option<AssetRole>> {
    parsed(at, faults, "a role", role).map(Some)
}
