//! The interfaces that are watched, through all that may happen to them: they vanish, come back and
//! are renamed, and others attach and detach programs.
//!
//! What is watched is what bears the configured name, as it would be after a restart. An interface that
//! is renamed is still watched, until another one bears its name.

use std::{io, time::Duration};

use tracing::{debug, info, warn};

use super::{
    attach::{self, Attachment, Direction, Hung},
    device::Device,
    error::KernelError,
    interface::Interface,
    lans::Lans,
    load::Loaded,
    pins::Pins,
    query::{self, Found, Question, Seen},
};
use crate::{
    config::{Hook, Role},
    engine::time::Time,
};

/// How often every program's place is verified.
const EVERY: Duration = Duration::from_secs(60);
/// Longest wait between two moves to the front, where another program wants to be there too.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

/// Where a program belongs, and whether it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The interface, as configured.
    pub interface: String,
    /// Where there.
    pub direction: Direction,
    /// By what kind of hook; while it is not attached, by what kind it was.
    pub attachment: Attachment,
    /// Whether it is there.
    pub standing: Standing,
    /// How often it was attached again.
    pub again: u64,
}

/// How a program stands at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is attached.
    Attached {
        /// In the order of its hook's programs, 1 being the first; `None` where that cannot be told.
        position: Option<u32>,
    },
    /// It is not.
    Detached,
}

/// When to look for programs that others have moved or taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Once a minute.
    WhenDue,
    /// Now: something has changed.
    Now,
}

/// All watched interfaces.
pub(super) struct Watched {
    watches: Vec<Watch>,
    lans: Lans,
    next: Time,
}

impl Watched {
    pub(super) fn new() -> Self {
        Self { watches: Vec::new(), lans: Lans::default(), next: Time::ZERO }
    }

    /// Begins to watch an interface that is there.
    pub(super) fn add(
        &mut self,
        loaded: &mut Loaded,
        pins: Option<&Pins>,
        name: &str,
        role: Role,
        hook: Hook,
    ) -> Result<(), KernelError> {
        let interface = Interface::find(name)?;
        let mut hooks = Vec::new();
        for direction in attach::directions(role) {
            let place = attach::Spot { configured: name, interface: &interface, direction: *direction, pins };
            let hung = attach::attach(loaded, place, role, hook)?;
            hooks.push(Held::new(name, hung));
        }
        let device = Some(Device { name: name.to_owned(), index: interface.index() });
        self.watches.push(Watch { name: name.to_owned(), role, hook, device, hooks, trouble: None });
        self.tell(loaded);
        Ok(())
    }

    /// Takes the programs of an interface away.
    pub(super) fn remove(&mut self, loaded: &mut Loaded, name: &str) {
        self.watches.retain(|watch| watch.name != name);
        self.tell(loaded);
    }

    /// Tells the program where it counts what comes in.
    fn tell(&mut self, loaded: &mut Loaded) {
        let lans = self.watches.iter().filter(|watch| attach::is_lan(watch.role) && watch.listens());
        let lans = lans.filter_map(|watch| watch.device.as_ref()).map(|device| device.index).collect();
        self.lans.become_these(loaded, &lans);
    }

    /// Pins links again whose pins are gone; returns the names of the pins.
    pub(super) fn mend_pins(&mut self, pins: &Pins) -> io::Result<Vec<String>> {
        let mut made = Vec::new();
        for watch in &mut self.watches {
            for held in &mut watch.hooks {
                let Some(hung) = &mut held.hung else { continue };
                let path = pins.link(&watch.name, held.place.direction);
                if hung.mend_pin(&path)? {
                    made.push(path.display().to_string());
                }
            }
        }
        Ok(made)
    }

    /// Leaves every program where it is, and knows nothing of it any more.
    pub(super) fn leave(&mut self) {
        for held in self.watches.iter_mut().flat_map(|watch| &mut watch.hooks) {
            held.hung.take().into_iter().for_each(Hung::leave);
        }
        self.watches.clear();
    }

    /// Takes every program away.
    pub(super) fn clear(&mut self) {
        self.watches.clear();
    }

    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.watches.iter().flat_map(|watch| &watch.hooks).map(|held| &held.place)
    }

    /// Follows what has become of the interfaces, and puts right what is not as it should be.
    pub(super) fn follow(&mut self, loaded: &mut Loaded, pins: Option<&Pins>, now: Time, verify: Verify) {
        // All leave before any arrives: two interfaces may have swapped their names.
        self.watches.iter_mut().for_each(Watch::leave);
        if verify == Verify::Now || now >= self.next {
            self.next = now + EVERY;
            self.watches.iter_mut().for_each(|watch| watch.verify(loaded, now));
        }
        for watch in &mut self.watches {
            if watch.mend(loaded, pins) {
                watch.verify(loaded, now);
            }
        }
        self.tell(loaded);
    }
}

/// One watched interface.
struct Watch {
    /// As configured.
    name: String,
    role: Role,
    hook: Hook,
    /// The device, while it exists.
    device: Option<Device>,
    hooks: Vec<Held>,
    /// What was last said of why it cannot be attached to.
    trouble: Option<String>,
}

/// A place, and what is there.
struct Held {
    place: Place,
    hung: Option<Hung>,
    /// Not to be moved to the front again before this.
    patience: Time,
    /// How long the next wait is.
    wait: Duration,
}

