//! `outputs.metrics`: the port, and how many series there may be.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::config::{
    diagnostics::Collector,
    scalar::{Switch, listen},
    web,
    yaml::{
        get::{At, Fields},
        values::{number, or_off},
    },
};

/// Most series that may be asked for, per source or of windows.
const MAX_SERIES: usize = 1_000_000;

/// The settings of the metrics port.
pub(crate) struct Metrics {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) max_sources: usize,
    pub(crate) max_windows: usize,
    pub(crate) web_config: Option<PathBuf>,
}

/// Reads them.
pub(crate) fn read(at: &At<'_>, faults: &mut Collector, directory: &Path) -> Option<Metrics> {
    Fields::read(at, faults, |fields| {
        let listen = fields.needed("listen", |at, faults| or_off(at, faults, "ADDRESS:PORT", listen));
        let mut most = |key| fields.needed(key, |at, faults| number(at, faults, 1..=MAX_SERIES));
        let (max_sources, max_windows) = (most("max_sources"), most("max_windows"));
        let web_config = fields.needed("web_config", |at, faults| web_config(at, faults, directory));
        Some(Metrics {
            listen: listen?,
            max_sources: max_sources?,
            max_windows: max_windows?,
            web_config: web_config?,
        })
    })
}

/// Reads the web-config file too: what is wrong with it is told with all the rest.
fn web_config(at: &At<'_>, faults: &mut Collector, directory: &Path) -> Option<Option<PathBuf>> {
    let path = or_off(at, faults, "a web-config file", |text| match text {
        "" => Err("expected a web-config file, or off".to_owned()),
        "off" => Ok(Switch::Off),
        file => Ok(Switch::To(directory.join(file))),
    })?;
    if let Some(path) = &path
        && let Err(wrong) = web::load(path)
    {
        for fault in wrong.iter() {
            match fault.place.position {
                Some(_) => faults.fault(fault.clone()),
                // It cannot be read at all: the place is where it is named.
                None => drop(at.fault::<()>(faults, &fault.expected)),
            }
        }
        return None;
    }
    Some(path)
}
