//! Reads network lists in NetBox's JSON: a response of `/api/ipam/prefixes/`, or the list of its results.
//!
//! A tenant becomes the group. A role with one of our names becomes the role. Containers, which only hold
//! other prefixes, and deprecated prefixes are skipped. Active, reserved and custom states are read.

use std::{borrow::Cow, collections::BTreeSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    entry::group,
    list_file::ListFile,
    lists::{NetworkEntry, RawNetwork},
    positions::LineIndex,
};
use crate::config::diagnostics::{DiagnosticSink, Position, single_line};
use mailflow_engine::network::AssetRole;

const EXPECTED: &str = "expected a response of NetBox's /api/ipam/prefixes/, or the list of its results";

/// Response of NetBox's API.
#[derive(Deserialize)]
#[serde(expecting = "an object with results")]
struct PrefixPage<'a> {
    #[serde(borrow)]
    results: Vec<&'a RawValue>,
    #[serde(default)]
    next: Option<String>,
}

/// Fields of a prefix that are read.
#[derive(Deserialize)]
#[serde(expecting = "an object with a prefix")]
struct RawPrefix {
    prefix: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    role: Option<ObjectName>,
    #[serde(default)]
    tenant: Option<ObjectName>,
    #[serde(default)]
    vrf: Option<ObjectName>,
    #[serde(default)]
    status: Option<ObjectName>,
}

/// Name of a related object: its slug, value or name, or just a string.
struct ObjectName(Option<String>);

impl<'de> Deserialize<'de> for ObjectName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectNameVisitor)
    }
}

/// Visitor that skips other fields without storing them, unlike the derived code of an untagged enum.
struct ObjectNameVisitor;

impl<'de> Visitor<'de> for ObjectNameVisitor {
    type Value = ObjectName;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a slug, a value or a name, or a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<ObjectName, E> {
        Ok(ObjectName(Some(name.to_owned())))
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<ObjectName, M::Error> {
        let [mut slug, mut value, mut name]: [Option<String>; 3] = Default::default();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match key.as_ref() {
                "slug" => slug = map.next_value()?,
                "value" => value = map.next_value()?,
                "name" => name = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(ObjectName(slug.or(value).or(name)))
    }
}

/// Returns the networks of a JSON file. Invalid entries are reported and skipped.
pub(crate) fn read(file: &ListFile, text: &str, diagnostics: &mut DiagnosticSink) -> Vec<NetworkEntry> {
    let mut entries =
        PrefixReader { file, line_index: LineIndex::new(text), unknown_roles: BTreeSet::new(), diagnostics };
    let raw = if text.trim_start().starts_with('[') {
        serde_json::from_str(text)
    } else {
        serde_json::from_str(text).map(|page: PrefixPage<'_>| {
            if page.next.is_some() {
                let first = Position::START;
                let expected =
                    "one page of several (\"next\" is not null); request all prefixes with ?limit=0";
                entries.file.report(first, Some("next"), expected, entries.diagnostics);
            }
            page.results
        })
    };
    match raw {
        Ok(raw) => {
            let raw: Vec<&RawValue> = raw;
            raw.into_iter().filter_map(|raw| entries.entry(text, raw)).collect()
        }
        Err(error) => {
            let at = byte_of(text, &error);
            entries.report_json_error(at, &error);
            Vec::new()
        }
    }
}

struct PrefixReader<'a, 'f> {
    file: &'a ListFile,
    line_index: LineIndex<'a>,
    /// Unknown roles that were reported.
    unknown_roles: BTreeSet<String>,
    diagnostics: &'f mut DiagnosticSink,
}

impl PrefixReader<'_, '_> {
    fn entry(&mut self, text: &str, raw: &RawValue) -> Option<NetworkEntry> {
        // A raw value borrows from the text.
        let start = (raw.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        let entry: RawPrefix = match serde_json::from_str(raw.get()) {
            Ok(entry) => entry,
            Err(error) => {
                self.report_json_error(start + byte_of(raw.get(), &error), &error);
                return None;
            }
        };
        let name = |named: Option<ObjectName>| named.and_then(|named| named.0);
        if matches!(name(entry.status).as_deref(), Some("container" | "deprecated")) {
            return None;
        }
        let position = self.line_index.position_of(start);
        let role = name(entry.role).and_then(|role| self.role(role, position));
        let tenant = name(entry.tenant);
        if let Some(Err(expected)) = tenant.as_deref().map(group) {
            self.file.report(position, tenant.as_deref(), expected, self.diagnostics);
            return None;
        }
        let raw = RawNetwork {
            cidr: &entry.prefix,
            comment: entry.description.as_deref().map(str::trim).filter(|text| !text.is_empty()),
            group: tenant.as_deref(),
            role,
            exclude: false,
        };
        let listed = raw.into_entry(self.file, position, self.diagnostics)?;
        Some(NetworkEntry { vrf: name(entry.vrf), ..listed })
    }

    fn role(&mut self, name: String, position: Position) -> Option<AssetRole> {
        let role = AssetRole::named(&name);
        if role.is_none() && !self.unknown_roles.contains(&name) {
            let all = AssetRole::ALL.map(AssetRole::name).join(", ");
            let why = format!("unknown role, expected one of {all}; networks with this role get no role");
            self.diagnostics.warn(self.file.remark(position, Some(&name), why));
            self.unknown_roles.insert(name);
        }
        role
    }

    fn report_json_error(&mut self, at: usize, error: &serde_json::Error) {
        let position = self.line_index.position_of(at);
        // The diagnostic has the position already.
        let text = error.to_string();
        let why = text.split(" at line ").next().unwrap_or_default();
        let expected = if error.is_data() { EXPECTED } else { "not valid JSON" };
        self.file.report(position, None, format!("{expected}: {}", single_line(why)), self.diagnostics);
    }
}

/// Returns the byte offset at which parsing ended.
fn byte_of(text: &str, error: &serde_json::Error) -> usize {
    let before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let mut at = (before + error.column().saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
