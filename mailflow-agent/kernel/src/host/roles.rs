//! Roles of the entries of the configuration.

use super::{
    device::Device,
    interface::{NetworkInterface, is_forwarding},
    name_pattern::NamePattern,
};
use crate::options::{self, Role};

/// Returns true if there are `host` and `lan` interfaces, as configured or chosen now; with `later` also if
/// there may be.
pub fn roles_mix(interfaces: &[options::Interface], later: bool) -> bool {
    let possible = |entry: &options::Interface| possible_roles(&entry.name, entry.role, later);
    let roles: Vec<_> = interfaces.iter().map(possible).collect();
    let may_be_lan = |except: Option<usize>| {
        let mut other_roles = roles.iter().enumerate().filter(|(number, _)| Some(*number) != except);
        other_roles.any(|(_, roles)| roles.contains(&Role::Lan))
    };
    let mixes = |(number, entry): (usize, &options::Interface)| {
        // One interface has one role; those of a pattern may have several.
        let except = (!NamePattern::is_pattern(&entry.name)).then_some(number);
        roles[number].contains(&Role::Host) && may_be_lan(except)
    };
    interfaces.iter().enumerate().any(mixes)
}

/// Returns true if there are `host` interfaces and can be no `lan` ones.
pub fn roles_are_host(interfaces: &[options::Interface]) -> bool {
    let may_be = |role: Role| {
        let mut roles = interfaces.iter().map(|entry| possible_roles(&entry.name, entry.role, true));
        roles.any(|roles| roles.contains(&role))
    };
    may_be(Role::Host) && !may_be(Role::Lan)
}

/// Returns the roles of an entry now, and with `later` also those that it may get: an interface may appear,
/// and a default route may be added to a `lan` interface.
fn possible_roles(name: &str, role: Role, later: bool) -> Vec<Role> {
    match (role, Device::find(name)) {
        (Role::Auto, _) if !is_forwarding() => vec![Role::Host],
        (Role::Auto, Some(device)) => match NetworkInterface::of(device).automatic_role().0 {
            Role::Lan if later => vec![Role::Lan, Role::Host],
            role => vec![role],
        },
        (Role::Auto, None) if later => vec![Role::Host, Role::Lan],
        (Role::Auto, None) => Vec::new(),
        (role, _) => vec![role],
    }
}
