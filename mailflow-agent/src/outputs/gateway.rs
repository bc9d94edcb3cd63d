//! The gateway that events name: the machine, and the interfaces that it watches.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    num::NonZeroU32,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use mailflow_engine::event::Alert;

/// The gateway's name and its watched interfaces. Clones share the interfaces, which a reload may change.
#[derive(Clone, Debug)]
pub struct Gateway {
    name: Arc<str>,
    interfaces: Arc<RwLock<Interfaces>>,
}

/// Interfaces remembered by number, those that are gone included.
const REMEMBERED: usize = 4_096;

#[derive(Debug, Default)]
struct Interfaces {
    /// Those that are watched, as they are configured.
    watched: Arc<[Arc<str>]>,
    /// Names by the kernel's number; a record may come after its interface went.
    by_number: BTreeMap<u32, Arc<str>>,
}

impl Gateway {
    /// The gateway of this name, or that of the machine's host name, which watches nothing yet.
    pub fn new(name: Option<&str>) -> Self {
        let name = name.map_or_else(hostname, str::to_owned);
        Self { name: name.into(), interfaces: Arc::default() }
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// These interfaces are watched from now on; of those that are there, the kernel's numbers.
    pub fn watch<'a>(
        &self,
        interfaces: impl IntoIterator<Item = &'a str>,
        numbers: impl IntoIterator<Item = (u32, &'a str)>,
    ) {
        let mut known = self.interfaces.write().unwrap_or_else(PoisonError::into_inner);
        known.watched = interfaces.into_iter().map(Arc::from).collect();
        for (number, name) in numbers {
            if known.by_number.get(&number).is_none_or(|known| &**known != name) {
                known.by_number.insert(number, name.into());
            }
        }
        // The kernel numbers them in the order in which they come.
        while known.by_number.len() > REMEMBERED {
            known.by_number.pop_first();
        }
    }

    /// The watched interfaces, as they are configured.
    pub fn interfaces(&self) -> Arc<[Arc<str>]> {
        Arc::clone(&self.known().watched)
    }

    /// The interface that a flow was counted at. Where its number is not known, the one that is watched, if it is one
    /// alone.
    pub fn interface(&self, number: Option<NonZeroU32>) -> Option<Arc<str>> {
        let known = self.known();
        let named = number.and_then(|number| known.by_number.get(&number.get()));
        match &*known.watched {
            [only] => Some(Arc::clone(named.unwrap_or(only))),
            _ => named.cloned(),
        }
    }

    /// The interfaces of the flows that an alert shows, in the order of their names; the watched ones where none of the
    /// flows has one.
    pub fn interfaces_of(&self, alert: &Alert) -> Arc<[Arc<str>]> {
        let named = alert.flows.iter().filter_map(|record| self.interface(record.flow.interface));
        let named: BTreeSet<Arc<str>> = named.collect();
        if named.is_empty() { self.interfaces() } else { named.into_iter().collect() }
    }

    fn known(&self) -> RwLockReadGuard<'_, Interfaces> {
        self.interfaces.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self::new(None)
    }
}

/// The machine's name, as other machines know it; `-` where it has none.
fn hostname() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(char::is_ascii_graphic).take(255).collect();
    if name.is_empty() { "-".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_has_the_interface_it_was_counted_at() {
        let gateway = Gateway::new(Some("gw1"));
        let clone = gateway.clone();
        let interface = |number| clone.interface(NonZeroU32::new(number)).map(|name| name.to_string());
        assert_eq!((&**gateway.name(), interface(0), interface(3)), ("gw1", None, None));
        gateway.watch(["lan0"], [(3, "lan0")]);
        assert_eq!([0, 3, 4].map(interface), [0; 3].map(|_| Some("lan0".to_owned())));
        gateway.watch(["lan0", "lan1"], [(4, "lan1")]);
        let names = |names: [&str; 2]| names.map(|name| Some(name.to_owned()));
        assert_eq!([3, 4].map(interface), names(["lan0", "lan1"]), "also of one that is not there any more");
        assert_eq!((interface(0), interface(5), clone.interfaces().len()), (None, None, 2));
        gateway.watch(["lan0", "lan1"], [(4, "lan2")]);
        assert_eq!([3, 4].map(interface), names(["lan0", "lan2"]));
    }

    #[test]
    fn those_of_the_past_are_not_kept_for_ever() {
        let gateway = Gateway::new(None);
        for number in 1..=5_000 {
            gateway.watch(["ppp0", "ppp1"], [(number, "ppp0")]);
        }
        let interface = |number| gateway.interface(NonZeroU32::new(number)).is_some();
        assert_eq!([904, 905, 5_000].map(interface), [false, true, true]);
    }

    #[test]
    fn the_host_name_is_the_name_unless_another_is_configured() {
        let name = Gateway::default().name().to_string();
        assert!(!name.is_empty() && name.chars().all(|letter| letter.is_ascii_graphic()), "{name}");
    }
}
