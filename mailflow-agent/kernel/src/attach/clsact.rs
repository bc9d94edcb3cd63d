//! Filters of the clsact qdisc, the hook of kernels without TCX.

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType,
    tc::{self, NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcHandle},
};
use tracing::{info, warn};

use crate::{
    error::errno,
    host::{
        device::{self, Device},
        hook::Direction,
        netlink,
    },
    program::names,
};

/// Handle and priority of our filter: the first, and always the same, so that the filter of a crashed agent
/// is replaced instead of counting too.
const FILTER_PRIORITY: u16 = 1;
const FILTER_HANDLE: TcHandle = TcHandle::new(0, 0x6d66);

/// Removes our filters from clsact everywhere but at `watched`. A filter outlives its agent, and would keep
/// counting where this agent does not look.
pub(crate) fn remove_unwatched_filters(watched: &[(Option<u32>, Direction)]) {
    for interface in device::device_names() {
        let Some(device) = Device::find(&interface) else { continue };
        for direction in [Direction::Ingress, Direction::Egress] {
            if watched.contains(&(Some(device.index), direction)) {
                continue;
            }
            let is_own = |filter: &netlink::TcFilter| {
                (filter.priority, filter.handle) == (FILTER_PRIORITY, FILTER_HANDLE.into())
                    && filter.name.as_deref().and_then(names::role_of).is_some()
            };
            if netlink::filters(device.index, direction).is_ok_and(|filters| filters.iter().any(is_own)) {
                match SchedClassifierLink::attached(
                    &interface,
                    tc_attach_type(direction),
                    FILTER_PRIORITY,
                    FILTER_HANDLE,
                    None,
                ) {
                    Ok(link) => {
                        info!(%interface, direction = direction.name(), "is not watched any more; the filter of the agent before is taken away");
                        drop(link);
                    }
                    Err(error) => {
                        warn!(%interface, %error, "the filter of the agent before cannot be taken away")
                    }
                }
            }
        }
    }
}

pub(super) const fn tc_attach_type(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    }
}

/// Attaches a program as a filter of clsact. Adds the qdisc if it is missing.
pub(super) fn attach_to_clsact(
    program: &mut SchedClassifier,
    interface: &str,
    side: TcAttachType,
) -> Result<SchedClassifierLinkId, ProgramError> {
    if let Err(error) = tc::qdisc_add_clsact(interface) {
        let error = ProgramError::from(error);
        // EEXIST: another clsact is there already, which serves as well.
        if errno(&error) != Some(libc::EEXIST) {
            return Err(error);
        }
    }
    let options = NlOptions { priority: FILTER_PRIORITY, handle: FILTER_HANDLE, classid: None };
    match program.attach_with_options(interface, side, TcAttachOptions::Netlink(options)) {
        Err(error) if errno(&error) == Some(libc::EEXIST) => {
            let link = SchedClassifierLink::attached(interface, side, FILTER_PRIORITY, FILTER_HANDLE, None)
                .map_err(tc::TcError::IoError)?;
            program.attach_to_link(link)
        }
        other => other,
    }
}
