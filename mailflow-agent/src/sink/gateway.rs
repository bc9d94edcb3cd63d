//! The gateway that events name: the machine, and the interfaces that it watches.

use std::{
    fs,
    sync::{Arc, PoisonError, RwLock},
};

/// The gateway's name and its watched interfaces. Clones share the interfaces, which a reload may change.
#[derive(Clone, Debug)]
pub struct Gateway {
    name: Arc<str>,
    interfaces: Arc<RwLock<Arc<[Arc<str>]>>>,
}

impl Gateway {
    /// The gateway of this name, or that of the machine's host name, which watches nothing yet.
    pub fn new(name: Option<&str>) -> Self {
        let name = name.map_or_else(hostname, str::to_owned);
        Self { name: name.into(), interfaces: Arc::new(RwLock::new([].into())) }
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// These interfaces are watched from now on.
    pub fn watch<'a>(&self, interfaces: impl IntoIterator<Item = &'a str>) {
        let interfaces = interfaces.into_iter().map(Arc::from).collect();
        *self.interfaces.write().unwrap_or_else(PoisonError::into_inner) = interfaces;
    }

    /// The watched interfaces, as they are configured.
    pub fn interfaces(&self) -> Arc<[Arc<str>]> {
        Arc::clone(&self.interfaces.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The interface of every flow: known where a single one is watched, as the kernel's table holds none.
    pub fn interface(&self) -> Option<Arc<str>> {
        match &*self.interfaces() {
            [only] => Some(Arc::clone(only)),
            _ => None,
        }
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
    fn a_flow_has_an_interface_where_a_single_one_is_watched() {
        let gateway = Gateway::new(Some("gw1"));
        assert_eq!((&**gateway.name(), gateway.interface()), ("gw1", None));
        let clone = gateway.clone();
        gateway.watch(["lan0"]);
        assert_eq!(clone.interface().as_deref(), Some("lan0"));
        gateway.watch(["lan0", "lan1"]);
        assert_eq!((clone.interface(), clone.interfaces().len()), (None, 2));
    }

    #[test]
    fn the_host_name_is_the_name_unless_another_is_configured() {
        let name = Gateway::default().name().to_string();
        assert!(!name.is_empty() && name.chars().all(|letter| letter.is_ascii_graphic()), "{name}");
    }
}
