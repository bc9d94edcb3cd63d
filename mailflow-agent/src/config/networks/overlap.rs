//! Networks inside networks: allowed, as the longest match decides, but not always meant.

use super::lists::Listed;
use crate::config::diagnostics::Collector;
use mailflow_engine::network::AssetRole;

/// More remarks of this kind than this are only counted.
const MOST: usize = 20;

/// A network around others, with the group and role that it hands on.
struct Outer<'a> {
    listed: &'a Listed,
    group: Option<&'a str>,
    role: Option<AssetRole>,
}

/// Warns of networks that change nothing, and of those of a group that lie within another group's.
pub(crate) fn warn(listed: &[Listed], faults: &mut Collector) {
    let mut sorted: Vec<&Listed> = listed.iter().collect();
    // By address, the wider first: what contains a network comes before it.
    sorted.sort_by_key(|listed| (listed.network.net.network(), listed.network.net.prefix_len()));
    let mut around: Vec<Outer<'_>> = Vec::new();
    let mut found = 0;
    for this in sorted {
        while around.pop_if(|outer| !outer.listed.network.net.contains(&this.network.net)).is_some() {}
        let outer = around.last();
        if let Some(why) = oddity(this, outer) {
            found += 1;
            match found {
                ..=MOST => faults.warn(this.remark(why)),
                _ if found == MOST + 1 => {
                    faults.warn(this.remark(format!("{why}; more such networks are not told of")));
                }
                _ => {}
            }
        }
        let handed = (!this.network.exclude).then_some(&this.network);
        let next = Outer {
            listed: this,
            group: handed.and_then(|network| network.group.as_deref().or_else(|| outer?.group)),
            role: handed.and_then(|network| network.role.or_else(|| outer?.role)),
        };
        around.push(next);
    }
}

/// What is odd about a network inside `outer`, the nearest one around it.
fn oddity(this: &Listed, outer: Option<&Outer<'_>>) -> Option<String> {
    let Some(outer) = outer else {
        let why = "excludes nothing: no internal network is around it";
        return this.network.exclude.then(|| why.to_owned());
    };
    let within = format!("lies within {} ({})", outer.listed.network.net, outer.listed.place);
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
