//! Attached programs and their links.

use std::{fs, io, path::Path};

use aya::programs::{
    ProgramError, ProgramInfo,
    links::{FdLink, PinnedLink},
    tc::SchedClassifierLink,
    xdp::XdpLink,
};
use tracing::{debug, warn};

use super::helper::HookQueryHelper;
use crate::{
    error::KernelError,
    host::{
        hook::{Attachment, Direction},
        interface::NetworkInterface,
    },
    persist::pins::Pins,
};

/// Attached program; detached on drop.
pub(super) struct AttachedProgram {
    /// Direction.
    pub(crate) direction: Direction,
    /// Kind of attachment.
    pub(crate) attachment: Attachment,
    /// Program id.
    pub(crate) program: u32,
    pub(crate) link: ProgramLink,
}

impl AttachedProgram {
    pub(crate) fn new(direction: Direction, attachment: Attachment, program: u32, link: ProgramLink) -> Self {
        Self { direction, attachment, program, link }
    }

    /// Keeps the program attached.
    pub(crate) fn keep_attached(self) {
        self.link.keep_attached();
    }

    /// Restores the pin at `path` if it is gone. Returns true if it was.
    pub(super) fn restore_pin(&mut self, path: &Path) -> io::Result<bool> {
        self.link.restore_pin(path)
    }
}

/// Place of a program.
#[derive(Clone, Copy)]
pub(super) struct AttachTarget<'a> {
    /// Name of the interface in the configuration.
    pub(crate) configured: &'a str,
    pub(crate) interface: &'a NetworkInterface,
    pub(crate) direction: Direction,
    /// Pins, if the link is pinned.
    pub(crate) pins: Option<&'a Pins>,
    /// Helper process that queries hooks, if there is one.
    pub(crate) helper: Option<&'a HookQueryHelper>,
}

pub(crate) fn program_id(info: Result<ProgramInfo, ProgramError>, name: &str) -> Result<u32, KernelError> {
    match info {
        Ok(info) => Ok(info.id()),
        Err(source) => Err(KernelError::Program { program: name.to_owned(), source: Box::new(source) }),
    }
}

/// Guard of an attached program; detaches it on drop.
pub(crate) enum ProgramLink {
    /// Native XDP.
    Xdp(XdpLink),
    /// TCX, or a filter of clsact.
    Tc(SchedClassifierLink),
    /// A pinned link of either kind.
    Pinned(PinnedGuard),
}

impl ProgramLink {
    /// Pins the link, if `target` asks for it and this kind can be pinned. A link without a pin ends with the
    /// process; the next agent finds a filter of clsact by its handle.
    pub(super) fn pin(self, AttachTarget { configured, direction, pins, .. }: AttachTarget<'_>) -> Self {
        let Some(pins) = pins else { return self };
        let path = pins.link(configured, direction);
        let descriptor = match self {
            Self::Xdp(link) => FdLink::try_from(link).map_err(|error| error.to_string()),
            // A filter of clsact has no link: the conversion would consume it, and its drop would remove the filter.
            Self::Tc(link) if <&FdLink>::try_from(&link).is_err() => return Self::Tc(link),
            Self::Tc(link) => FdLink::try_from(link).map_err(|error| error.to_string()),
            Self::Pinned(_) => return self,
        };
        // The path may hold the pin of another link.
        let _ = fs::remove_file(&path);
        match descriptor.and_then(|link| link.pin(&path).map_err(|error| error.to_string())) {
            Ok(link) => Self::Pinned(PinnedGuard(Some(link))),
            Err(error) => {
                warn!(path = %path.display(), %error, "a link cannot be pinned and is lost");
                Self::Pinned(PinnedGuard(None))
            }
        }
    }

    /// Restores the pin of the link at `path` if it is gone. Returns true if it was. A link that cannot be
    /// pinned is lost with an error, and its program is attached again.
    pub(super) fn restore_pin(&mut self, path: &Path) -> io::Result<bool> {
        let Self::Pinned(PinnedGuard(link)) = self else { return Ok(false) };
        if fs::symlink_metadata(path).is_ok() {
            return Ok(false);
        }
        let Some(pinned) = link.take() else { return Ok(false) };
        *link = Some(FdLink::from(pinned).pin(path).map_err(io::Error::other)?);
        Ok(true)
    }

    /// Keeps the program attached, as far as it can be without this process.
    pub(crate) fn keep_attached(self) {
        match self {
            Self::Xdp(link) => drop(link),
            // The drop of the value would remove the filter.
            Self::Tc(link) => std::mem::forget(link),
            Self::Pinned(mut pinned) => drop(pinned.0.take()),
        }
    }
}

/// Pinned link, removed with its pin.
pub(crate) struct PinnedGuard(pub(crate) Option<PinnedLink>);

impl Drop for PinnedGuard {
    fn drop(&mut self) {
        if let Some(link) = self.0.take()
            && let Err(error) = link.unpin()
        {
            debug!(%error, "the pin of a link was gone");
        }
    }
}
