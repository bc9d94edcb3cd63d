//! Address sets: `internal`, `external`, `any`, `group:NAME`, `role:NAME`, a network, `!` before any of them,
//! or a list of these.

use std::collections::HashSet;

use super::lists::{prefix, role};
use crate::config::{
    diagnostics::{DiagnosticSink, nearest, single_line},
    yaml::{
        get::Cursor,
        tree::Content,
        values::{items, string},
    },
};
use mailflow_engine::network::{AddressSet, Member, Networks};

/// Reads a set: the union of its members without those after `!`. Groups must be groups of `internal`, if it
/// is known.
pub(crate) fn read(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    internal: Option<&Networks>,
) -> Option<AddressSet> {
    if !matches!(cursor.content(), Content::List(_)) {
        let (sign, member) = member(cursor, diagnostics, internal)?;
        return Some(match sign {
            Sign::Include => AddressSet::new(vec![member], Vec::new()),
            Sign::Exclude => AddressSet::new(Vec::new(), vec![member]),
        });
    }
    let mut seen = HashSet::new();
    let members = items(cursor, diagnostics, |item, diagnostics| {
        let this = member(item, diagnostics, internal)?;
        if !seen.insert(this.clone()) {
            return item.reject(diagnostics, "given twice in this list");
        }
        Some(this)
    })?;
    if members.is_empty() {
        return cursor.reject_contents(diagnostics, "an empty list matches nothing");
    }
    let (mut any, mut excluded) = (Vec::new(), Vec::new());
    for (sign, member) in members.into_iter().collect::<Option<Vec<_>>>()? {
        match sign {
            Sign::Include => any.push(member),
            Sign::Exclude => excluded.push(member),
        }
    }
    Some(AddressSet::new(any, excluded))
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Sign {
    Include,
    Exclude,
}

fn member(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    internal: Option<&Networks>,
) -> Option<(Sign, Member)> {
    let text = string(cursor, diagnostics)?;
    let (sign, name) = text.strip_prefix('!').map_or((Sign::Include, text), |name| (Sign::Exclude, name));
    match named(name, internal) {
        Ok(member) => Some((sign, member)),
        Err(expected) => cursor.reject(diagnostics, expected),
    }
}

fn named(name: &str, internal: Option<&Networks>) -> Result<Member, String> {
    const WORDS: [&str; 3] = ["internal", "external", "any"];
    match name {
        "internal" => return Ok(Member::Internal),
        "external" => return Ok(Member::External),
        "any" => return Ok(Member::Any),
        _ => {}
    }
    if let Some(name) = name.strip_prefix("role:") {
        return role(name).map(Member::Role);
    }
    if let Some(name) = name.strip_prefix("group:") {
        return group(name, internal);
    }
    prefix(name).map(Member::Net).map_err(|why| {
        if name.starts_with(|c: char| c.is_ascii_hexdigit()) && name.contains(['.', ':', '/']) {
            return why;
        }
        let expected =
            "expected internal, external, any, group:NAME, role:NAME or a network such as 10.0.0.0/8";
        match nearest(name, WORDS) {
            Some(word) => format!("{expected}; did you mean {word}?"),
            None => expected.to_owned(),
        }
    })
}

fn group(name: &str, internal: Option<&Networks>) -> Result<Member, String> {
    let groups = internal.map(Networks::groups);
    match groups {
        Some(groups) if !groups.contains(name) => Err(match nearest(name, groups.iter().copied()) {
            Some(near) => {
                format!("no internal network has this group; did you mean group:{}?", single_line(near))
            }
            None if groups.is_empty() => "no internal network has a group".to_owned(),
            None => {
                let some: Vec<_> = groups.iter().take(10).map(|name| single_line(name)).collect();
                format!("no internal network has this group; existing groups: {}", some.join(", "))
            }
        }),
        Some(_) | None => Ok(Member::Group(name.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml::parse;
    use mailflow_engine::network::Network;

    fn internal() -> Networks {
        let line = |net: &str, group: &str| Network {
            group: Some(group.to_owned()),
            ..Network::new(net.parse().unwrap(), net)
        };
        Networks::new(vec![line("10.0.0.0/8", "offices"), line("10.1.0.0/16", "mail servers")])
    }

    fn set(text: &str) -> Result<String, Vec<String>> {
        let mut diagnostics = DiagnosticSink::new("f");
        let node = parse::read(text, &mut diagnostics).unwrap();
        let set = read(&Cursor::root(&node, None), &mut diagnostics, Some(&internal()));
        let set = diagnostics
            .finish(set)
            .map_err(|diagnostics| diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        Ok(set.0.to_string())
    }

    #[test]
    fn sets_are_words_groups_roles_networks_and_lists_of_them() {
        for (text, shown) in [
            ("internal", "internal"),
            ("external", "external"),
            ("any", "any"),
            ("group:offices", "group:offices"),
            ("\"group:mail servers\"", "group:mail servers"),
            ("role:MTA", "role:mta"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("\"::ffff:192.0.2.0/120\"", "192.0.2.0/24"),
            ("\"!role:mta\"", "!role:mta"),
            ("[internal, \"!group:offices\", 2001:db8::/32]", "internal, 2001:db8::/32, !group:offices"),
        ] {
            assert_eq!(set(text), Ok(shown.to_owned()), "{text}");
        }
    }

    #[test]
    fn invalid_sets_have_a_suggestion() {
        for (text, why) in [
            (
                "intern",
                "f:1:1: \"intern\": expected internal, external, any, group:NAME, role:NAME or a network such as 10.0.0.0/8; did you mean internal?",
            ),
            (
                "group:ofices",
                "f:1:1: \"group:ofices\": no internal network has this group; did you mean group:offices?",
            ),
            (
                "group:x",
                "f:1:1: \"group:x\": no internal network has this group; existing groups: mail servers, offices",
            ),
            ("role:mtaa", "did you mean mta?"),
            ("10.0.0.1/8", "f:1:1: \"10.0.0.1/8\": host bits set; did you mean 10.0.0.0/8?"),
            ("[]", "f:1:1: an empty list matches nothing"),
            ("[internal, internal]", "f:1:12: [1]: \"internal\": given twice in this list"),
            ("25", "put it in quotes"),
            ("{}", "expected a text"),
            ("\"!!any\"", "expected internal"),
        ] {
            let diagnostics = set(text).unwrap_err();
            assert!(diagnostics.len() == 1 && diagnostics[0].contains(why), "{text}: {diagnostics:?}");
        }
    }
}
