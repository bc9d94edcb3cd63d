//! Supervised interface: its device while one exists, and the programs at its hooks.

use std::{io, time::Duration};

use tracing::{debug, info, warn};

use super::{
    attach,
    attached_program::{AttachTarget, AttachedProgram},
    helper::{self, HookQueryHelper},
    query::{HookProgram, HookQuery, HookState},
    status::{AttachState, AttachmentStatus, VERIFY_INTERVAL},
};
use crate::{
    error::KernelError,
    host::{
        device::{self, Device},
        hook::{Attachment, Direction},
        interface::{self, NetworkInterface},
        kernel_version::KernelVersion,
    },
    options::{Hook, Role},
    persist::pins::Pins,
    program::{load::Loaded, names},
};
use mailflow_engine::time::Time;

/// Longest wait between two moves to the front, if another program moves there too.
const MAX_MOVE_WAIT: Duration = Duration::from_secs(3_600);
/// Time after the appearance of an interface within which a default route changes its automatic role: a link
/// comes up before its routes do.
const ROUTE_SETTLE_TIME: Duration = Duration::from_secs(600);

/// Supervised interface.
pub(super) struct SupervisedInterface {
    /// Name in the configuration; for a pattern, name of the device.
    pub(crate) name: String,
    /// Pattern, if the entry is one.
    pub(crate) entry: Option<String>,
    /// As configured.
    role: Role,
    /// Role that was chosen, if the configuration leaves it open.
    chosen_role: Option<Role>,
    pub(crate) hook: Hook,
    /// Device, while it exists.
    pub(crate) device: Option<Device>,
    hooks: Vec<HookSlot>,
    /// Reason of the last logged failure to attach.
    last_failure: Option<String>,
    /// Time since which there is no device.
    pub(crate) missing_since: Option<Time>,
    /// Time of the first look at the device.
    present_since: Option<Time>,
}

/// Hook of the interface, and the program there.
struct HookSlot {
    status: AttachmentStatus,
    program: Option<AttachedProgram>,
    /// True if it was attached before.
    attached_before: bool,
    /// Time before which the program is not moved to the front again.
    next_move: Time,
    /// Next wait.
    move_wait: Duration,
}

impl SupervisedInterface {
    /// Supervises an entry whose device may not exist yet.
    pub(crate) fn new(
        name: &str,
        entry: Option<&str>,
        role: Role,
        hook: Hook,
        version: KernelVersion,
    ) -> Self {
        let mut interface = Self {
            name: name.to_owned(),
            entry: entry.map(str::to_owned),
            role,
            chosen_role: None,
            hook,
            device: None,
            hooks: Vec::new(),
            last_failure: None,
            missing_since: None,
            present_since: None,
        };
        interface.create_hook_slots(version);
        interface
    }

    /// Supervises a device to which a pattern is bound.
    pub(crate) fn for_device(device: Device, entry: &str, role: Role, hook: Hook) -> Self {
        let interface = Self::new(&device.name, Some(entry), role, hook, KernelVersion::TCX);
        Self { device: Some(device), ..interface }
    }

    /// Restores missing pins of links. Returns their names.
    pub(crate) fn restore_pins(&mut self, pins: &Pins) -> io::Result<Vec<String>> {
        let mut restored = Vec::new();
        for slot in &mut self.hooks {
            let Some(attached) = &mut slot.program else { continue };
            let path = pins.link(&self.name, slot.status.direction);
            if attached.restore_pin(&path)? {
                restored.push(path.display().to_string());
            }
        }
        Ok(restored)
    }

    /// Returns the role.
    pub(crate) fn role(&self) -> Role {
        self.chosen_role.unwrap_or(self.role)
    }

    /// Returns the hooks for the programs of the role, with none attached yet.
    fn create_hook_slots(&mut self, version: KernelVersion) {
        let attachment = if version >= KernelVersion::TCX { Attachment::Tcx } else { Attachment::Clsact };
        let slot = |direction: &Direction| HookSlot {
            status: AttachmentStatus {
                interface: self.name.clone(),
                direction: *direction,
                attachment,
                state: AttachState::Detached,
                reattach_count: 0,
            },
            program: None,
            attached_before: false,
            next_move: Time::ZERO,
            move_wait: VERIFY_INTERVAL,
        };
        self.hooks = names::directions(self.role()).iter().map(slot).collect();
    }

