//! `interfaces`: what is watched, and how.

use std::collections::HashSet;

use mailflow_kernel::{
    NamePattern,
    options::{Hook, Interface, Role},
};

use crate::config::{
    diagnostics::Collector,
    scalar::interface,
    yaml::{
        get::{At, Fields},
        values::{choice, items, parsed},
    },
};

/// Reads the list of interfaces.
pub(crate) fn read(at: &At<'_>, faults: &mut Collector) -> Option<Vec<Interface>> {
    let mut names = HashSet::new();
    let mut listed: Vec<(String, At<'_>)> = Vec::new();
    let interfaces = items(at, faults, |item, faults| {
        Fields::read(item, faults, |fields| {
            let name = fields.needed("name", |at, faults| {
                let name = parsed(at, faults, "the name of an interface", interface)?;
                if names.insert(name.clone()) {
                    listed.push((name.clone(), at.clone()));
                    Some(name)
                } else {
                    at.fault(faults, "this interface is in the list already")
                }
            });
            let roles = Role::ALL.map(|role| (role.name(), role));
            let role = fields.or("role", Role::default(), |at, faults| choice(at, faults, &roles));
            let hooks = Hook::ALL.map(|hook| (hook.name(), hook));
            let hook = fields.or("hook", Hook::default(), |at, faults| choice(at, faults, &hooks));
            Some(Interface { name: name?, role: role?, hook: hook? })
        })
    })?;
    warn_of_overlap(&listed, faults);
    interfaces.into_iter().collect()
}

/// Warns of each name that a pattern of the list matches too.
fn warn_of_overlap(listed: &[(String, At<'_>)], faults: &mut Collector) {
    let pattern = |name: &str| NamePattern::is_pattern(name).then(|| NamePattern::parse(name).ok()).flatten();
    let patterns: Vec<_> = listed.iter().filter_map(|(name, _)| Some((name, pattern(name)?))).collect();
    for (name, at) in listed.iter().filter(|(name, _)| !NamePattern::is_pattern(name)) {
        if let Some((pattern, _)) = patterns.iter().find(|(_, pattern)| pattern.matches(name)) {
            at.warn(
                faults,
                format!("\"{name}\": the entry {pattern} matches it too; the entry with the name decides"),
            );
        }
    }
}
