//! Supervisor of all watched interfaces: they disappear, come back and are renamed, and others attach and
//! detach programs.
//!
//! An entry of the configuration is a name or a pattern. The interface with the configured name is watched,
//! as it would be after a restart. A renamed interface is still watched until another one has its name. A
//! pattern is bound to each interface while its name matches. The supervisor waits for an interface that does
//! not exist.

use std::io;

use tracing::{debug, info};

use super::{
    helper::HookQueryHelper,
    lan_interfaces::LanInterfaces,
    status::{AttachmentStatus, BoundInterface, EntryBinding, VERIFY_INTERVAL, Verification},
    supervised_interface::SupervisedInterface,
};
use crate::{
    error::KernelError,
    host::{device::Device, name_pattern::NamePattern, netlink},
    options::{Hook, Role},
    persist::pins::Pins,
    program::{load::Loaded, names},
};
use mailflow_engine::time::Time;

/// Pattern in the configuration.
struct PatternEntry {
    text: String,
    pattern: NamePattern,
    role: Role,
    hook: Hook,
    missing_since: Option<Time>,
}

/// Supervisor of all watched interfaces.
pub(crate) struct AttachmentSupervisor {
    /// Interfaces of entries with a name, and interfaces to which patterns are bound.
    interfaces: Vec<SupervisedInterface>,
    patterns: Vec<PatternEntry>,
    lan_interfaces: LanInterfaces,
    next_verification: Time,
    /// Helper process that queries hooks, if there is one.
    pub(crate) helper: Option<HookQueryHelper>,
}

impl AttachmentSupervisor {
    pub(crate) fn new() -> Self {
        Self {
            interfaces: Vec::new(),
            patterns: Vec::new(),
            lan_interfaces: LanInterfaces::default(),
            next_verification: Time::ZERO,
            helper: None,
        }
    }

    /// Watches the interface of an entry: now if it exists, otherwise as soon as it does.
    pub(crate) fn add(
        &mut self,
        loaded: &mut Loaded,
        pins: Option<&Pins>,
        name: &str,
        role: Role,
        hook: Hook,
    ) -> Result<(), KernelError> {
        if let Some(pattern) = NamePattern::is_pattern(name).then(|| NamePattern::parse(name).ok()).flatten()
        {
            self.patterns.push(PatternEntry {
                text: name.to_owned(),
                pattern,
                role,
                hook,
                missing_since: None,
            });
            self.bind_patterns();
            for number in 0..self.interfaces.len() {
                let other_lan = self.has_other_lan(number);
                if self.interfaces[number].entry.as_deref() == Some(name) {
                    // A refusal is logged, and tried again at each look.
                    self.interfaces[number].reattach(loaded, pins, self.helper.as_ref(), other_lan);
                }
            }
            if !self.interfaces.iter().any(|interface| interface.entry.as_deref() == Some(name)) {
                info!(
                    pattern = name,
                    "no interface matches the pattern yet; each that does is watched once it appears"
                );
            }
        } else {
            self.release_from_pattern(name);
            let bound = self.watched_devices();
            let mut interface = SupervisedInterface::new(name, None, role, hook, loaded.version);
            interface.bind_device(&bound);
            interface.attach_first(
                loaded,
                pins,
                self.helper.as_ref(),
                self.has_other_lan(self.interfaces.len()),
            )?;
            self.interfaces.push(interface);
        }
        self.write_lan_interfaces(loaded);
        Ok(())
    }

    /// Detaches the programs of an entry.
    pub(crate) fn remove(&mut self, loaded: &mut Loaded, name: &str) {
        self.interfaces.retain(|interface| interface.entry.as_deref().unwrap_or(&interface.name) != name);
        self.patterns.retain(|pattern| pattern.text != name);
        self.write_lan_interfaces(loaded);
    }

    /// Takes an interface from its pattern: an entry with the name comes first.
    fn release_from_pattern(&mut self, name: &str) {
        let device = Device::index_of(name);
        let named =
            |interface: &SupervisedInterface| interface.device.as_ref().map(|device| device.index) == device;
        self.interfaces
            .retain(|interface| interface.entry.is_none() || device.is_none() || !named(interface));
    }

