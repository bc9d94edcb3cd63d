//! `watched_ports`: which service is watched on which ports.

use std::collections::btree_map::Entry;

use super::{
    diagnostics::DiagnosticSink,
    yaml::{
        get::{Cursor, MappingReader},
        values::{items, number},
    },
};
use mailflow_engine::settings::{Service, Services};

/// A port number; 0 is none.
pub(crate) fn port(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<u16> {
    number(cursor, diagnostics, 1..=u16::MAX)
}

/// The watched ports, as far as they could be read.
pub(crate) struct WatchedPorts {
    /// The ports that are not at fault.
    services: Services,
    /// What is known of the others.
    invalid: InvalidPorts,
}

/// What is known of ports that are at fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InvalidPorts {
    /// There are none.
    None,
    /// They are numbers that no rule could name.
    Numbers,
    /// They may be any.
    Unknown,
}

impl WatchedPorts {
    /// All of them, without a fault.
    pub(crate) fn services(self) -> Option<Services> {
        (self.invalid == InvalidPorts::None).then_some(self.services)
    }

    /// The ports of a service, in ascending order.
    pub(crate) fn ports_of(&self, service: Service) -> Vec<u16> {
        let of = self.services.iter().filter(|(_, known)| **known == service);
        of.map(|(port, _)| *port).collect()
    }

    /// Returns true if no port is at fault.
    pub(crate) fn is_complete(&self) -> bool {
        self.invalid == InvalidPorts::None
    }

    /// Returns true if it is certain that `port` is not watched.
    pub(crate) fn lacks(&self, port: u16) -> bool {
        self.invalid != InvalidPorts::Unknown && !self.services.contains_key(&port)
    }
}

/// Reads the ports of each service. A service left out keeps its shipped ports, but for those that
/// the file gives to another.
pub(crate) fn read(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<WatchedPorts> {
    let mut services = Services::new();
    let mut numbers = 0;
    let before = diagnostics.count();
    MappingReader::read(cursor, diagnostics, |mapping| {
        let (explicit, shipped): (Vec<_>, Vec<_>) = Service::ALL
            .into_iter()
            .filter_map(|service| mapping.get(service.name()).map(|cursor| (service, cursor)))
            .partition(|(_, cursor)| cursor.is_explicit());
        for (service, cursor) in explicit.into_iter().chain(shipped) {
            items(&cursor, mapping.diagnostics, |item, diagnostics| {
                let found = insert_port(item, diagnostics, service, cursor.is_explicit(), &mut services);
                numbers += usize::from(found.is_none() && item.is_number());
                found
            });
        }
        Some(())
    })?;
    let invalid = match diagnostics.count() - before {
        0 if services.is_empty() => return cursor.reject_contents(diagnostics, "no port is watched"),
        0 => InvalidPorts::None,
        all if all == numbers => InvalidPorts::Numbers,
        _ => InvalidPorts::Unknown,
    };
    Some(WatchedPorts { services, invalid })
}

fn insert_port(
    item: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    service: Service,
    explicit: bool,
    all: &mut Services,
) -> Option<()> {
    match all.entry(port(item, diagnostics)?) {
        Entry::Vacant(entry) => {
            entry.insert(service);
            Some(())
        }
        Entry::Occupied(entry) if explicit => {
            item.reject(diagnostics, format!("this port is in the list of {} already", entry.get().name()))
        }
        Entry::Occupied(_) => Some(()),
    }
}
