//! `interfaces`: what is watched, and how.

use std::collections::HashSet;

use super::{
    Hook, Interface, Role,
    fault::Collector,
    read::{At, Fields},
    typed::{choice, items, parsed},
    value::interface_name,
};

/// Reads the list of interfaces.
pub(super) fn read(at: &At<'_>, faults: &mut Collector) -> Option<Vec<Interface>> {
    let mut names = HashSet::new();
    let interfaces = items(at, faults, |item, faults| {
        Fields::read(item, faults, |fields| {
            let name = fields.needed("name", |at, faults| {
                let name = parsed(at, faults, "the name of an interface", interface_name)?;
                if names.insert(name.clone()) {
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
    interfaces.into_iter().collect()
}
