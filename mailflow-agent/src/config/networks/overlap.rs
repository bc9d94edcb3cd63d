//! Warnings about nested networks. They are allowed, as the longest match decides, but may be a mistake.

use super::lists::NetworkEntry;
use crate::config::diagnostics::DiagnosticSink;
use mailflow_engine::assets::AssetRole;

/// Maximum number of warnings about nested networks.
const MAX_WARNINGS: usize = 20;

/// Network that encloses others, with the group and role that they inherit.
struct EnclosingNetwork<'a> {
    listed: &'a NetworkEntry,
    group: Option<&'a str>,
    role: Option<AssetRole>,
}

/// Warns about networks that have no effect, and about networks of a group within another group's network.
pub(crate) fn warn(listed: &[NetworkEntry], diagnostics: &mut DiagnosticSink) {
    let mut sorted: Vec<&NetworkEntry> = listed.iter().collect();
    // Sorted by address and then by prefix length: an enclosing network comes before its subnets.
    sorted.sort_by_key(|listed| (listed.network.net.network(), listed.network.net.prefix_len()));
    let mut enclosing: Vec<EnclosingNetwork<'_>> = Vec::new();
    let mut found = 0;
    for this in sorted {
        while enclosing.pop_if(|outer| !outer.listed.network.net.contains(&this.network.net)).is_some() {}
        let outer = enclosing.last();
        if let Some(why) = overlap_warning(this, outer) {
            found += 1;
            match found {
                ..=MAX_WARNINGS => diagnostics.warn(this.remark(why)),
                _ if found == MAX_WARNINGS + 1 => {
                    diagnostics.warn(this.remark(format!("{why}; further such networks are not reported")));
                }
                _ => {}
            }
        }
        let inherited = (!this.network.exclude).then_some(&this.network);
        let next = EnclosingNetwork {
            listed: this,
            group: inherited.and_then(|network| network.group.as_deref().or_else(|| outer?.group)),
            role: inherited.and_then(|network| network.role.or_else(|| outer?.role)),
        };
        enclosing.push(next);
    }
}

/// Returns the warning about a network inside of `outer`, the nearest enclosing network.
fn overlap_warning(this: &NetworkEntry, outer: Option<&EnclosingNetwork<'_>>) -> Option<String> {
    let Some(outer) = outer else {
        let why = "has no effect: the excluded network is in no internal network";
        return this.network.exclude.then(|| why.to_owned());
    };
    let within = format!("lies within {} ({})", outer.listed.network.net, outer.listed.location);
    match (this.network.exclude, outer.listed.network.exclude) {
        (true, true) => return Some(format!("{within}, which is excluded already")),
        (true, false) | (false, true) => return None,
        (false, false) => {}
    }
    let (group, role) = (this.network.group.as_deref(), this.network.role);
    let group = match (group, outer.group) {
        (Some(group), Some(other)) if group != other => {
            return Some(format!("{within}, group {group} within group {other}; the longer prefix decides"));
        }
        (Some(group), None) => Some(group),
        _ => None,
    };
    let role = role.filter(|role| outer.role != Some(*role));
    // Alerts show the comment.
    let commented = this.network.line.contains(char::is_whitespace);
    let adds = group.is_some() || role.is_some() || commented;
    (!adds).then(|| format!("{within}, so it has no effect"))
}
