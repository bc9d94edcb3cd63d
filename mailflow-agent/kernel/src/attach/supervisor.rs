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
    helper::Lookout,
    lan_interfaces::Lans,
    status::{Bound, BoundInterface, EVERY, Place, Verify},
    supervised_interface::Watch,
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
    missing: Option<Time>,
}

/// Supervisor of all watched interfaces.
pub(crate) struct Watched {
    /// Interfaces of entries with a name, and interfaces to which patterns are bound.
    watches: Vec<Watch>,
    patterns: Vec<PatternEntry>,
    lans: Lans,
    next: Time,
    /// Helper process that queries hooks, if there is one.
    pub(crate) lookout: Option<Lookout>,
}

impl Watched {
    pub(crate) fn new() -> Self {
        Self {
            watches: Vec::new(),
            patterns: Vec::new(),
            lans: Lans::default(),
            next: Time::ZERO,
            lookout: None,
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
        if let Some(pattern) = NamePattern::is_one(name).then(|| NamePattern::parse(name).ok()).flatten() {
            self.patterns.push(PatternEntry { text: name.to_owned(), pattern, role, hook, missing: None });
            self.bind();
            for number in 0..self.watches.len() {
                let beside_lan = self.is_beside_lan(number);
                if self.watches[number].entry.as_deref() == Some(name) {
                    // A refusal is logged, and tried again at each look.
                    self.watches[number].mend(loaded, pins, self.lookout.as_ref(), beside_lan);
                }
            }
            if !self.watches.iter().any(|watch| watch.entry.as_deref() == Some(name)) {
                info!(
                    pattern = name,
                    "no interface matches the pattern yet; each that does is watched once it appears"
                );
            }
        } else {
            self.release(name);
            let taken = self.devices();
            let mut watch = Watch::new(name, None, role, hook, loaded.version);
            watch.find(&taken);
            watch.begin(loaded, pins, self.lookout.as_ref(), self.is_beside_lan(self.watches.len()))?;
            self.watches.push(watch);
        }
        self.tell(loaded);
        Ok(())
    }

    /// Detaches the programs of an entry.
    pub(crate) fn remove(&mut self, loaded: &mut Loaded, name: &str) {
        self.watches.retain(|watch| watch.entry.as_deref().unwrap_or(&watch.name) != name);
        self.patterns.retain(|pattern| pattern.text != name);
        self.tell(loaded);
    }

    /// Takes an interface from its pattern: an entry with the name comes first.
    fn release(&mut self, name: &str) {
        let device = Device::index_of(name);
        let named = |watch: &Watch| watch.device.as_ref().map(|device| device.index) == device;
        self.watches.retain(|watch| watch.entry.is_none() || device.is_none() || !named(watch));
    }

    /// Returns true if another interface is in the `lan` role.
    fn is_beside_lan(&self, number: usize) -> bool {
        let others = self.watches.iter().enumerate().filter(|(other, _)| *other != number);
        let mut roles = others.filter(|(_, watch)| watch.device.is_some()).map(|(_, watch)| watch.role());
        roles.any(|role| role == Role::Lan)
    }

    /// Returns the interface indexes of watched devices.
    fn devices(&self) -> Vec<u32> {
        self.watches.iter().filter_map(|watch| Some(watch.device.as_ref()?.index)).collect()
    }

    /// Binds patterns to the interfaces that match and are not watched.
    fn bind(&mut self) {
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
        let taken = self.devices();
        for link in links.iter().filter(|link| !link.loopback && !taken.contains(&link.device)) {
            let named = |watch: &Watch| watch.entry.is_none() && link.names.contains(&watch.name);
            let Some(name) = link.names.first().filter(|_| !self.watches.iter().any(named)) else { continue };
            let matches = |entry: &&PatternEntry| link.names.iter().any(|name| entry.pattern.matches(name));
            if let Some(entry) = self.patterns.iter().find(matches) {
                info!(interface = %name, pattern = %entry.text, "the interface matches the pattern and is watched");
                let device = Device { name: name.clone(), index: link.device };
                self.watches.push(Watch::of(device, &entry.text, entry.role, entry.hook));
            }
        }
    }

    /// Writes the `lan` interfaces into the map of the program.
    fn tell(&mut self, loaded: &mut Loaded) {
        let lans = self.watches.iter().filter(|watch| names::is_lan(watch.role()) && watch.listens());
        let lans = lans.filter_map(|watch| watch.device.as_ref()).map(|device| device.index).collect();
        self.lans.become_these(loaded, &lans);
    }

    /// Restores missing pins of links. Returns their names.
    pub(crate) fn mend_pins(&mut self, pins: &Pins) -> io::Result<Vec<String>> {
        let mut made = Vec::new();
        for watch in &mut self.watches {
            made.extend(watch.mend_pins(pins)?);
        }
        Ok(made)
    }

    /// Keeps every program attached, and forgets it.
    pub(crate) fn leave(&mut self) {
        self.watches.drain(..).for_each(Watch::leave_programs);
    }

    /// Detaches every program.
    pub(crate) fn clear(&mut self) {
        self.watches.clear();
        self.patterns.clear();
    }

    pub(crate) fn places(&self) -> impl Iterator<Item = &Place> {
        self.watches.iter().flat_map(Watch::places)
    }

    /// Returns the entries, those with a name first, with their interfaces.
    pub(crate) fn bound(&self) -> Vec<Bound> {
        let named = self.watches.iter().filter(|watch| watch.entry.is_none()).map(|watch| Bound {
            entry: watch.name.clone(),
            pattern: false,
            interfaces: bound_interface(watch).into_iter().collect(),
            hook: watch.hook,
            missing: watch.missing,
        });
        let patterns = self.patterns.iter().map(|entry| Bound {
            entry: entry.text.clone(),
            pattern: true,
            interfaces: self.of(entry).filter_map(bound_interface).collect(),
            hook: entry.hook,
            missing: entry.missing,
        });
        named.chain(patterns).collect()
    }

    /// Returns the indexes and names of the interfaces in the `lan` role.
    pub(crate) fn inside(&self) -> impl Iterator<Item = (u32, &str)> {
        let lans = self.watches.iter().filter(|watch| watch.role() == Role::Lan);
        lans.filter_map(|watch| Some((watch.device.as_ref()?.index, watch.name.as_str())))
    }

    fn of(&self, entry: &PatternEntry) -> impl Iterator<Item = &Watch> {
        self.watches.iter().filter(|watch| watch.entry.as_ref() == Some(&entry.text))
    }

    /// Follows changes of the interfaces, and attaches again what is detached or not first.
    pub(crate) fn follow(&mut self, loaded: &mut Loaded, pins: Option<&Pins>, now: Time, verify: Verify) {
        // All leave before any arrives: two interfaces may have swapped their names.
        self.watches.iter_mut().for_each(Watch::leave);
        self.watches.retain(|watch| watch.entry.is_none() || watch.device.is_some());
        if verify == Verify::Now || now >= self.next {
            self.next = now + EVERY;
            for number in 0..self.watches.len() {
                let beside_lan = self.is_beside_lan(number);
                self.watches[number].verify(loaded, self.lookout.as_ref(), now, beside_lan);
            }
        }
        let waiting = self.watches.iter().filter(|watch| watch.entry.is_none() && watch.device.is_none());
        let waiting: Vec<String> = waiting.map(|watch| watch.name.clone()).collect();
        for name in waiting {
            self.release(&name);
            let taken = self.devices();
            self.watches.iter_mut().filter(|watch| watch.name == name).for_each(|watch| watch.find(&taken));
        }
        self.bind();
        for number in 0..self.watches.len() {
            let beside_lan = self.is_beside_lan(number);
            let watch = &mut self.watches[number];
            if watch.mend(loaded, pins, self.lookout.as_ref(), beside_lan) {
                watch.verify(loaded, self.lookout.as_ref(), now, beside_lan);
            }
            watch.note_time(now);
        }
        for number in 0..self.patterns.len() {
            let missing = self.of(&self.patterns[number]).next().is_none();
            let before = self.patterns[number].missing;
            self.patterns[number].missing = missing.then(|| before.unwrap_or(now));
        }
        self.tell(loaded);
    }
}

fn bound_interface(watch: &Watch) -> Option<BoundInterface> {
    let number = watch.device.as_ref()?.index;
    Some(BoundInterface { number, name: watch.name.clone(), role: watch.role() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attach::status::Standing,
        host::{hook::Direction, kernel_version::KernelVersion},
        testing::{filters, in_namespace, load_as_on, run},
    };
    use std::time::Duration;

    const START: Time = Time::from_nanos(1_000_000_000);

    /// The loopback, watched as on a kernel without TCX.
    fn watched() -> (Loaded, Watched) {
        let (mut loaded, mut watched) = (load_as_on(KernelVersion(6, 1)), Watched::new());
        watched.add(&mut loaded, None, "lo", Role::Host, Hook::Tc).unwrap();
        watched.follow(&mut loaded, None, START, Verify::WhenDue);
        (loaded, watched)
    }

    fn standings(watched: &Watched) -> Vec<(Direction, Standing, u64)> {
        watched.places().map(|place| (place.direction, place.standing, place.again)).collect()
    }

    /// Returns the interfaces in the map of `lan` interfaces.
    fn lans(loaded: &Loaded) -> Vec<u32> {
        let map = loaded.ebpf.map("LAN_INTERFACES").unwrap();
        let map: aya::maps::HashMap<_, u32, u32> = map.try_into().unwrap();
        map.keys().collect::<Result<Vec<_>, _>>().unwrap()
    }

    fn at(position: u32) -> Standing {
        Standing::Attached { position: Some(position) }
    }

    #[test]
    fn programs_are_verified_every_minute() {
        in_namespace(|| {
            let (mut loaded, mut watched) = watched();
            let first = [(Direction::Egress, at(1), 0), (Direction::Ingress, at(1), 0)];
            assert_eq!(standings(&watched), first);
            run("tc qdisc del dev lo clsact");
            watched.follow(&mut loaded, None, START + (EVERY - Duration::from_nanos(1)), Verify::WhenDue);
            assert_eq!((standings(&watched), filters()), (first.to_vec(), 0), "not yet looked at");
            watched.follow(&mut loaded, None, START + EVERY, Verify::WhenDue);
            let second = [(Direction::Egress, at(1), 1), (Direction::Ingress, at(1), 1)];
            assert_eq!((standings(&watched), filters()), (second.to_vec(), 2));
            watched.clear();
            assert_eq!(filters(), 0);
        });
    }

    #[test]
    fn a_filter_that_gets_in_front_is_overtaken_ever_more_rarely() {
        in_namespace(|| {
            let (mut loaded, mut watched) = watched();
            // Classic BPF of one instruction: return 0, no match.
            let nothing = std::env::temp_dir().join(format!("mailflow-{}.bpf", std::process::id()));
            std::fs::write(&nothing, "1,6 0 0 0\n").unwrap();
            let ingress = |watched: &Watched| standings(watched)[1];
            let mut push = |number: u32, watched: &mut Watched, after: u64| {
                // Of our priority, and newer: it runs before ours.
                let add = format!("tc filter add dev lo ingress prio 1 handle {number} bpf bytecode-file");
                run(&format!("{add} {}", nothing.display()));
                watched.follow(&mut loaded, None, START + Duration::from_secs(after), Verify::Now);
            };
            push(1, &mut watched, 10);
            assert_eq!(ingress(&watched), (Direction::Ingress, at(1), 1));
            push(2, &mut watched, 20);
            assert_eq!(ingress(&watched), (Direction::Ingress, at(2), 1), "a minute's peace");
            push(3, &mut watched, 70);
            assert_eq!(ingress(&watched), (Direction::Ingress, at(1), 2));
            push(4, &mut watched, 140);
            assert_eq!(ingress(&watched), (Direction::Ingress, at(2), 2), "two minutes' peace");
            push(5, &mut watched, 190);
            assert_eq!(ingress(&watched), (Direction::Ingress, at(1), 3));
            assert_eq!(standings(&watched)[0], (Direction::Egress, at(1), 0), "nobody touched egress");
            assert_eq!(filters(), 2 + 5, "theirs stay");
            std::fs::remove_file(nothing).unwrap();
        });
    }

    #[test]
    fn an_interface_that_was_gone_is_attached_to_at_the_next_look() {
        in_namespace(|| {
            run("ip link add watched type veth peer name other");
            let (mut loaded, mut watched) = (load_as_on(KernelVersion(6, 18)), Watched::new());
            watched.add(&mut loaded, None, "watched", Role::Lan, Hook::Tc).unwrap();
            watched.add(&mut loaded, None, "lo", Role::Host, Hook::Tc).unwrap();
            assert_eq!(lans(&loaded), Vec::from_iter(Device::index_of("watched")));
            run("ip link del watched");
            watched.follow(&mut loaded, None, START, Verify::WhenDue);
            let [egress, ingress, ..] = standings(&watched)[..] else { panic!() };
            assert_eq!([egress.1, ingress.1], [Standing::Detached; 2]);
            assert_eq!(lans(&loaded), Vec::<u32>::new());
            run("ip link add watched type veth peer name other");
            watched.follow(&mut loaded, None, START, Verify::WhenDue);
            let [egress, ingress, ..] = standings(&watched)[..] else { panic!() };
            assert_eq!([egress, ingress], [(Direction::Egress, at(1), 1), (Direction::Ingress, at(1), 1)]);
            assert_eq!(lans(&loaded), Vec::from_iter(Device::index_of("watched")));
            watched.remove(&mut loaded, "watched");
            assert_eq!(lans(&loaded), Vec::<u32>::new());
        });
    }
}
