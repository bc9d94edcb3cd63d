//! `watched_ports`: the watched ports of each service.

use std::collections::btree_map::Entry;

use super::{
    diagnostics::DiagnosticSink,
    yaml::{
        get::{Cursor, MappingReader},
        values::{items, number},
    },
};
use mailflow_engine::settings::{Service, Services};

/// Reads a port number from 1 to 65535.
pub(crate) fn port(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<u16> {
    number(cursor, diagnostics, 1..=u16::MAX)
}

/// Watched ports, as far as they are valid.
pub(crate) struct WatchedPorts {
    /// Valid ports.
    services: Services,
    /// Kind of the invalid entries.
    invalid: InvalidPorts,
}

/// Kind of the invalid entries of `watched_ports`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InvalidPorts {
    /// None.
    None,
    /// Numbers only, which no rule can name.
    Numbers,
    /// Entries that may stand for any port.
    Unknown,
}

impl WatchedPorts {
    /// Returns the ports if all of them are valid.
    pub(crate) fn services(self) -> Option<Services> {
        (self.invalid == InvalidPorts::None).then_some(self.services)
    }

    /// Returns the ports of a service, in ascending order.
    pub(crate) fn ports_of(&self, service: Service) -> Vec<u16> {
        let of = self.services.iter().filter(|(_, known)| **known == service);
        of.map(|(port, _)| *port).collect()
    }

    /// Returns true if all ports are valid.
    pub(crate) fn is_complete(&self) -> bool {
        self.invalid == InvalidPorts::None
    }

    /// Returns true if `port` is certainly not watched.
    pub(crate) fn lacks(&self, port: u16) -> bool {
        self.invalid != InvalidPorts::Unknown && !self.services.contains_key(&port)
    }
}

/// Reads the ports of each service. An omitted service keeps its shipped ports, except those that the file
/// assigns to another service.
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
        0 if services.is_empty() => return cursor.reject_contents(diagnostics, "expected at least one port"),
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
            item.reject(diagnostics, format!("this port is already in the list of {}", entry.get().name()))
        }
        Entry::Occupied(_) => Some(()),
    }
}
