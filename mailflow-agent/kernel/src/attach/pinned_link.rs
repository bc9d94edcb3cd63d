//! Pinned links: they outlive the agent, and the next agent takes them over.

use std::{fs, path::Path};

use aya::programs::{
    links::{FdLink, PinnedLink},
    tc::SchedClassifierLink,
    xdp::XdpLink,
};
use tracing::debug;

use super::{
    helper,
    link::{self, Hung, Link, Pinned, Spot},
    query::{Found, Question},
};
use crate::{host::hook::Attachment, program::load::Loaded};

/// Replaces the program of the link of an earlier agent. No packet is missed or counted twice. `None` if
/// there is no such link, or if it cannot be used and was removed.
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
                let id = link::id(program.info(), &name).ok()?;
                return there(spot, *attachment, id).then_some((name, *attachment, id, Link::Xdp(link)));
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
            let id = link::id(program.info(), classifier).ok()?;
            there(spot, Attachment::Tcx, id).then_some((
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

/// Returns true if the program is at the interface now: the link may belong to an interface that is gone.
fn there(spot: Spot<'_>, attachment: Attachment, program: u32) -> bool {
    let question =
        Question { device: spot.interface.index(), direction: spot.direction, attachment, program };
    matches!(helper::find(spot.lookout, question), Ok(Found::There { .. }))
}
