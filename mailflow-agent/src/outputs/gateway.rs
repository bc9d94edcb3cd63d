//! Gateway that events name: the machine and its watched interfaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    num::NonZeroU32,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use mailflow_engine::event::Alert;

/// Name of the gateway and its watched interfaces. Clones share the interfaces, which a reload may change.
#[derive(Clone, Debug)]
pub struct Gateway {
    name: Arc<str>,
    interfaces: Arc<RwLock<GatewayInterfaces>>,
}

/// Largest number of remembered interface names, removed interfaces included.
const MAX_REMEMBERED_INTERFACES: usize = 4_096;

/// Interfaces of the gateway.
#[derive(Debug, Default)]
struct GatewayInterfaces {
    /// Watched interfaces as configured.
    watched: Arc<[Arc<str>]>,
    /// Names by interface index. A record may arrive after its interface was removed.
    by_number: BTreeMap<u32, Arc<str>>,
}

impl Gateway {
    /// Creates a gateway of this name, or of the host name, without watched interfaces.
    pub fn new(name: Option<&str>) -> Self {
        let name = name.map_or_else(hostname, str::to_owned);
        Self { name: name.into(), interfaces: Arc::default() }
    }

    /// Returns the name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Sets the watched interfaces, and adds the names of those that exist by their interface index.
    pub fn watch<'a>(
        &self,
        interfaces: impl IntoIterator<Item = &'a str>,
        numbers: impl IntoIterator<Item = (u32, &'a str)>,
    ) {
        let mut state = self.interfaces.write().unwrap_or_else(PoisonError::into_inner);
        state.watched = interfaces.into_iter().map(Arc::from).collect();
        for (number, name) in numbers {
            if state.by_number.get(&number).is_none_or(|known| &**known != name) {
                state.by_number.insert(number, name.into());
            }
        }
        // The kernel assigns indexes in ascending order, so the lowest is the oldest.
        while state.by_number.len() > MAX_REMEMBERED_INTERFACES {
            state.by_number.pop_first();
        }
    }

    /// Returns the watched interfaces as configured.
    pub fn interfaces(&self) -> Arc<[Arc<str>]> {
        Arc::clone(&self.read_interfaces().watched)
    }

    /// Returns the interface at which a flow was counted. For an unknown index this is the only watched
    /// interface, if there is exactly one.
    pub fn interface(&self, number: Option<NonZeroU32>) -> Option<Arc<str>> {
        let interfaces = self.read_interfaces();
        let name = number.and_then(|number| interfaces.by_number.get(&number.get()));
        match &*interfaces.watched {
            [only] => Some(Arc::clone(name.unwrap_or(only))),
            _ => name.cloned(),
        }
    }

    /// Returns the interfaces of the flows that an alert shows, sorted by name. Without any it returns the
    /// watched interfaces.
    pub fn interfaces_of(&self, alert: &Alert) -> Arc<[Arc<str>]> {
        let names = alert.flows.iter().filter_map(|record| self.interface(record.flow.interface));
        let names: BTreeSet<Arc<str>> = names.collect();
        if names.is_empty() { self.interfaces() } else { names.into_iter().collect() }
    }

    fn read_interfaces(&self) -> RwLockReadGuard<'_, GatewayInterfaces> {
        self.interfaces.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self::new(None)
    }
}

/// Returns the host name, or `-` if there is none.
fn hostname() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(char::is_ascii_graphic).take(255).collect();
    if name.is_empty() { "-".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_interface_of_a_flow() {
        let gateway = Gateway::new(Some("gw1"));
        let clone = gateway.clone();
        let interface = |number| clone.interface(NonZeroU32::new(number)).map(|name| name.to_string());
        assert_eq!((&**gateway.name(), interface(0), interface(3)), ("gw1", None, None));
        gateway.watch(["lan0"], [(3, "lan0")]);
        assert_eq!([0, 3, 4].map(interface), [0; 3].map(|_| Some("lan0".to_owned())));
        gateway.watch(["lan0", "lan1"], [(4, "lan1")]);
        let names = |names: [&str; 2]| names.map(|name| Some(name.to_owned()));
        assert_eq!([3, 4].map(interface), names(["lan0", "lan1"]), "a removed interface is remembered");
        assert_eq!((interface(0), interface(5), clone.interfaces().len()), (None, None, 2));
        gateway.watch(["lan0", "lan1"], [(4, "lan2")]);
        assert_eq!([3, 4].map(interface), names(["lan0", "lan2"]));
    }

    #[test]
    fn limits_remembered_interfaces() {
        let gateway = Gateway::new(None);
        for number in 1..=5_000 {
            gateway.watch(["ppp0", "ppp1"], [(number, "ppp0")]);
        }
        let interface = |number| gateway.interface(NonZeroU32::new(number)).is_some();
        assert_eq!([904, 905, 5_000].map(interface), [false, true, true]);
    }

    #[test]
    fn default_name_is_the_host_name() {
        let name = Gateway::default().name().to_string();
        assert!(!name.is_empty() && name.chars().all(|letter| letter.is_ascii_graphic()), "{name}");
    }
}
