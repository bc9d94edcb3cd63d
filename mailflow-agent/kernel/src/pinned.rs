//! Links that outlive the agent: pinned when they are made, taken over by the next agent.

use std::{fs, io, path::Path};

use aya::programs::{
    links::{FdLink, PinnedLink},
    tc::SchedClassifierLink,
    xdp::XdpLink,
};
use tracing::{debug, warn};

use super::{
    attach::{self, Hung, Spot},
    hook::Attachment,
    load::Loaded,
    lookout::Lookout,
    query::{self, Found, Question},
};

/// Keeps a program at its place; dropped, it takes it away.
pub(super) enum Link {
    /// Native XDP.
    Xdp(XdpLink),
    /// TCX, or a filter of clsact.
    Tc(SchedClassifierLink),
    /// Either, pinned.
    Pinned(Pinned),
}

impl Link {
    /// The same, pinned where `spot` says so and this kind can be. Without a pin it ends with the process,
    /// but for a filter of clsact, which the next agent finds by its place.
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

    /// Pins the link again if its pin at `path` is gone; whether it was. A link that cannot be pinned is lost with an
    /// error, and its program is attached again.
    pub(super) fn mend_pin(&mut self, path: &Path) -> io::Result<bool> {
        let Self::Pinned(Pinned(link)) = self else { return Ok(false) };
        if fs::symlink_metadata(path).is_ok() {
            return Ok(false);
        }
        let Some(held) = link.take() else { return Ok(false) };
        *link = Some(FdLink::from(held).pin(path).map_err(io::Error::other)?);
        Ok(true)
    }

    /// Leaves the program where it is, as far as it can stay there without this process.
    pub(super) fn leave(self) {
        match self {
            Self::Xdp(link) => drop(link),
            // Dropped, a filter would be taken away.
            Self::Tc(link) => std::mem::forget(link),
            Self::Pinned(mut pinned) => drop(pinned.0.take()),
        }
    }
}

/// A pinned link; its pin goes with it.
pub(super) struct Pinned(Option<PinnedLink>);

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(link) = self.0.take()
            && let Err(error) = link.unpin()
        {
            debug!(%error, "the pin of a link was gone");
        }
    }
}

/// Lets this agent's program run where the link of an agent before has its own; no packet is missed, and none
/// counted twice. `None` where there is no such link, or it cannot be used: then it is gone.
pub(super) fn take_over(
    loaded: &mut Loaded,
    spot: Spot<'_>,
    chain: &[Attachment],
    xdp: &str,
    classifier: &str,
) -> Option<(String, Hung)> {
    let pins = spot.pins?;
    let path = pins.link(spot.configured, spot.direction);
    let others = pins.other_links(spot.configured, spot.direction);
    let mut taken = None;
    for from in std::iter::once(&path).chain(&others).filter(|from| from.exists()) {
        if taken.is_none() {
            taken = replace(loaded, spot, chain, xdp, classifier, from);
        }
        if taken.is_none() || *from != path {
            let _ = fs::remove_file(from);
        }
    }
    let (name, attachment, program, link) = taken?;
    let link = if path.exists() {
        Link::Pinned(Pinned(PinnedLink::from_pin(&path).ok()))
    } else {
        link.pinned(spot)
    };
    Some((name, Hung::new(spot.direction, attachment, program, link)))
}

/// Replaces the program of the link pinned at `from`.
fn replace(
    loaded: &mut Loaded,
    spot: Spot<'_>,
    chain: &[Attachment],
    xdp: &str,
    classifier: &str,
    from: &Path,
) -> Option<(String, Attachment, u32, Link)> {
    let refused = |what: &str, error: &dyn std::fmt::Display| {
        debug!(link = %from.display(), %error, "{what}");
    };
    for attachment in chain {
        let name = if *attachment == Attachment::XdpFrags { format!("{xdp}_frags") } else { xdp.to_owned() };
        let link = PinnedLink::from_pin(from).inspect_err(|error| refused("not a link", error)).ok()?;
        let Ok(link) = XdpLink::try_from(FdLink::from(link)) else { continue };
        let program = loaded.xdp(&name)?;
        match program.attach_to_link(link).and_then(|id| program.take_link(id)) {
            Ok(link) => {
                let id = attach::id(program.info(), &name).ok()?;
                return there(loaded.lookout.as_ref(), spot, *attachment, id).then_some((
                    name,
                    *attachment,
                    id,
                    Link::Xdp(link),
                ));
            }
            Err(error) => refused("the link does not take the program", &error),
        }
    }
    // Where XDP is wanted and was refused before, TC serves; an XDP link does not, where TC is wanted.
    let link = PinnedLink::from_pin(from).ok()?;
    let link = SchedClassifierLink::try_from(FdLink::from(link)).ok()?;
    let program = loaded.classifier(classifier)?;
    match program.attach_to_link(link).and_then(|id| program.take_link(id)) {
        Ok(link) => {
            let id = attach::id(program.info(), classifier).ok()?;
            there(loaded.lookout.as_ref(), spot, Attachment::Tcx, id).then_some((
                classifier.to_owned(),
                Attachment::Tcx,
                id,
                Link::Tc(link),
            ))
        }
        Err(error) => {
            refused("the link does not take the program", &error);
            None
        }
    }
}

/// Whether the program is at the interface now: the link may be of one that is gone.
fn there(lookout: Option<&Lookout>, spot: Spot<'_>, attachment: Attachment, program: u32) -> bool {
    let question =
        Question { device: spot.interface.index(), direction: spot.direction, attachment, program };
    matches!(query::find(lookout, question), Ok(Found::There { .. }))
}
