//! `watched_ports`: which service is watched on which ports.

use std::collections::btree_map::Entry;

use super::{
    diagnostics::Collector,
    yaml::{
        get::{At, Fields},
        values::{items, number},
    },
};
use mailflow_engine::settings::{Service, Services};

/// A port number; 0 is none.
pub(crate) fn port(at: &At<'_>, faults: &mut Collector) -> Option<u16> {
    number(at, faults, 1..=u16::MAX)
}

/// The watched ports, as far as they could be read.
pub(crate) struct Watched {
    /// The ports that are not at fault.
    services: Services,
    /// What is known of the others.
    others: Others,
}

/// What is known of ports that are at fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    /// There are none.
    None,
    /// They are numbers that no rule could name.
    Numbers,
    /// They may be any.
    Unknown,
}

impl Watched {
    /// All of them, without a fault.
    pub(crate) fn services(self) -> Option<Services> {
        (self.others == Others::None).then_some(self.services)
    }

    /// The ports of a service, in ascending order.
    pub(crate) fn ports_of(&self, service: Service) -> Vec<u16> {
        let of = self.services.iter().filter(|(_, known)| **known == service);
        of.map(|(port, _)| *port).collect()
    }

    /// Returns true if no port is at fault.
    pub(crate) fn is_complete(&self) -> bool {
        self.others == Others::None
    }

    /// Returns true if it is certain that `port` is not watched.
    pub(crate) fn lacks(&self, port: u16) -> bool {
        self.others != Others::Unknown && !self.services.contains_key(&port)
    }
}

/// Reads the ports of each service. A service left out keeps its shipped ports, but for those that
/// the file gives to another.
pub(crate) fn read(at: &At<'_>, faults: &mut Collector) -> Option<Watched> {
    let mut services = Services::new();
    let mut numbers = 0;
    let before = faults.count();
    Fields::read(at, faults, |fields| {
        let (own, shipped): (Vec<_>, Vec<_>) = Service::ALL
            .into_iter()
            .filter_map(|service| fields.get(service.name()).map(|at| (service, at)))
            .partition(|(_, at)| at.is_own());
        for (service, at) in own.into_iter().chain(shipped) {
            items(&at, fields.faults, |item, faults| {
                let found = one(item, faults, service, at.is_own(), &mut services);
                numbers += usize::from(found.is_none() && item.is_number());
                found
            });
        }
        Some(())
    })?;
    let others = match faults.count() - before {
        0 if services.is_empty() => return at.fault_inside(faults, "no port is watched"),
        0 => Others::None,
        all if all == numbers => Others::Numbers,
        _ => Others::Unknown,
    };
    Some(Watched { services, others })
}

fn one(item: &At<'_>, faults: &mut Collector, service: Service, own: bool, all: &mut Services) -> Option<()> {
    match all.entry(port(item, faults)?) {
        Entry::Vacant(entry) => {
            entry.insert(service);
            Some(())
        }
        Entry::Occupied(entry) if own => {
            item.fault(faults, format!("this port is in the list of {} already", entry.get().name()))
        }
        Entry::Occupied(_) => Some(()),
    }
}
