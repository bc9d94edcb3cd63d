//! Clients that are inside and in no internal network: no rule with `source: internal` counts their flows.

use std::{collections::HashSet, time::Duration};

use tracing::{debug, warn};

use super::shared_status::View;
use crate::config::Role;
use mailflow_engine::{assets::Networks, time::Time};
use mailflow_kernel::{Addresses, InsidePrefix, Kernel};

/// Interval between two reads of the addresses, where no event reports a change.
const EVERY: Duration = Duration::from_secs(60);
/// Prefixes that are logged; later ones are in the metrics and in `status` only.
const MAX_LOGGED: usize = 100;

/// Looks from time to time at which addresses are behind the inside interfaces.
#[derive(Default)]
pub(crate) struct InsideWatch {
    internal: Networks,
    addresses: Addresses,
    next: Time,
    logged: HashSet<String>,
}

impl InsideWatch {
    /// Looks if it is time, or at once where `changed` says so, and shows what it found.
    pub(crate) fn look(
        &mut self,
        kernel: &Kernel,
        internal: &Networks,
        view: &View,
        (now, changed): (Time, bool),
    ) {
        let same = self.internal.is(internal);
        if same && !changed && now < self.next {
            return;
        }
        self.next = now + EVERY;
        let addresses = match kernel.addresses(Some(&self.addresses).filter(|_| !changed)) {
            Ok(addresses) => addresses,
            Err(error) => {
                debug!(%error, "the machine's addresses cannot be listed");
                return;
            }
        };
        let roles: Vec<Role> = kernel
            .entry_bindings()
            .iter()
            .flat_map(|bound| &bound.interfaces)
            .map(|bound| bound.role)
            .collect();
        let mut numbers = view.numbers();
        // Copies of strangers' flows are no clients of ours.
        numbers.clients.counts = roles.contains(&Role::Lan) && !roles.contains(&Role::Mirror);
        if same && addresses == self.addresses {
            return;
        }
        self.internal = internal.clone();
        numbers.clients.become_these(internal, addresses.own_addresses.clone());
        numbers.unlisted =
            addresses.inside.iter().filter(|found| internal.misses(&found.prefix)).cloned().collect();
        numbers.outward.clone_from(&addresses.outward_interfaces);
        let unlisted = numbers.unlisted.clone();
        drop(numbers);
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
