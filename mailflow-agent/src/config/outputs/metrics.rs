//! `outputs.metrics`: listen address, access control, and limits of series.

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

/// Maximum of `max_sources` and of `max_windows`.
const MAX_SERIES: usize = 1_000_000;

/// Settings of the metrics server.
pub(crate) struct MetricsConfig {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) max_sources: usize,
    pub(crate) max_windows: usize,
    pub(crate) web_config: Option<PathBuf>,
}

/// Reads the settings of the metrics server.
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

/// Reads the path of the web-config file, and validates the file, so that its errors are reported with the
/// others.
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
                // A file that cannot be read is an error of the setting that names it.
                None => drop(cursor.reject::<()>(diagnostics, &diagnostic.expected)),
            }
        }
        return None;
    }
    Some(path)
}
