//! Networks inside networks: allowed, as the longest match decides, but seldom meant.

use super::{fault::Collector, networks::Listed};

/// Warns of networks that change nothing or that overlap between groups.
pub(super) fn warn(listed: &[Listed], faults: &mut Collector) {
    let mut sorted: Vec<&Listed> = listed.iter().collect();
    // By address, the wider first: what contains a network comes before it.
    sorted.sort_by_key(|listed| (listed.network.net.network(), listed.network.net.prefix_len()));
    let mut around: Vec<&Listed> = Vec::new();
    for this in sorted {
        while around.last().is_some_and(|outer| !outer.network.net.contains(&this.network.net)) {
            around.pop();
        }
        if let Some(why) = oddity(this, around.last().copied()) {
            faults.warn(this.remark(why));
        }
        around.push(this);
    }
}

/// What is odd about a network inside `outer`, the nearest one around it.
fn oddity(this: &Listed, outer: Option<&Listed>) -> Option<String> {
    let within = |outer: &Listed| format!("lies within {} ({})", outer.network.net, outer.place);
    match outer {
        Some(outer) if this.network.exclude && outer.network.exclude => {
            Some(format!("{}, which is excluded already", within(outer)))
        }
        None if this.network.exclude => Some("excludes nothing: no internal network is around it".to_owned()),
        Some(outer) if this.network.exclude || outer.network.exclude => None,
        Some(outer) if this.network.group == outer.network.group => {
            Some(format!("{}, so it adds nothing", within(outer)))
        }
        Some(outer) => Some(format!("{}, of another group; the longer prefix decides", within(outer))),
        None => None,
    }
}
