//! Pinned links: they outlive the agent, and the next agent takes them over.

use std::{fs, path::Path};

use aya::programs::{
    links::{FdLink, PinnedLink},
    tc::SchedClassifierLink,
    xdp::XdpLink,
};
use tracing::debug;

use super::{
    attached_program::{self, AttachTarget, AttachedProgram, PinnedGuard, ProgramLink},
    helper,
    query::{HookQuery, HookState},
};
use crate::{host::hook::Attachment, program::load::Loaded};

/// Replaces the program of the link of an earlier agent. No packet is missed or counted twice. `None` if
/// there is no such link, or if it cannot be used and was removed.
pub(super) fn take_over(
    loaded: &mut Loaded,
    target: AttachTarget<'_>,
    modes: &[Attachment],
    xdp: &str,
    classifier: &str,
) -> Option<(String, AttachedProgram)> {
    let pins = target.pins?;
    let path = pins.link(target.configured, target.direction);
    let other_paths = pins.other_links(target.configured, target.direction);
    let mut replaced = None;
    for from in std::iter::once(&path).chain(&other_paths).filter(|from| from.exists()) {
        if replaced.is_none() {
            replaced = replace_program(loaded, target, modes, xdp, classifier, from);
        }
        if replaced.is_none() || *from != path {
            let _ = fs::remove_file(from);
        }
    }
    let (name, attachment, program, link) = replaced?;
    let link = if path.exists() {
        ProgramLink::Pinned(PinnedGuard(PinnedLink::from_pin(&path).ok()))
    } else {
        link.pin(target)
    };
    Some((name, AttachedProgram::new(target.direction, attachment, program, link)))
}

/// Replaces the program of the link pinned at `from`.
fn replace_program(
    loaded: &mut Loaded,
    target: AttachTarget<'_>,
    modes: &[Attachment],
    xdp: &str,
    classifier: &str,
    from: &Path,
) -> Option<(String, Attachment, u32, ProgramLink)> {
    let log_refusal = |what: &str, error: &dyn std::fmt::Display| {
        debug!(link = %from.display(), %error, "{what}");
    };
    for attachment in modes {
        let name = if *attachment == Attachment::XdpFrags { format!("{xdp}_frags") } else { xdp.to_owned() };
        let link = PinnedLink::from_pin(from).inspect_err(|error| log_refusal("not a link", error)).ok()?;
        let Ok(link) = XdpLink::try_from(FdLink::from(link)) else { continue };
        let program = loaded.xdp(&name)?;
        match program.attach_to_link(link).and_then(|id| program.take_link(id)) {
            Ok(link) => {
                let id = attached_program::program_id(program.info(), &name).ok()?;
                return is_attached(target, *attachment, id).then_some((
                    name,
                    *attachment,
                    id,
                    ProgramLink::Xdp(link),
                ));
            }
            Err(error) => log_refusal("the link does not take the program", &error),
        }
    }
    // A TC link serves also if the configuration prefers XDP; an XDP link does not serve for TC.
    let link = PinnedLink::from_pin(from).ok()?;
    let link = SchedClassifierLink::try_from(FdLink::from(link)).ok()?;
    let program = loaded.classifier(classifier)?;
    match program.attach_to_link(link).and_then(|id| program.take_link(id)) {
        Ok(link) => {
            let id = attached_program::program_id(program.info(), classifier).ok()?;
            is_attached(target, Attachment::Tcx, id).then_some((
                classifier.to_owned(),
                Attachment::Tcx,
                id,
                ProgramLink::Tc(link),
            ))
        }
        Err(error) => {
            log_refusal("the link does not take the program", &error);
            None
        }
    }
}

/// Returns true if the program is at the interface now: the link may belong to an interface that is gone.
fn is_attached(target: AttachTarget<'_>, attachment: Attachment, program: u32) -> bool {
    let question =
        HookQuery { device: target.interface.index(), direction: target.direction, attachment, program };
    matches!(helper::query_hook(target.helper, question), Ok(HookState::Attached { .. }))
}
