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
    program::names::is_ours,
};

/// Handle and priority of our filter: the first, and always the same, so that the filter of a crashed agent
/// is replaced instead of counting too.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x6d66);

/// Removes our filters from clsact everywhere but at `watched`. A filter outlives its agent, and would keep
/// counting where this agent does not look.
pub(crate) fn leave_clsact(watched: &[(Option<u32>, Direction)]) {
    for interface in device::present() {
        let Some(device) = Device::find(&interface) else { continue };
        for direction in [Direction::Ingress, Direction::Egress] {
            if watched.contains(&(Some(device.index), direction)) {
                continue;
            }
            let ours = |filter: &netlink::Filter| {
                (filter.priority, filter.handle) == (PRIORITY, HANDLE.into())
                    && filter.name.as_deref().is_some_and(is_ours)
            };
            if netlink::filters(device.index, direction).is_ok_and(|filters| filters.iter().any(ours)) {
                match SchedClassifierLink::attached(&interface, side(direction), PRIORITY, HANDLE, None) {
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

pub(super) const fn side(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    }
}

/// Attaches a program as a filter of clsact. Adds the qdisc if it is missing.
pub(super) fn clsact(
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
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    match program.attach_with_options(interface, side, TcAttachOptions::Netlink(options)) {
        Err(error) if errno(&error) == Some(libc::EEXIST) => {
            let link = SchedClassifierLink::attached(interface, side, PRIORITY, HANDLE, None)
                .map_err(tc::TcError::IoError)?;
            program.attach_to_link(link)
        }
        other => other,
    }
}
