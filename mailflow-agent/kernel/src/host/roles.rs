//! Roles that the entries of the configuration have, or may come to have.

use super::{
    device::Device,
    interface::{Interface, forwards},
    name_pattern::NamePattern,
};
use crate::options::{self, Role};

/// Returns true if `host` interfaces stand beside `lan` ones, as configured or as chosen by what is there now; with
/// `later` if they may come to.
pub fn roles_mix(interfaces: &[options::Interface], later: bool) -> bool {
    let possible = |entry: &options::Interface| possible_roles(&entry.name, entry.role, later);
    let roles: Vec<_> = interfaces.iter().map(possible).collect();
    let may_be_lan = |but: Option<usize>| {
        let mut others = roles.iter().enumerate().filter(|(number, _)| Some(*number) != but);
        others.any(|(_, roles)| roles.contains(&Role::Lan))
    };
    let mixes = |(number, entry): (usize, &options::Interface)| {
        // One interface has one role; those of a pattern may have several.
        let but = (!NamePattern::is_one(&entry.name)).then_some(number);
        roles[number].contains(&Role::Host) && may_be_lan(but)
    };
    interfaces.iter().enumerate().any(mixes)
}

/// Returns true if `host` interfaces are watched and no `lan` ones, whatever comes.
pub fn roles_are_host(interfaces: &[options::Interface]) -> bool {
    let may_be = |role: Role| {
        let mut roles = interfaces.iter().map(|entry| possible_roles(&entry.name, entry.role, true));
        roles.any(|roles| roles.contains(&role))
    };
    may_be(Role::Host) && !may_be(Role::Lan)
}

/// The roles that an entry has by what is there now, and with `later` those that it may come to have: an interface
/// may appear, and a default route may leave by one that was the inside.
fn possible_roles(name: &str, role: Role, later: bool) -> Vec<Role> {
    match (role, Device::find(name)) {
        (Role::Auto, _) if !forwards() => vec![Role::Host],
        (Role::Auto, Some(device)) => match Interface::of(device).guess_role().0 {
            Role::Lan if later => vec![Role::Lan, Role::Host],
            role => vec![role],
        },
        (Role::Auto, None) if later => vec![Role::Host, Role::Lan],
        (Role::Auto, None) => Vec::new(),
        (role, _) => vec![role],
    }
}