impl Watch {
    /// Lets go of a device that is gone, or whose name another one bears.
    fn leave(&mut self) {
        let Some(device) = &mut self.device else { return };
        let interface = self.name.as_str();
        match (Device::index_of(interface), Device::name_of(device.index)) {
            (Some(index), _) if index == device.index => {
                if device.name != interface {
                    info!(interface, "the interface has its name again");
                    device.name = interface.to_owned();
                }
                return;
            }
            (None, Some(called)) => {
                if called != device.name {
                    warn!(interface, %called, "the interface was renamed; it is watched on, under its configured name");
                    device.name = called;
                }
                return;
            }
            (Some(_), Some(called)) => {
                warn!(interface, %called, "another interface bears the name now, and is watched instead of this one");
            }
            (Some(_), None) => warn!(interface, "the interface was made anew"),
            (None, None) => {
                warn!(interface, "the interface is gone; it is watched again when one of its name appears");
            }
        }
        self.device = None;
        self.hooks.iter_mut().for_each(Held::drop_link);
    }

    /// Whether a program sees what comes in.
    fn listens(&self) -> bool {
        self.hooks.iter().any(|held| held.place.direction == Direction::Ingress && held.hung.is_some())
    }

    /// Looks for each program at its place.
    fn verify(&mut self, loaded: &Loaded, now: Time) {
        let Some(device) = &self.device else { return };
        for held in &mut self.hooks {
            held.verify(&self.name, device, loaded, now);
        }
    }

    /// Attaches what is not attached; whether there was anything to do.
    fn mend(&mut self, loaded: &mut Loaded, pins: Option<&Pins>) -> bool {
        if self.device.is_none() {
            self.device = Device::find(&self.name);
        }
        let Some(device) = &self.device else { return false };
        if self.hooks.iter().all(|held| held.hung.is_some()) {
            return false;
        }
        let interface = Interface::of(device.clone());
        for held in self.hooks.iter_mut().filter(|held| held.hung.is_none()) {
            let direction = held.place.direction;
            let place = attach::Spot { configured: &self.name, interface: &interface, direction, pins };
            match attach::attach(loaded, place, self.role, self.hook) {
                Ok(hung) => held.take(hung),
                Err(error) => {
                    let error = error.to_string();
                    if self.trouble.as_ref() != Some(&error) {
                        warn!(interface = %self.name, %error, "not attached again; it is tried on");
                    }
                    self.trouble = Some(error);
                    return true;
                }
            }
        }
        self.trouble = None;
        true
    }
}

impl Held {
    fn new(interface: &str, hung: Hung) -> Self {
        let place = Place {
            interface: interface.to_owned(),
            direction: hung.direction,
            attachment: hung.attachment,
            standing: Standing::Attached { position: None },
            again: 0,
        };
        Self { place, hung: Some(hung), patience: Time::ZERO, wait: EVERY }
    }

    fn take(&mut self, hung: Hung) {
        self.place.attachment = hung.attachment;
        self.place.standing = Standing::Attached { position: None };
        self.place.again += 1;
        self.hung = Some(hung);
    }

    fn drop_link(&mut self) {
        self.hung = None;
        self.place.standing = Standing::Detached;
    }

    /// Looks for the program at its place; drops its link where it is to be attached again.
    fn verify(&mut self, interface: &str, device: &Device, loaded: &Loaded, now: Time) {
        let Some(hung) = &self.hung else { return };
        let (direction, hook) = (hung.direction.name(), hung.attachment.name());
        let question = Question {
            device: device.index,
            direction: hung.direction,
            attachment: hung.attachment,
            program: hung.program,
        };
        let before = match query::find(loaded.lookout.as_ref(), question) {
            Ok(Found::There { before }) => before,
            Ok(Found::Gone { instead }) => {
                let instead = instead.map(|other| shown(&[other]));
                warn!(interface, direction, hook, instead, "the program was taken away; attaching it again");
                return self.drop_link();
            }
            Err(error) => {
                debug!(interface, direction, hook, %error, "whether the program is in its place cannot be told");
                self.place.standing = Standing::Attached { position: None };
                return;
            }
        };
        let position = before.len() as u32 + 1;
        let known = self.place.standing;
        self.place.standing = Standing::Attached { position: Some(position) };
        if before.is_empty() {
            if now >= self.patience {
                self.wait = EVERY;
            }
            return;
        }
        // Another agent's programs take nothing away from this one's.
        let ours = |other: &Seen| other.name.as_ref().is_some_and(|name| loaded.programs.contains(name));
        let others = !before.iter().all(ours);
        if known != self.place.standing {
            let before = shown(&before);
            if others {
                warn!(
                    interface,
                    direction,
                    hook,
                    before,
                    "the program is not the first; what those before it accept it does not see"
                );
            } else {
                info!(interface, direction, hook, before, "another agent's program is the first");
            }
        }
        if others && now >= self.patience {
            self.patience = now + self.wait;
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
            info!(interface, direction, hook, "moving the program to the front");
            self.drop_link();
        }
    }
}

/// Programs as an operator finds them: `cil_from_netdev (id 42)`.
fn shown(programs: &[Seen]) -> String {
    let one = |program: &Seen| match program.id {
        Some(id) => format!("{} (id {id})", program.name.as_deref().unwrap_or("?")),
        None => "a filter".to_owned(),
    };
    programs.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{
        attach::tests::{filters, in_namespace, load_as_on, run},
        machine::KernelVersion,
    };

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

    /// The interfaces of which the program is told that it counts what comes in there.
    fn lans(loaded: &Loaded) -> Vec<u32> {
        let map = loaded.ebpf.map("LANS").unwrap();
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
