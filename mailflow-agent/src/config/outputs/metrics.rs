//! `outputs.metrics`: the port, and how many series there may be.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::config::{
    diagnostics::DiagnosticSink,
    scalar::{Switch, listen},
    web,
    yaml::{
        get::{Cursor, MappingReader},
        values::{number, or_off},
    },
};

/// Most series that may be asked for, per source or of windows.
const MAX_SERIES: usize = 1_000_000;

/// The settings of the metrics port.
pub(crate) struct MetricsConfig {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) max_sources: usize,
    pub(crate) max_windows: usize,
    pub(crate) web_config: Option<PathBuf>,
}

/// Reads them.
pub(crate) fn read(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    directory: &Path,
) -> Option<MetricsConfig> {
    MappingReader::read(cursor, diagnostics, |mapping| {
        let listen = mapping
            .required("listen", |cursor, diagnostics| or_off(cursor, diagnostics, "ADDRESS:PORT", listen));
        let mut most =
            |key| mapping.required(key, |cursor, diagnostics| number(cursor, diagnostics, 1..=MAX_SERIES));
        let (max_sources, max_windows) = (most("max_sources"), most("max_windows"));
        let web_config =
            mapping.required("web_config", |cursor, diagnostics| web_config(cursor, diagnostics, directory));
        Some(MetricsConfig {
            listen: listen?,
            max_sources: max_sources?,
            max_windows: max_windows?,
            web_config: web_config?,
        })
    })
}

/// Reads the web-config file too: what is wrong with it is told with all the rest.
fn web_config(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    directory: &Path,
) -> Option<Option<PathBuf>> {
    let path = or_off(cursor, diagnostics, "a web-config file", |text| match text {
        "" => Err("expected a web-config file, or off".to_owned()),
        "off" => Ok(Switch::Off),
        file => Ok(Switch::To(directory.join(file))),
    })?;
    if let Some(path) = &path
        && let Err(wrong) = web::load(path)
    {
        for diagnostic in wrong.iter() {
            match diagnostic.location.position {
                Some(_) => diagnostics.report(diagnostic.clone()),
                // It cannot be read at all: the place is where it is named.
                None => drop(cursor.reject::<()>(diagnostics, &diagnostic.expected)),
            }
        }
        return None;
    }
    Some(path)
}
