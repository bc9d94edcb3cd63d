//! Sets of addresses: `internal`, `external`, `any`, `group:NAME`, `role:NAME`, a network, `!` before
//! any of them, or a list of these.

use std::collections::HashSet;

use super::lists::{prefix, role};
use crate::config::{
    diagnostics::{Collector, nearest, plain},
    yaml::{
        get::At,
        tree::Content,
        values::{items, string},
    },
};
use mailflow_engine::network::{AddressSet, Member, Networks};

/// Reads a set: any of what is named, without what is named behind `!`. Groups must be among those of
/// `internal`, where it is known.
pub(crate) fn read(at: &At<'_>, faults: &mut Collector, internal: Option<&Networks>) -> Option<AddressSet> {
    if !matches!(at.content(), Content::List(_)) {
        let (sign, member) = member(at, faults, internal)?;
        return Some(match sign {
            Sign::In => AddressSet::new(vec![member], Vec::new()),
            Sign::Out => AddressSet::new(Vec::new(), vec![member]),
        });
    }
    let mut seen = HashSet::new();
    let members = items(at, faults, |item, faults| {
        let this = member(item, faults, internal)?;
        if !seen.insert(this.clone()) {
            return item.fault(faults, "given twice in this list");
        }
        Some(this)
    })?;
    if members.is_empty() {
        return at.fault_inside(faults, "an empty list matches nothing");
    }
    let (mut any, mut but) = (Vec::new(), Vec::new());
    for (sign, member) in members.into_iter().collect::<Option<Vec<_>>>()? {
        match sign {
            Sign::In => any.push(member),
            Sign::Out => but.push(member),
        }
    }
    Some(AddressSet::new(any, but))
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Sign {
    In,
    Out,
}

fn member(at: &At<'_>, faults: &mut Collector, internal: Option<&Networks>) -> Option<(Sign, Member)> {
    let text = string(at, faults)?;
    let (sign, name) = text.strip_prefix('!').map_or((Sign::In, text), |name| (Sign::Out, name));
    match named(name, internal) {
        Ok(member) => Some((sign, member)),
        Err(expected) => at.fault(faults, expected),
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
                format!("no internal network is of this group; did you mean group:{}?", plain(near))
            }
            None if groups.is_empty() => "no internal network is of a group".to_owned(),
            None => {
                let some: Vec<_> = groups.iter().take(10).map(|name| plain(name)).collect();
                format!("no internal network is of this group; there is {}", some.join(", "))
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
        let mut faults = Collector::new("f");
        let node = parse::read(text, &mut faults).unwrap();
        let set = read(&At::root(&node, None), &mut faults, Some(&internal()));
        let set = faults
            .finish(set)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>())?;
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
    fn what_is_no_set_says_what_was_meant() {
        for (text, why) in [
            (
                "intern",
                "f:1:1: \"intern\": expected internal, external, any, group:NAME, role:NAME or a network such as 10.0.0.0/8; did you mean internal?",
            ),
            (
                "group:ofices",
                "f:1:1: \"group:ofices\": no internal network is of this group; did you mean group:offices?",
            ),
            (
                "group:x",
                "f:1:1: \"group:x\": no internal network is of this group; there is mail servers, offices",
            ),
            ("role:mtaa", "did you mean mta?"),
            ("10.0.0.1/8", "f:1:1: \"10.0.0.1/8\": host bits set; did you mean 10.0.0.0/8?"),
            ("[]", "f:1:1: an empty list matches nothing"),
            ("[internal, internal]", "f:1:12: [1]: \"internal\": given twice in this list"),
            ("25", "put it in quotes"),
            ("{}", "expected a text"),
            ("\"!!any\"", "expected internal"),
        ] {
            let faults = set(text).unwrap_err();
            assert!(faults.len() == 1 && faults[0].contains(why), "{text}: {faults:?}");
        }
    }
}