    /// Returns true if another interface is in the `lan` role.
    fn has_other_lan(&self, number: usize) -> bool {
        let others = self.interfaces.iter().enumerate().filter(|(other, _)| *other != number);
        let mut roles =
            others.filter(|(_, interface)| interface.device.is_some()).map(|(_, interface)| interface.role());
        roles.any(|role| role == Role::Lan)
    }

    /// Returns the interface indexes of watched devices.
    fn watched_devices(&self) -> Vec<u32> {
        self.interfaces.iter().filter_map(|interface| Some(interface.device.as_ref()?.index)).collect()
    }

    /// Binds patterns to the interfaces that match and are not watched.
    fn bind_patterns(&mut self) {
        if self.patterns.is_empty() {
            return;
        }
        let links = match netlink::links() {
            Ok(links) => links,
            Err(error) => {
                debug!(%error, "the interfaces cannot be listed; patterns are bound at the next look");
                return;
            }
        };
        let bound = self.watched_devices();
        for link in links.iter().filter(|link| !link.loopback && !bound.contains(&link.device)) {
            let named = |interface: &SupervisedInterface| {
                interface.entry.is_none() && link.names.contains(&interface.name)
            };
            let Some(name) = link.names.first().filter(|_| !self.interfaces.iter().any(named)) else {
                continue;
            };
            let matches = |entry: &&PatternEntry| link.names.iter().any(|name| entry.pattern.matches(name));
            if let Some(entry) = self.patterns.iter().find(matches) {
                info!(interface = %name, pattern = %entry.text, "the interface matches the pattern and is watched");
                let device = Device { name: name.clone(), index: link.device };
                self.interfaces.push(SupervisedInterface::for_device(
                    device,
                    &entry.text,
                    entry.role,
                    entry.hook,
                ));
            }
        }
    }

    /// Writes the `lan` interfaces into the map of the program.
    fn write_lan_interfaces(&mut self, loaded: &mut Loaded) {
        let lan_interfaces = self
            .interfaces
            .iter()
            .filter(|interface| names::is_lan(interface.role()) && interface.counts_ingress());
        let lan_interfaces = lan_interfaces
            .filter_map(|interface| interface.device.as_ref())
            .map(|device| device.index)
            .collect();
        self.lan_interfaces.sync(loaded, &lan_interfaces);
    }

    /// Restores missing pins of links. Returns their names.
    pub(crate) fn restore_pins(&mut self, pins: &Pins) -> io::Result<Vec<String>> {
        let mut restored = Vec::new();
        for interface in &mut self.interfaces {
            restored.extend(interface.restore_pins(pins)?);
        }
        Ok(restored)
    }

    /// Keeps every program attached, and forgets it.
    pub(crate) fn keep_attached(&mut self) {
        self.interfaces.drain(..).for_each(SupervisedInterface::keep_attached);
    }

    /// Detaches every program.
    pub(crate) fn detach_all(&mut self) {
        self.interfaces.clear();
        self.patterns.clear();
    }

    pub(crate) fn attachments(&self) -> impl Iterator<Item = &AttachmentStatus> {
        self.interfaces.iter().flat_map(SupervisedInterface::attachments)
    }

    /// Returns the entries, those with a name first, with their interfaces.
    pub(crate) fn entry_bindings(&self) -> Vec<EntryBinding> {
        let named = self.interfaces.iter().filter(|interface| interface.entry.is_none()).map(|interface| {
            EntryBinding {
                entry: interface.name.clone(),
                pattern: false,
                interfaces: bound_interface(interface).into_iter().collect(),
                hook: interface.hook,
                missing_since: interface.missing_since,
            }
        });
        let patterns = self.patterns.iter().map(|entry| EntryBinding {
            entry: entry.text.clone(),
            pattern: true,
            interfaces: self.interfaces_of(entry).filter_map(bound_interface).collect(),
            hook: entry.hook,
            missing_since: entry.missing_since,
        });
        named.chain(patterns).collect()
    }

    /// Returns the indexes and names of the interfaces in the `lan` role.
    pub(crate) fn lan_interfaces(&self) -> impl Iterator<Item = (u32, &str)> {
        let lan_interfaces = self.interfaces.iter().filter(|interface| interface.role() == Role::Lan);
        lan_interfaces
            .filter_map(|interface| Some((interface.device.as_ref()?.index, interface.name.as_str())))
    }

