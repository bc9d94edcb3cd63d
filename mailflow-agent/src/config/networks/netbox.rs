//! What NetBox answers about its prefixes (`/api/ipam/prefixes/`), or the plain list of them.
//!
//! A tenant is a group. A role is one of ours where the names agree. Containers, which only hold other
//! prefixes, and deprecated prefixes are left out; active, reserved and the operator's own states are not.

use std::{borrow::Cow, collections::BTreeSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    entry::group,
    list_file::ListFile,
    lists::{Listed, Said},
    positions::Walk,
};
use crate::config::diagnostics::{Collector, Position, plain};
use mailflow_engine::network::AssetRole;

const EXPECTED: &str = "expected what NetBox's /api/ipam/prefixes/ answers, or the list of its results";

/// An answer.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    results: Vec<&'a RawValue>,
    #[serde(default)]
    next: Option<String>,
}

/// What is read of a prefix.
#[derive(Deserialize)]
struct Prefix {
    prefix: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    role: Option<Named>,
    #[serde(default)]
    tenant: Option<Named>,
    #[serde(default)]
    vrf: Option<Named>,
    #[serde(default)]
    status: Option<Named>,
}

/// Something beside the prefix: the name of an object that has one (or a value), or just a name.
struct Named(Option<String>);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamedVisitor)
    }
}

/// Reads them without keeping what is beside, as the derived code for several forms would.
struct NamedVisitor;

impl<'de> Visitor<'de> for NamedVisitor {
    type Value = Named;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a slug, a value or a name, or a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Named, E> {
        Ok(Named(Some(name.to_owned())))
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Named, M::Error> {
        let [mut slug, mut value, mut name]: [Option<String>; 3] = Default::default();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match key.as_ref() {
                "slug" => slug = map.next_value()?,
                "value" => value = map.next_value()?,
                "name" => name = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Named(slug.or(value).or(name)))
    }
}

/// The networks of such a file; wrong ones are reported and left out.
pub(crate) fn read(file: &ListFile, text: &str, faults: &mut Collector) -> Vec<Listed> {
    let mut entries = Entries { file, walk: Walk::new(text), strange: BTreeSet::new(), faults };
    let raw = if text.trim_start().starts_with('[') {
        serde_json::from_str(text)
    } else {
        serde_json::from_str(text).map(|page: Page<'_>| {
            if page.next.is_some() {
                let first = Position::START;
                let expected = "one page of several (\"next\" is not null); ask NetBox for all with ?limit=0";
                entries.file.fault(first, Some("next"), expected, entries.faults);
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
            entries.refuse(at, &error);
            Vec::new()
        }
    }
}

struct Entries<'a, 'f> {
    file: &'a ListFile,
    walk: Walk<'a>,
    /// Roles that are none of ours, and were told of.
    strange: BTreeSet<String>,
    faults: &'f mut Collector,
}

impl Entries<'_, '_> {
    fn entry(&mut self, text: &str, raw: &RawValue) -> Option<Listed> {
        // A raw value is a part of the text.
        let start = (raw.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        let entry: Prefix = match serde_json::from_str(raw.get()) {
            Ok(entry) => entry,
            Err(error) => {
                self.refuse(start + byte_of(raw.get(), &error), &error);
                return None;
            }
        };
        let name = |named: Option<Named>| named.and_then(|named| named.0);
        if matches!(name(entry.status).as_deref(), Some("container" | "deprecated")) {
            return None;
        }
        let position = self.walk.to(start);
        let role = name(entry.role).and_then(|role| self.role(role, position));
        let tenant = name(entry.tenant);
        if let Some(Err(expected)) = tenant.as_deref().map(group) {
            self.file.fault(position, tenant.as_deref(), expected, self.faults);
            return None;
        }
        let said = Said {
            cidr: &entry.prefix,
            comment: entry.description.as_deref().map(str::trim).filter(|text| !text.is_empty()),
            group: tenant.as_deref(),
            role,
            exclude: false,
        };
        let listed = said.listed(self.file, position, self.faults)?;
        Some(Listed { vrf: name(entry.vrf), ..listed })
    }

    fn role(&mut self, name: String, position: Position) -> Option<AssetRole> {
        let role = AssetRole::named(&name);
        if role.is_none() && !self.strange.contains(&name) {
            let all = AssetRole::ALL.map(AssetRole::name).join(", ");
            let why = format!("a role that is none of {all}; these networks have none by it");
            self.faults.warn(self.file.remark(position, Some(&name), why));
            self.strange.insert(name);
        }
        role
    }

    fn refuse(&mut self, at: usize, error: &serde_json::Error) {
        let position = self.walk.to(at);
        // The place is told before it.
        let text = error.to_string();
        let why = text.split(" at line ").next().unwrap_or_default();
        let expected = if error.is_data() { EXPECTED } else { "this is no JSON" };
        self.file.fault(position, None, format!("{expected}: {}", plain(why)), self.faults);
    }
}

/// The byte at which reading ended.
fn byte_of(text: &str, error: &serde_json::Error) -> usize {
    let before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let mut at = (before + error.column().saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
