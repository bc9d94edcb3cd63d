//! Monitor of networks behind inside interfaces that are in no internal network: no rule with `source:
//! internal` counts their flows.

use std::{collections::HashSet, time::Duration};

use tracing::{debug, warn};

use super::shared_status::SharedStatus;
use crate::config::Role;
use mailflow_engine::{network::Networks, time::Time};
use mailflow_kernel::{Addresses, InsidePrefix, Kernel};

/// Interval of reading the addresses, if no event reports a change.
const ADDRESS_READ_INTERVAL: Duration = Duration::from_secs(60);
/// Largest number of logged prefixes. Others are only in the metrics and in `status`.
const MAX_LOGGED: usize = 100;

/// Monitor of the addresses behind the inside interfaces.
#[derive(Default)]
pub(crate) struct InsideNetworkMonitor {
    internal: Networks,
    addresses: Addresses,
    next: Time,
    logged: HashSet<String>,
}

impl InsideNetworkMonitor {
    /// Reads the addresses if they are due or `changed` is true, and publishes and logs what it finds.
    pub(crate) fn check(
        &mut self,
        kernel: &Kernel,
        internal: &Networks,
        status: &SharedStatus,
        (now, changed): (Time, bool),
    ) {
        let is_unchanged = self.internal.is_same_list(internal);
        if is_unchanged && !changed && now < self.next {
            return;
        }
        self.next = now + ADDRESS_READ_INTERVAL;
        let addresses = match kernel.addresses(Some(&self.addresses).filter(|_| !changed)) {
            Ok(addresses) => addresses,
            Err(error) => {
                debug!(%error, "failed to list the addresses of the machine");
                return;
            }
        };
        let roles: Vec<Role> = kernel
            .entry_bindings()
            .iter()
            .flat_map(|bound| &bound.interfaces)
            .map(|bound| bound.role)
            .collect();
        let mut snapshot = status.snapshot();
        // A mirror shows flows of clients that are not behind this machine.
        snapshot.unlisted_clients.is_counting = roles.contains(&Role::Lan) && !roles.contains(&Role::Mirror);
        if is_unchanged && addresses == self.addresses {
            return;
        }
        self.internal = internal.clone();
        snapshot.unlisted_clients.set_networks(internal, addresses.own_addresses.clone());
        snapshot.unlisted =
            addresses.inside.iter().filter(|found| internal.is_unlisted(&found.prefix)).cloned().collect();
        snapshot.default_route_interfaces.clone_from(&addresses.outward_interfaces);
        let unlisted = snapshot.unlisted.clone();
        drop(snapshot);
        self.addresses = addresses;
        for InsidePrefix { interface, prefix, local } in &unlisted {
            if self.logged.len() < MAX_LOGGED && self.logged.insert(format!("{interface} {prefix}")) {
                warn!(
                    %interface, %prefix, address = %local,
                    "the network behind this interface is in no internal network: no rule with `source: internal` \
                     counts its clients; add it to internal_networks"
                );
            }
        }
        for interface in &self.addresses.outward_interfaces {
            if self.logged.insert(interface.clone()) {
                warn!(
                    %interface,
                    "the interface is watched as the inside (role lan), but a default route leaves by it: behind source \
                     NAT the internal hosts cannot be distinguished there"
                );
            }
        }
    }
}
