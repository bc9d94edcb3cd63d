//! One watched interface: its device while there is one, and its programs at their hooks.

use std::{io, time::Duration};

use tracing::{debug, info, warn};

use super::{
    attach,
    helper::{self, Lookout},
    link::{Hung, Spot},
    query::{Found, Question, Seen},
    status::{EVERY, Place, Standing},
};
use crate::{
    error::KernelError,
    host::{
        device::{self, Device},
        hook::{Attachment, Direction},
        interface::{self, Interface},
        kernel_version::KernelVersion,
    },
    options::{Hook, Role},
    persist::pins::Pins,
    program::{load::Loaded, names},
};
use mailflow_engine::time::Time;

/// Longest wait between two moves to the front, where another program wants to be there too.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);
/// For so long after an interface appeared, a default route that leaves by it changes a role that was chosen: a link
/// comes up before its routes do.
const SETTLES: Duration = Duration::from_secs(600);

/// One watched interface.
pub(super) struct Watch {
    /// As configured; of a pattern, the name of the device.
    pub(crate) name: String,
    /// The pattern that is bound to it, if one is.
    pub(crate) entry: Option<String>,
    /// As configured.
    role: Role,
    /// Role that was chosen for the device, where the configuration leaves it open.
    chosen: Option<Role>,
    pub(crate) hook: Hook,
    /// The device, while it exists.
    pub(crate) device: Option<Device>,
    hooks: Vec<Held>,
    /// Reason that was logged last why it cannot be attached to.
    trouble: Option<String>,
    /// Since when there is no device.
    pub(crate) missing: Option<Time>,
    /// Time of the first look at the device.
    arrived: Option<Time>,
}

/// A place, and what is there.
struct Held {
    place: Place,
    hung: Option<Hung>,
    /// It was there before.
    was_there: bool,
    /// Not to be moved to the front again before this.
    patience: Time,
    /// Length of the next wait.
    wait: Duration,
}

impl Watch {
    /// The watch of an entry that may have no device yet.
    pub(crate) fn new(
        name: &str,
        entry: Option<&str>,
        role: Role,
        hook: Hook,
        version: KernelVersion,
    ) -> Self {
        let mut watch = Self {
            name: name.to_owned(),
            entry: entry.map(str::to_owned),
            role,
            chosen: None,
            hook,
            device: None,
            hooks: Vec::new(),
            trouble: None,
            missing: None,
            arrived: None,
        };
        watch.make_hooks(version);
        watch
    }

    /// The watch of a device that a pattern is bound to.
    pub(crate) fn of(device: Device, entry: &str, role: Role, hook: Hook) -> Self {
        let watch = Self::new(&device.name, Some(entry), role, hook, KernelVersion::TCX);
        Self { device: Some(device), ..watch }
    }

    /// Pins the links of its programs again whose pins are gone; returns the names of the pins.
    pub(crate) fn mend_pins(&mut self, pins: &Pins) -> io::Result<Vec<String>> {
        let mut made = Vec::new();
        for held in &mut self.hooks {
            let Some(hung) = &mut held.hung else { continue };
            let path = pins.link(&self.name, held.place.direction);
            if hung.mend_pin(&path)? {
                made.push(path.display().to_string());
            }
        }
        Ok(made)
    }

    /// The role in force.
    pub(crate) fn role(&self) -> Role {
        self.chosen.unwrap_or(self.role)
    }

    /// Places for the programs of the role, as none is attached yet.
    fn make_hooks(&mut self, version: KernelVersion) {
        let attachment = if version >= KernelVersion::TCX { Attachment::Tcx } else { Attachment::Clsact };
        let held = |direction: &Direction| Held {
            place: Place {
                interface: self.name.clone(),
                direction: *direction,
                attachment,
                standing: Standing::Detached,
                again: 0,
            },
            hung: None,
            was_there: false,
            patience: Time::ZERO,
            wait: EVERY,
        };
        self.hooks = names::directions(self.role()).iter().map(held).collect();
    }

    /// Takes the device that bears the name, unless it is one of `taken`.
    pub(crate) fn find(&mut self, taken: &[u32]) {
        let Some(device) = Device::find(&self.name) else { return };
        if taken.contains(&device.index) {
            self.say_once("another entry watches this interface under another of its names".to_owned());
            return;
        }
        self.device = Some(device);
    }

    /// Attaches for the first time. An interface that is not there, or goes at this moment, is waited for.
    pub(crate) fn begin(
        &mut self,
        loaded: &mut Loaded,
        pins: Option<&Pins>,
        lookout: Option<&Lookout>,
        beside_lan: bool,
    ) -> Result<(), KernelError> {
        match self.try_mend(loaded, pins, lookout, beside_lan) {
            Err(error) => {
                let there =
                    self.device.as_ref().is_some_and(|device| Device::name_of(device.index).is_some());
                if there {
                    return Err(error);
                }
                self.device = None;
                self.hooks.iter_mut().for_each(Held::drop_link);
            }
            Ok(_) if self.device.is_some() => return Ok(()),
            Ok(_) => {}
        }
        let present = device::present().join(", ");
        warn!(interface = %self.name, %present, "there is no such interface; it is watched once it appears");
        Ok(())
    }

    /// Notes since when there is no device, or when there was one first.
    pub(super) fn note_time(&mut self, now: Time) {
        if self.device.is_some() {
            self.missing = None;
            self.arrived.get_or_insert(now);
        } else {
            self.missing.get_or_insert(now);
            self.arrived = None;
        }
    }

    pub(crate) fn places(&self) -> impl Iterator<Item = &Place> {
        self.hooks.iter().map(|held| &held.place)
    }