    /// Binds to the device with the configured name, unless it is one of `bound`.
    pub(crate) fn bind_device(&mut self, bound: &[u32]) {
        let Some(device) = Device::find(&self.name) else { return };
        if bound.contains(&device.index) {
            self.log_failure_once(
                "another entry watches this interface under another of its names".to_owned(),
            );
            return;
        }
        self.device = Some(device);
    }

    /// Attaches for the first time. Waits for an interface that does not exist or disappears meanwhile.
    pub(crate) fn attach_first(
        &mut self,
        loaded: &mut Loaded,
        pins: Option<&Pins>,
        helper: Option<&HookQueryHelper>,
        other_lan: bool,
    ) -> Result<(), KernelError> {
        match self.try_reattach(loaded, pins, helper, other_lan) {
            Err(error) => {
                let exists =
                    self.device.as_ref().is_some_and(|device| Device::name_of(device.index).is_some());
                if exists {
                    return Err(error);
                }
                self.device = None;
                self.hooks.iter_mut().for_each(HookSlot::detach);
            }
            Ok(_) if self.device.is_some() => return Ok(()),
            Ok(_) => {}
        }
        let present = device::device_names().join(", ");
        warn!(interface = %self.name, %present, "there is no such interface; it is watched once it appears");
        Ok(())
    }

    /// Records when the device disappeared or appeared.
    pub(super) fn record_presence(&mut self, now: Time) {
        if self.device.is_some() {
            self.missing_since = None;
            self.present_since.get_or_insert(now);
        } else {
            self.missing_since.get_or_insert(now);
            self.present_since = None;
        }
    }

    pub(crate) fn attachments(&self) -> impl Iterator<Item = &AttachmentStatus> {
        self.hooks.iter().map(|slot| &slot.status)
    }

    /// Keeps the programs attached.
    pub(super) fn keep_attached(mut self) {
        self.hooks.iter_mut().filter_map(|slot| slot.program.take()).for_each(AttachedProgram::keep_attached);
    }

    /// Chooses the role of a device that has none, and changes `lan` if a default route came after the link.
    /// `other_lan`: another interface is in the `lan` role.
    fn choose_role(&mut self, now: Option<Time>, loaded: &Loaded, other_lan: bool) {
        let Some(device) = self.device.clone().filter(|_| self.role == Role::Auto) else { return };
        let interface = NetworkInterface::of(device);
        let before = self.chosen_role;
        let settles = now
            .zip(self.present_since)
            .is_some_and(|(now, present_since)| now.since(present_since) < ROUTE_SETTLE_TIME);
        let (role, reason) = match before {
            None => interface.automatic_role(),
            Some(Role::Lan) if settles && interface::has_default_route(interface.index()) => {
                interface.automatic_role()
            }
            Some(_) => return,
        };
        if before == Some(role) {
            return;
        }
        info!(interface = %self.name, role = role.name(), %reason, "role chosen");
        self.chosen_role = Some(role);
        if before.is_some() || names::directions(role).len() != self.hooks.len() {
            // Their links go first: two roles would count a packet twice.
            self.hooks.clear();
            self.create_hook_slots(loaded.version);
        }
        if role == Role::Host && other_lan && !loaded.local_only {
            self.hooks.clear();
            warn!(
                interface = %self.name,
                "the interface is the outside, and what the inside counts would be counted there again: no program is \
                 attached; restart the agent to count the machine's own mail there"
            );
        }
    }

    /// Logs a failure, unless it is the one that was logged last.
    fn log_failure_once(&mut self, last_failure: String) {
        if self.last_failure.as_ref() != Some(&last_failure) {
            warn!(interface = %self.name, error = %last_failure, "not attached; it is tried again at each poll");
        }
        self.last_failure = Some(last_failure);
    }

    /// Releases a device that is gone, or whose name another device has.
    pub(crate) fn release_device(&mut self) {
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
            self.hooks.iter_mut().for_each(HookSlot::detach);
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
        self.present_since = None;
        self.hooks.iter_mut().for_each(HookSlot::detach);
    }

    /// Returns true if a program sees incoming packets.
    pub(super) fn counts_ingress(&self) -> bool {
        self.hooks.iter().any(|slot| slot.status.direction == Direction::Ingress && slot.program.is_some())
    }