    fn interfaces_of(&self, entry: &PatternEntry) -> impl Iterator<Item = &SupervisedInterface> {
        self.interfaces.iter().filter(|interface| interface.entry.as_ref() == Some(&entry.text))
    }

    /// Follows changes of the interfaces, and attaches programs again that are detached or not first.
    pub(crate) fn follow_interfaces(
        &mut self,
        loaded: &mut Loaded,
        pins: Option<&Pins>,
        now: Time,
        verify: Verification,
    ) {
        // Devices are released before any is bound: two interfaces may have swapped their names.
        self.interfaces.iter_mut().for_each(SupervisedInterface::release_device);
        self.interfaces.retain(|interface| interface.entry.is_none() || interface.device.is_some());
        if verify == Verification::Now || now >= self.next_verification {
            self.next_verification = now + VERIFY_INTERVAL;
            for number in 0..self.interfaces.len() {
                let other_lan = self.has_other_lan(number);
                self.interfaces[number].verify(loaded, self.helper.as_ref(), now, other_lan);
            }
        }
        let waiting = self
            .interfaces
            .iter()
            .filter(|interface| interface.entry.is_none() && interface.device.is_none());
        let waiting: Vec<String> = waiting.map(|interface| interface.name.clone()).collect();
        for name in waiting {
            self.release_from_pattern(&name);
            let bound = self.watched_devices();
            self.interfaces
                .iter_mut()
                .filter(|interface| interface.name == name)
                .for_each(|interface| interface.bind_device(&bound));
        }
        self.bind_patterns();
        for number in 0..self.interfaces.len() {
            let other_lan = self.has_other_lan(number);
            let interface = &mut self.interfaces[number];
            if interface.reattach(loaded, pins, self.helper.as_ref(), other_lan) {
                interface.verify(loaded, self.helper.as_ref(), now, other_lan);
            }
            interface.record_presence(now);
        }
        for number in 0..self.patterns.len() {
            let missing_since = self.interfaces_of(&self.patterns[number]).next().is_none();
            let before = self.patterns[number].missing_since;
            self.patterns[number].missing_since = missing_since.then(|| before.unwrap_or(now));
        }
        self.write_lan_interfaces(loaded);
    }
}

