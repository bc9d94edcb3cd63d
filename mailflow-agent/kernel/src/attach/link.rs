//! Attached programs and their links.

use std::{fs, io, path::Path};

use aya::programs::{
    ProgramError, ProgramInfo,
    links::{FdLink, PinnedLink},
    tc::SchedClassifierLink,
    xdp::XdpLink,
};
use tracing::{debug, warn};

use super::helper::Lookout;
use crate::{
    error::KernelError,
    host::{
        hook::{Attachment, Direction},
        interface::Interface,
    },
    persist::pins::Pins,
};

/// Attached program; detached on drop.
pub(super) struct Hung {
    /// Direction.
    pub(crate) direction: Direction,
    /// Kind of attachment.
    pub(crate) attachment: Attachment,
    /// Program id.
    pub(crate) program: u32,
    pub(crate) link: Link,
}

impl Hung {
    pub(crate) fn new(direction: Direction, attachment: Attachment, program: u32, link: Link) -> Self {
        Self { direction, attachment, program, link }
    }

    /// Keeps the program attached.
    pub(crate) fn leave(self) {
        self.link.leave();
    }

    /// Restores the pin at `path` if it is gone. Returns true if it was.
    pub(super) fn mend_pin(&mut self, path: &Path) -> io::Result<bool> {
        self.link.mend_pin(path)
    }
}

/// Place of a program.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    /// Name of the interface in the configuration.
    pub(crate) configured: &'a str,
    pub(crate) interface: &'a Interface,
    pub(crate) direction: Direction,
    /// Pins, if the link is pinned.
    pub(crate) pins: Option<&'a Pins>,
    /// Helper process that queries hooks, if there is one.
    pub(crate) lookout: Option<&'a Lookout>,
}

pub(crate) fn id(info: Result<ProgramInfo, ProgramError>, name: &str) -> Result<u32, KernelError> {
    match info {
        Ok(info) => Ok(info.id()),
        Err(source) => Err(KernelError::Program { program: name.to_owned(), source: Box::new(source) }),
    }
}

/// Guard of an attached program; detaches it on drop.
pub(crate) enum Link {
    /// Native XDP.
    Xdp(XdpLink),
    /// TCX, or a filter of clsact.
    Tc(SchedClassifierLink),
    /// A pinned link of either kind.
    Pinned(Pinned),
}

impl Link {
    /// Pins the link, if `spot` asks for it and this kind can be pinned. A link without a pin ends with the
    /// process; the next agent finds a filter of clsact by its handle.
    pub(super) fn pinned(self, Spot { configured, direction, pins, .. }: Spot<'_>) -> Self {
        let Some(pins) = pins else { return self };
        let path = pins.link(configured, direction);
        let descriptor = match self {
            Self::Xdp(link) => FdLink::try_from(link).map_err(|error| error.to_string()),
            // A filter has no link; asked for one, aya would take it away.
            Self::Tc(link) if <&FdLink>::try_from(&link).is_err() => return Self::Tc(link),
            Self::Tc(link) => FdLink::try_from(link).map_err(|error| error.to_string()),
            Self::Pinned(_) => return self,
        };
        // Nothing of another link may be in its place.
        let _ = fs::remove_file(&path);
        match descriptor.and_then(|link| link.pin(&path).map_err(|error| error.to_string())) {
            Ok(link) => Self::Pinned(Pinned(Some(link))),
            Err(error) => {
                warn!(path = %path.display(), %error, "a link cannot be pinned and is lost");
                Self::Pinned(Pinned(None))
            }
        }
    }

    /// Restores the pin of the link at `path` if it is gone. Returns true if it was. A link that cannot be
    /// pinned is lost with an error, and its program is attached again.
    pub(super) fn mend_pin(&mut self, path: &Path) -> io::Result<bool> {
        let Self::Pinned(Pinned(link)) = self else { return Ok(false) };
        if fs::symlink_metadata(path).is_ok() {
            return Ok(false);
        }
        let Some(held) = link.take() else { return Ok(false) };
        *link = Some(FdLink::from(held).pin(path).map_err(io::Error::other)?);
        Ok(true)
    }

    /// Keeps the program attached, as far as it can be without this process.
    pub(crate) fn leave(self) {
        match self {
            Self::Xdp(link) => drop(link),
            // Dropped, a filter would be taken away.
            Self::Tc(link) => std::mem::forget(link),
            Self::Pinned(mut pinned) => drop(pinned.0.take()),
        }
    }
}

/// Pinned link, removed with its pin.
pub(crate) struct Pinned(pub(crate) Option<PinnedLink>);

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(link) = self.0.take()
            && let Err(error) = link.unpin()
        {
            debug!(%error, "the pin of a link was gone");
        }
    }
}
