//! Warnings about nested networks. They are allowed, as the longest match decides, but may be a mistake.

use super::lists::NetworkEntry;
use crate::config::diagnostics::DiagnosticSink;
use mailflow_engine::network::AssetRole;

/// Maximum number of warnings about nested networks.
const MAX_WARNINGS: usize = 20;

/// Network that encloses others, with the group and role that they inherit.
struct EnclosingNetwork<'a> {
    entry: &'a NetworkEntry,
    group: Option<&'a str>,
    role: Option<AssetRole>,
}

/// Warns about networks that have no effect, and about networks of a group within another group's network.
pub(crate) fn warn(entries: &[NetworkEntry], diagnostics: &mut DiagnosticSink) {
    let mut sorted: Vec<&NetworkEntry> = entries.iter().collect();
    // Sorted by address and then by prefix length: an enclosing network comes before its subnets.
    sorted.sort_by_key(|entry| (entry.network.net.network(), entry.network.net.prefix_len()));
    let mut enclosing: Vec<EnclosingNetwork<'_>> = Vec::new();
    let mut found = 0;
    for entry in sorted {
        while enclosing.pop_if(|outer| !outer.entry.network.net.contains(&entry.network.net)).is_some() {}
        let outer = enclosing.last();
        if let Some(why) = overlap_warning(entry, outer) {
            found += 1;
            match found {
                ..=MAX_WARNINGS => diagnostics.warn(entry.remark(why)),
                _ if found == MAX_WARNINGS + 1 => {
                    diagnostics.warn(entry.remark(format!("{why}; further such networks are not reported")));
                }
                _ => {}
            }
        }
        let inherited = (!entry.network.exclude).then_some(&entry.network);
        let next = EnclosingNetwork {
            entry,
            group: inherited.and_then(|network| network.group.as_deref().or_else(|| outer?.group)),
            role: inherited.and_then(|network| network.role.or_else(|| outer?.role)),
        };
        enclosing.push(next);
    }
}

/// Returns the warning about a network inside of `outer`, the nearest enclosing network.
fn overlap_warning(entry: &NetworkEntry, outer: Option<&EnclosingNetwork<'_>>) -> Option<String> {
    let Some(outer) = outer else {
        let why = "has no effect: the excluded network is in no internal network";
        return entry.network.exclude.then(|| why.to_owned());
    };
    let within = format!("lies within {} ({})", outer.entry.network.net, outer.entry.location);
    match (entry.network.exclude, outer.entry.network.exclude) {
        (true, true) => return Some(format!("{within}, which is excluded already")),
        (true, false) | (false, true) => return None,
        (false, false) => {}
    }
    let (group, role) = (entry.network.group.as_deref(), entry.network.role);
    let group = match (group, outer.group) {
        (Some(group), Some(other)) if group != other => {
            return Some(format!("{within}, group {group} within group {other}; the longer prefix decides"));
        }
        (Some(group), None) => Some(group),
        _ => None,
    };
    let role = role.filter(|role| outer.role != Some(*role));
    // Alerts show the comment.
    let commented = entry.network.line.contains(char::is_whitespace);
    let adds = group.is_some() || role.is_some() || commented;
    (!adds).then(|| format!("{within}, so it has no effect"))
}