    /// Queries the hook of each program.
    pub(crate) fn verify(
        &mut self,
        loaded: &Loaded,
        helper: Option<&HookQueryHelper>,
        now: Time,
        other_lan: bool,
    ) {
        self.choose_role(Some(now), loaded, other_lan);
        let Some(device) = &self.device else { return };
        for slot in &mut self.hooks {
            slot.verify(&self.name, device, helper, now);
        }
    }

    /// Attaches detached programs. Returns true if there were any. Logs a refusal once.
    pub(super) fn reattach(
        &mut self,
        loaded: &mut Loaded,
        pins: Option<&Pins>,
        helper: Option<&HookQueryHelper>,
        other_lan: bool,
    ) -> bool {
        match self.try_reattach(loaded, pins, helper, other_lan) {
            Ok(done) => {
                if done {
                    self.last_failure = None;
                }
                done
            }
            Err(error) => {
                self.log_failure_once(error.to_string());
                true
            }
        }
    }

    /// Attaches detached programs, and returns the first refusal.
    fn try_reattach(
        &mut self,
        loaded: &mut Loaded,
        pins: Option<&Pins>,
        helper: Option<&HookQueryHelper>,
        other_lan: bool,
    ) -> Result<bool, KernelError> {
        if self.hooks.iter().all(|slot| slot.program.is_some()) {
            return Ok(false);
        }
        self.choose_role(None, loaded, other_lan);
        let Some(device) = &self.device else { return Ok(false) };
        let interface = NetworkInterface::of(device.clone());
        let role = self.role();
        for slot in self.hooks.iter_mut().filter(|slot| slot.program.is_none()) {
            let direction = slot.status.direction;
            let status =
                AttachTarget { configured: &self.name, interface: &interface, direction, pins, helper };
            slot.set_program(attach::attach(loaded, status, role, self.hook)?);
        }
        Ok(true)
    }
}

impl HookSlot {
    fn set_program(&mut self, attached: AttachedProgram) {
        self.status.attachment = attached.attachment;
        self.status.state = AttachState::Attached { position: None };
        self.status.reattach_count += u64::from(self.attached_before);
        self.attached_before = true;
        self.program = Some(attached);
    }

    fn detach(&mut self) {
        self.program = None;
        self.status.state = AttachState::Detached;
    }

    /// Queries the hook of a program, and drops its link if it has to be attached again.
    fn verify(&mut self, interface: &str, device: &Device, helper: Option<&HookQueryHelper>, now: Time) {
        let Some(attached) = &self.program else { return };
        let (direction, hook) = (attached.direction.name(), attached.attachment.name());
        let question = HookQuery {
            device: device.index,
            direction: attached.direction,
            attachment: attached.attachment,
            program: attached.program,
        };
        let before = match helper::query_hook(helper, question) {
            Ok(HookState::Attached { before }) => before,
            Ok(HookState::Detached { other }) => {
                let other = other.map(|other| format_programs(&[other]));
                warn!(
                    interface,
                    direction,
                    hook,
                    instead = other,
                    "the program was taken away; attaching it again"
                );
                return self.detach();
            }
            Err(error) => {
                debug!(interface, direction, hook, %error, "whether the program is in its place cannot be told");
                self.status.state = AttachState::Attached { position: None };
                return;
            }
        };
        let position = before.len() as u32 + 1;
        let previous = self.status.state;
        self.status.state = AttachState::Attached { position: Some(position) };
        if before.is_empty() {
            if now >= self.next_move {
                self.move_wait = VERIFY_INTERVAL;
            }
            return;
        }
        // Another agent's programs take nothing away from this one's.
        let is_own = |other: &HookProgram| other.name.as_deref().and_then(names::role_of).is_some();
        let foreign = !before.iter().all(is_own);
        if previous != self.status.state {
            let before = format_programs(&before);
            if foreign {
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
        if foreign && now >= self.next_move {
            self.next_move = now + self.move_wait;
            self.move_wait = (self.move_wait * 2).min(MAX_MOVE_WAIT);
            info!(interface, direction, hook, "moving the program to the front");
            self.detach();
        }
    }
}

/// Returns programs as an operator finds them: `cil_from_netdev (id 42)`.
fn format_programs(programs: &[HookProgram]) -> String {
    let one = |program: &HookProgram| match program.id {
        Some(id) => format!("{} (id {id})", program.name.as_deref().unwrap_or("?")),
        None => "a filter".to_owned(),
    };
    programs.iter().map(one).collect::<Vec<_>>().join(", ")
}