fn bound_interface(interface: &SupervisedInterface) -> Option<BoundInterface> {
    let index = interface.device.as_ref()?.index;
    Some(BoundInterface { index, name: interface.name.clone(), role: interface.role() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attach::status::AttachState,
        host::{hook::Direction, kernel_version::KernelVersion},
        testing::{filters, in_namespace, load_as_on, run},
    };
    use std::time::Duration;

    const START: Time = Time::from_nanos(1_000_000_000);

    /// The loopback, watched as on a kernel without TCX.
    fn supervise_loopback() -> (Loaded, AttachmentSupervisor) {
        let (mut loaded, mut supervisor) = (load_as_on(KernelVersion(6, 1)), AttachmentSupervisor::new());
        supervisor.add(&mut loaded, None, "lo", Role::Host, Hook::Tc).unwrap();
        supervisor.follow_interfaces(&mut loaded, None, START, Verification::WhenDue);
        (loaded, supervisor)
    }

    fn states(supervisor: &AttachmentSupervisor) -> Vec<(Direction, AttachState, u64)> {
        supervisor
            .attachments()
            .map(|status| (status.direction, status.state, status.reattach_count))
            .collect()
    }

    /// Returns the interfaces in the map of `lan` interfaces.
    fn lan_interfaces(loaded: &Loaded) -> Vec<u32> {
        let map = loaded.ebpf.map("LAN_INTERFACES").unwrap();
        let map: aya::maps::HashMap<_, u32, u32> = map.try_into().unwrap();
        map.keys().collect::<Result<Vec<_>, _>>().unwrap()
    }

    fn at(position: u32) -> AttachState {
        AttachState::Attached { position: Some(position) }
    }

    #[test]
    fn programs_are_verified_every_minute() {
        in_namespace(|| {
            let (mut loaded, mut supervisor) = supervise_loopback();
            let first = [(Direction::Egress, at(1), 0), (Direction::Ingress, at(1), 0)];
            assert_eq!(states(&supervisor), first);
            run("tc qdisc del dev lo clsact");
            supervisor.follow_interfaces(
                &mut loaded,
                None,
                START + (VERIFY_INTERVAL - Duration::from_nanos(1)),
                Verification::WhenDue,
            );
            assert_eq!((states(&supervisor), filters()), (first.to_vec(), 0), "not yet looked at");
            supervisor.follow_interfaces(&mut loaded, None, START + VERIFY_INTERVAL, Verification::WhenDue);
            let second = [(Direction::Egress, at(1), 1), (Direction::Ingress, at(1), 1)];
            assert_eq!((states(&supervisor), filters()), (second.to_vec(), 2));
            supervisor.detach_all();
            assert_eq!(filters(), 0);
        });
    }

    #[test]
    fn moves_to_the_front_become_rarer() {
        in_namespace(|| {
            let (mut loaded, mut supervisor) = supervise_loopback();
            // Classic BPF of one instruction: return 0, no match.
            let nothing = std::env::temp_dir().join(format!("mailflow-{}.bpf", std::process::id()));
            std::fs::write(&nothing, "1,6 0 0 0\n").unwrap();
            let ingress = |supervisor: &AttachmentSupervisor| states(supervisor)[1];
            let mut push = |number: u32, supervisor: &mut AttachmentSupervisor, after: u64| {
                // A newer filter of the same priority runs first.
                let add = format!("tc filter add dev lo ingress prio 1 handle {number} bpf bytecode-file");
                run(&format!("{add} {}", nothing.display()));
                supervisor.follow_interfaces(
                    &mut loaded,
                    None,
                    START + Duration::from_secs(after),
                    Verification::Now,
                );
            };
            push(1, &mut supervisor, 10);
            assert_eq!(ingress(&supervisor), (Direction::Ingress, at(1), 1));
            push(2, &mut supervisor, 20);
            assert_eq!(ingress(&supervisor), (Direction::Ingress, at(2), 1), "a minute's peace");
            push(3, &mut supervisor, 70);
            assert_eq!(ingress(&supervisor), (Direction::Ingress, at(1), 2));
            push(4, &mut supervisor, 140);
            assert_eq!(ingress(&supervisor), (Direction::Ingress, at(2), 2), "two minutes' peace");
            push(5, &mut supervisor, 190);
            assert_eq!(ingress(&supervisor), (Direction::Ingress, at(1), 3));
            assert_eq!(states(&supervisor)[0], (Direction::Egress, at(1), 0), "nobody touched egress");
            assert_eq!(filters(), 2 + 5, "theirs stay");
            std::fs::remove_file(nothing).unwrap();
        });
    }

    #[test]
    fn a_new_interface_is_attached_at_the_next_poll() {
        in_namespace(|| {
            run("ip link add watched type veth peer name other");
            let (mut loaded, mut supervisor) =
                (load_as_on(KernelVersion(6, 18)), AttachmentSupervisor::new());
            supervisor.add(&mut loaded, None, "watched", Role::Lan, Hook::Tc).unwrap();
            supervisor.add(&mut loaded, None, "lo", Role::Host, Hook::Tc).unwrap();
            assert_eq!(lan_interfaces(&loaded), Vec::from_iter(Device::index_of("watched")));
            run("ip link del watched");
            supervisor.follow_interfaces(&mut loaded, None, START, Verification::WhenDue);
            let [egress, ingress, ..] = states(&supervisor)[..] else { panic!() };
            assert_eq!([egress.1, ingress.1], [AttachState::Detached; 2]);
            assert_eq!(lan_interfaces(&loaded), Vec::<u32>::new());
            run("ip link add watched type veth peer name other");
            supervisor.follow_interfaces(&mut loaded, None, START, Verification::WhenDue);
            let [egress, ingress, ..] = states(&supervisor)[..] else { panic!() };
            assert_eq!([egress, ingress], [(Direction::Egress, at(1), 1), (Direction::Ingress, at(1), 1)]);
            assert_eq!(lan_interfaces(&loaded), Vec::from_iter(Device::index_of("watched")));
            supervisor.remove(&mut loaded, "watched");
            assert_eq!(lan_interfaces(&loaded), Vec::<u32>::new());
        });
    }
}