    /// Leaves the programs where they are.
    pub(super) fn leave_programs(mut self) {
        self.hooks.iter_mut().filter_map(|held| held.hung.take()).for_each(Hung::leave);
    }

    /// Chooses the role of a device that has none, and changes the inside to the outside where a default route
    /// came after the link. `beside_lan`: another interface is watched as the inside.
    fn choose_role(&mut self, now: Option<Time>, loaded: &Loaded, beside_lan: bool) {
        let Some(device) = self.device.clone().filter(|_| self.role == Role::Auto) else { return };
        let interface = Interface::of(device);
        let before = self.chosen;
        let settles = now.zip(self.arrived).is_some_and(|(now, arrived)| now.since(arrived) < SETTLES);
        let (role, reason) = match before {
            None => interface.guess_role(),
            Some(Role::Lan) if settles && interface::carries_default_route(interface.index()) => {
                interface.guess_role()
            }
            Some(_) => return,
        };
        if before == Some(role) {
            return;
        }
        info!(interface = %self.name, role = role.name(), %reason, "role chosen");
        self.chosen = Some(role);
        if before.is_some() || names::directions(role).len() != self.hooks.len() {
            // Their links go first: two roles would count a packet twice.
            self.hooks.clear();
            self.make_hooks(loaded.version);
        }
        if role == Role::Host && beside_lan && !loaded.local_only {
            self.hooks.clear();
            warn!(
                interface = %self.name,
                "the interface is the outside, and what the inside counts would be counted there again: no program is \
                 attached; restart the agent to count the machine's own mail there"
            );
        }
    }

    /// Logs what is wrong, unless it was the last that was logged.
    fn say_once(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            warn!(interface = %self.name, error = %trouble, "not attached; it is tried again at each poll");
        }
        self.trouble = Some(trouble);
    }

    /// Lets go of a device that is gone, or whose name another one bears.
    pub(crate) fn leave(&mut self) {
        let Some(device) = &mut self.device else { return };
        let interface = self.name.as_str();
        if self.entry.is_some() {
            match Device::name_of(device.index) {
                Some(called) if called == self.name => return,
                Some(called) => {
                    info!(interface, %called, "the interface was renamed; the patterns are looked through again")
                }
                None => info!(interface, "the interface is gone"),
            }
            self.device = None;
            self.hooks.iter_mut().for_each(Held::drop_link);
            return;
        }
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
            (Some(_), None) => warn!(interface, "another interface was made under the name"),
            (None, None) => {
                warn!(interface, "the interface is gone; it is watched again when one of its name appears");
            }
        }
        // A role that was chosen stays with the name: a link comes back before its routes do.
        self.device = None;
        self.arrived = None;
        self.hooks.iter_mut().for_each(Held::drop_link);
    }

    /// Returns true if a program sees the packets that come in.
    pub(super) fn listens(&self) -> bool {
        self.hooks.iter().any(|held| held.place.direction == Direction::Ingress && held.hung.is_some())
    }

    /// Looks for each program at its place.
    pub(crate) fn verify(&mut self, loaded: &Loaded, lookout: Option<&Lookout>, now: Time, beside_lan: bool) {
        self.choose_role(Some(now), loaded, beside_lan);
        let Some(device) = &self.device else { return };
        for held in &mut self.hooks {
            held.verify(&self.name, device, loaded, lookout, now);
        }
    }

    /// Attaches the programs that are not attached; returns true if there were any. A refusal is logged once.
    pub(super) fn mend(
        &mut self,
        loaded: &mut Loaded,
        pins: Option<&Pins>,
        lookout: Option<&Lookout>,
        beside_lan: bool,
    ) -> bool {
        match self.try_mend(loaded, pins, lookout, beside_lan) {
            Ok(done) => {
                if done {
                    self.trouble = None;
                }
                done
            }
            Err(error) => {
                self.say_once(error.to_string());
                true
            }
        }
    }

    /// Attaches the programs that are not attached, and returns the first refusal.
    fn try_mend(
        &mut self,
        loaded: &mut Loaded,
        pins: Option<&Pins>,
        lookout: Option<&Lookout>,
        beside_lan: bool,
    ) -> Result<bool, KernelError> {
        if self.hooks.iter().all(|held| held.hung.is_some()) {
            return Ok(false);
        }
        self.choose_role(None, loaded, beside_lan);
        let Some(device) = &self.device else { return Ok(false) };
        let interface = Interface::of(device.clone());
        let role = self.role();
        for held in self.hooks.iter_mut().filter(|held| held.hung.is_none()) {
            let direction = held.place.direction;
            let place = Spot { configured: &self.name, interface: &interface, direction, pins, lookout };
            held.take(attach::attach(loaded, place, role, self.hook)?);
        }
        Ok(true)
    }
}

impl Held {
    fn take(&mut self, hung: Hung) {
        self.place.attachment = hung.attachment;
        self.place.standing = Standing::Attached { position: None };
        self.place.again += u64::from(self.was_there);
        self.was_there = true;
        self.hung = Some(hung);
    }

    fn drop_link(&mut self) {
        self.hung = None;
        self.place.standing = Standing::Detached;
    }

    /// Looks for the program at its place; drops its link where it is to be attached again.
    fn verify(
        &mut self,
        interface: &str,
        device: &Device,
        loaded: &Loaded,
        lookout: Option<&Lookout>,
        now: Time,
    ) {
        let Some(hung) = &self.hung else { return };
        let (direction, hook) = (hung.direction.name(), hung.attachment.name());
        let question = Question {
            device: device.index,
            direction: hung.direction,
            attachment: hung.attachment,
            program: hung.program,
        };
        let before = match helper::find(lookout, question) {
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
