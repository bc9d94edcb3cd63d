//! Prometheus' web-config file: TLS and basic auth for the metrics port.
//!
//! The format is that of Prometheus and its exporters, so that one file serves all of them. What is not
//! supported here is a fault: a file that asks for more than it gets would deceive.

mod tls;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    diagnostics::{Collector, Faults},
    file,
    file_stamp::Stamp,
    yaml::{
        get::{At, Fields},
        parse,
        values::{boolean, entries, string},
    },
};

/// Who may connect, and how.
#[derive(Clone, Debug, Default)]
pub struct Web {
    /// TLS; `None` is plain HTTP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Users with the bcrypt hashes of their passwords; none means that nobody is asked.
    pub users: Vec<(String, String)>,
    /// The files it was made of beside the web-config file itself.
    files: Vec<PathBuf>,
}

/// Reads a web-config file and what it names.
///
/// # Errors
/// Everything that is wrong with it, with its places.
pub fn load(path: &Path) -> Result<Web, Faults> {
    let name = path.display().to_string();
    let text = file::read(path).map_err(|no_text| no_text.faults(&name))?;
    parse(&name, &text, path.parent().unwrap_or(Path::new("")))
}

/// Validates a web-config file called `name`, and what it names; files are relative to `directory`.
///
/// # Errors
/// Everything that is wrong with it, with its places.
pub fn parse(name: &str, text: &str, directory: &Path) -> Result<Web, Faults> {
    file::check(text).map_err(|no_text| no_text.faults(name))?;
    let mut faults = Collector::new(name);
    let web =
        parse::read(text, &mut faults).and_then(|node| web(&At::root(&node, None), &mut faults, directory));
    faults.finish(web).map(|(web, _)| web)
}

fn web(at: &At<'_>, faults: &mut Collector, directory: &Path) -> Option<Web> {
    Fields::read(at, faults, |fields| {
        let tls =
            fields.or("tls_server_config", None, |at, faults| tls::read(at, faults, directory).map(Some));
        let users = fields.or("basic_auth_users", Vec::new(), |at, faults| {
            entries(at, faults, |name, at, faults| Some((name.to_owned(), hash(at, faults)?)))
        });
        let http = fields.or("http_server_config", (), |at, faults| {
            Fields::read(at, faults, |fields| {
                // Served is HTTP/1.1, which every client of HTTP/2 falls back to.
                fields.or("http2", true, boolean).map(drop)
            })
        });
        let ((), tls, users) = (http?, tls?, users?);
        let (tls, files) = tls.map_or((None, Vec::new()), |(tls, files)| (Some(tls), files));
        Some(Web { tls, users, files })
    })
}

/// A bcrypt hash, as `htpasswd -nB` makes it.
fn hash(at: &At<'_>, faults: &mut Collector) -> Option<String> {
    let hash = string(at, faults)?;
    match hash.parse::<bcrypt::HashParts>() {
        Ok(parts) if (4..=31).contains(&parts.get_cost()) => Some(hash.to_owned()),
        Ok(_) | Err(_) => at.fault_inside(faults, "expected a bcrypt hash, as `htpasswd -nB USER` prints it"),
    }
}

/// A web-config file that is read again when it changes, or a file that it names.
#[derive(Debug)]
pub struct WebWatch {
    path: PathBuf,
    web: Arc<Web>,
    stamps: Vec<Option<Stamp>>,
}

impl WebWatch {
    /// Reads the file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn open(path: &Path) -> Result<Self, Faults> {
        let web = Arc::new(load(path)?);
        let stamps = stamps(path, &web);
        Ok(Self { path: path.to_owned(), web, stamps })
    }

    /// What is in force.
    pub fn web(&self) -> &Arc<Web> {
        &self.web
    }

    /// Reads the file again if it has changed; `None` if not.
    ///
    /// # Errors
    /// Everything that is wrong with it; what was read before stays in force.
    pub fn look(&mut self) -> Option<Result<(), Faults>> {
        let now = stamps(&self.path, &self.web);
        if now == self.stamps {
            return None;
        }
        self.stamps = now;
        Some(load(&self.path).map(|web| {
            self.web = Arc::new(web);
            // It may name other files now.
            self.stamps = stamps(&self.path, &self.web);
        }))
    }
}

fn stamps(path: &Path, web: &Web) -> Vec<Option<Stamp>> {
    std::iter::once(path).chain(web.files.iter().map(PathBuf::as_path)).map(Stamp::of).collect()
}
