//! Prometheus' web-config file: TLS and basic auth of the metrics server.
//!
//! The format is the one of Prometheus and its exporters, so that one file serves all of them. An unsupported
//! setting is an error, as ignoring it would weaken the access control.

mod tls;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    diagnostics::{DiagnosticSink, Diagnostics},
    file,
    file_stamp::FileStamp,
    yaml::{
        get::{Cursor, MappingReader},
        parse,
        values::{boolean, entries, string},
    },
};

/// Access control of the metrics server.
#[derive(Clone, Debug, Default)]
pub struct WebConfig {
    /// TLS settings; `None` for plain HTTP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Users with the bcrypt hashes of their passwords. Without users no password is required.
    pub users: Vec<(String, String)>,
    /// Files that the web-config file names.
    files: Vec<PathBuf>,
}

/// Reads a web-config file and the files that it names.
///
/// # Errors
/// All errors of the file, with their locations.
pub fn load(path: &Path) -> Result<WebConfig, Diagnostics> {
    let name = path.display().to_string();
    let text = file::read(path).map_err(|text_error| text_error.into_diagnostics(&name))?;
    parse(&name, &text, path.parent().unwrap_or(Path::new("")))
}

/// Validates a web-config file called `name`, and the files that it names. Paths are relative to `directory`.
///
/// # Errors
/// All errors of the file, with their locations.
pub fn parse(name: &str, text: &str, directory: &Path) -> Result<WebConfig, Diagnostics> {
    file::check(text).map_err(|text_error| text_error.into_diagnostics(name))?;
    let mut diagnostics = DiagnosticSink::new(name);
    let web = parse::read(text, &mut diagnostics)
        .and_then(|node| web(&Cursor::root(&node, None), &mut diagnostics, directory));
    diagnostics.finish(web).map(|(web, _)| web)
}

fn web(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink, directory: &Path) -> Option<WebConfig> {
    MappingReader::read(cursor, diagnostics, |mapping| {
        let tls = mapping.optional("tls_server_config", None, |cursor, diagnostics| {
            tls::read(cursor, diagnostics, directory).map(Some)
        });
        let users = mapping.optional("basic_auth_users", Vec::new(), |cursor, diagnostics| {
            entries(cursor, diagnostics, |name, cursor, diagnostics| {
                Some((name.to_owned(), hash(cursor, diagnostics)?))
            })
        });
        let http = mapping.optional("http_server_config", (), |cursor, diagnostics| {
            MappingReader::read(cursor, diagnostics, |mapping| {
                // The server supports HTTP/1.1 only. Every HTTP/2 client falls back to it.
                mapping.optional("http2", true, boolean).map(drop)
            })
        });
        let ((), tls, users) = (http?, tls?, users?);
        let (tls, files) = tls.map_or((None, Vec::new()), |(tls, files)| (Some(tls), files));
        Some(WebConfig { tls, users, files })
    })
}

/// Reads a bcrypt hash, as printed by `htpasswd -nB`.
fn hash(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<String> {
    let hash = string(cursor, diagnostics)?;
    match hash.parse::<bcrypt::HashParts>() {
        Ok(parts) if (4..=31).contains(&parts.get_cost()) => Some(hash.to_owned()),
        Ok(_) | Err(_) => {
            cursor.reject_contents(diagnostics, "expected a bcrypt hash, as `htpasswd -nB USER` prints it")
        }
    }
}

/// Web-config file that is reloaded after a change of the file or of a file that it names.
#[derive(Debug)]
pub struct WebConfigWatcher {
    path: PathBuf,
    web: Arc<WebConfig>,
    stamps: Vec<Option<FileStamp>>,
}

impl WebConfigWatcher {
    /// Reads the file.
    ///
    /// # Errors
    /// All errors of the file.
    pub fn open(path: &Path) -> Result<Self, Diagnostics> {
        let web = Arc::new(load(path)?);
        let stamps = stamps(path, &web);
        Ok(Self { path: path.to_owned(), web, stamps })
    }

    /// Returns the current settings.
    pub fn web(&self) -> &Arc<WebConfig> {
        &self.web
    }

    /// Reloads the files if one of them has changed; `None` if none has.
    ///
    /// # Errors
    /// All errors of the file. The previous settings stay in force.
    pub fn reload_if_changed(&mut self) -> Option<Result<(), Diagnostics>> {
        let now = stamps(&self.path, &self.web);
        if now == self.stamps {
            return None;
        }
        self.stamps = now;
        Some(load(&self.path).map(|web| {
            self.web = Arc::new(web);
            // The new version may name other files.
            self.stamps = stamps(&self.path, &self.web);
        }))
    }
}

fn stamps(path: &Path, web: &WebConfig) -> Vec<Option<FileStamp>> {
    std::iter::once(path).chain(web.files.iter().map(PathBuf::as_path)).map(FileStamp::of).collect()
}
