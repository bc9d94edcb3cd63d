//! Networks inside networks: allowed, as the longest match decides, but not always meant.

use super::lists::NetworkEntry;
use crate::config::diagnostics::DiagnosticSink;
use mailflow_engine::assets::AssetRole;

/// More remarks of this kind than this are only counted.
const MAX_WARNINGS: usize = 20;

/// A network around others, with the group and role that it hands on.
struct EnclosingNetwork<'a> {
    listed: &'a NetworkEntry,
    group: Option<&'a str>,
    role: Option<AssetRole>,
}

/// Warns of networks that change nothing, and of those of a group that lie within another group's.
pub(crate) fn warn(listed: &[NetworkEntry], diagnostics: &mut DiagnosticSink) {
    let mut sorted: Vec<&NetworkEntry> = listed.iter().collect();
    // By address, the wider first: what contains a network comes before it.
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
                    diagnostics.warn(this.remark(format!("{why}; more such networks are not told of")));
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

/// What is odd about a network inside `outer`, the nearest one around it.
fn overlap_warning(this: &NetworkEntry, outer: Option<&EnclosingNetwork<'_>>) -> Option<String> {
    let Some(outer) = outer else {
        let why = "excludes nothing: no internal network is around it";
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
    // What it says in words is shown in alerts.
    let commented = this.network.line.contains(char::is_whitespace);
    let adds = group.is_some() || role.is_some() || commented;
    (!adds).then(|| format!("{within}, so it adds nothing"))
}
