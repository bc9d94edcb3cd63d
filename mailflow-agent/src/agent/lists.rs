//! The lists of internal networks, read again when a file changes.

use std::time::Duration;

use tracing::{error, info, warn};

use crate::{
    clock,
    config::Lists,
    engine::{assets::Networks, time::Time},
    sink::metrics::{Agent, Load},
};

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// Looks at the files of networks from time to time.
pub(super) struct ListWatch {
    lists: Lists,
    /// What is in force.
    internal: Networks,
    next: Time,
}

impl ListWatch {
    /// For lists that were read as `internal`.
    pub(super) fn new(lists: Lists, internal: &Networks) -> Self {
        Self { lists, internal: internal.clone(), next: Time::ZERO }
    }

    /// The networks that come into force at `now`, if any. Files that are wrong leave those before in
    /// force; what is wrong with them is logged once.
    pub(super) fn look(&mut self, now: Time, agent: &Agent) -> Option<Networks> {
        if now < self.next {
            return None;
        }
        self.next = now + INTERVAL;
        if !self.lists.changed() {
            return None;
        }
        match self.lists.read_again() {
            Ok((networks, warnings)) => {
                warnings.iter().for_each(|warning| warn!("{warning}"));
                self.compare(&networks);
                agent.lists_loaded(Load::Good(clock::unix_seconds()));
                agent.listed_networks(networks.networks().len());
                self.internal = networks.clone();
                Some(networks)
            }
            Err(faults) => {
                faults.iter().for_each(|fault| error!("{fault}"));
                error!("the files of internal networks have changed and are refused; the list before stays");
                agent.lists_loaded(Load::Refused);
                None
            }
        }
    }

    fn compare(&self, networks: &Networks) {
        let groups = networks.groups();
        for gone in self.internal.groups().difference(&groups) {
            warn!(group = gone, "no internal network is of this group any more");
        }
        info!(
            networks = networks.networks().len(),
            before = self.internal.networks().len(),
            "internal networks read again"
        );
    }
}
