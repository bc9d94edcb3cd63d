//! Supervised interface: its device while one exists, and the programs at its hooks.

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

/// Longest wait between two moves to the front, if another program moves there too.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);
/// Time after the appearance of an interface within which a default route changes its automatic role: a link
/// comes up before its routes do.
const SETTLES: Duration = Duration::from_secs(600);

/// Supervised interface.
pub(super) struct Watch {
    /// Name in the configuration; for a pattern, name of the device.
    pub(crate) name: String,
    /// Pattern, if the entry is one.
    pub(crate) entry: Option<String>,
    /// As configured.
    role: Role,
    /// Role that was chosen, if the configuration leaves it open.
    chosen: Option<Role>,
    pub(crate) hook: Hook,
    /// Device, while it exists.
    pub(crate) device: Option<Device>,
    hooks: Vec<Held>,
    /// Reason of the last logged failure to attach.
    trouble: Option<String>,
    /// Time since which there is no device.
    pub(crate) missing: Option<Time>,
    /// Time of the first look at the device.
    arrived: Option<Time>,
}

/// Hook of the interface, and the program there.
struct Held {
    place: Place,
    hung: Option<Hung>,
    /// True if it was attached before.
    was_there: bool,
    /// Time before which it is not moved to the front again.
    patience: Time,
    /// Next wait.
    wait: Duration,
}

impl Watch {
    /// Supervises an entry whose device may not exist yet.
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

    /// Supervises a device to which a pattern is bound.
    pub(crate) fn of(device: Device, entry: &str, role: Role, hook: Hook) -> Self {
        let watch = Self::new(&device.name, Some(entry), role, hook, KernelVersion::TCX);
        Self { device: Some(device), ..watch }
    }

    /// Restores missing pins of links. Returns their names.
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

    /// Returns the role.
    pub(crate) fn role(&self) -> Role {
        self.chosen.unwrap_or(self.role)
    }

    /// Returns the hooks for the programs of the role, with none attached yet.
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

    /// Binds to the device with the configured name, unless it is one of `taken`.
    pub(crate) fn find(&mut self, taken: &[u32]) {
        let Some(device) = Device::find(&self.name) else { return };
        if taken.contains(&device.index) {
            self.say_once("another entry watches this interface under another of its names".to_owned());
            return;
        }
        self.device = Some(device);
    }

    /// Attaches for the first time. Waits for an interface that does not exist or disappears meanwhile.
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

    /// Records when the device disappeared or appeared.
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

    /// Keeps the programs attached.
    pub(super) fn leave_programs(mut self) {
        self.hooks.iter_mut().filter_map(|held| held.hung.take()).for_each(Hung::leave);
    }

    /// Chooses the role of a device that has none, and changes `lan` if a default route came after the link.
    /// `beside_lan`: another interface is in the `lan` role.
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

    /// Logs a failure, unless it is the one that was logged last.
    fn say_once(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            warn!(interface = %self.name, error = %trouble, "not attached; it is tried again at each poll");
        }
        self.trouble = Some(trouble);
    }

    /// Releases a device that is gone, or whose name another device has.
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

    /// Returns true if a program sees incoming packets.
    pub(super) fn listens(&self) -> bool {
        self.hooks.iter().any(|held| held.place.direction == Direction::Ingress && held.hung.is_some())
    }

    /// Queries the hook of each program.
    pub(crate) fn verify(&mut self, loaded: &Loaded, lookout: Option<&Lookout>, now: Time, beside_lan: bool) {
        self.choose_role(Some(now), loaded, beside_lan);
        let Some(device) = &self.device else { return };
        for held in &mut self.hooks {
            held.verify(&self.name, device, loaded, lookout, now);
        }
    }

    /// Attaches detached programs. Returns true if there were any. Logs a refusal once.
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

    /// Attaches detached programs, and returns the first refusal.
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

    /// Queries the hook of a program, and drops its link if it has to be attached again.
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

/// Returns programs as an operator finds them: `cil_from_netdev (id 42)`.
fn shown(programs: &[Seen]) -> String {
    let one = |program: &Seen| match program.id {
        Some(id) => format!("{} (id {id})", program.name.as_deref().unwrap_or("?")),
        None => "a filter".to_owned(),
    };
    programs.iter().map(one).collect::<Vec<_>>().join(", ")
}
