//! Receivers of HTTP requests: addresses, credentials, TLS.

use std::path::{Path, PathBuf};

use hyper::http::{HeaderName, HeaderValue, Uri};

use super::types::{ClientTls, Credentials, Receiver};
use crate::config::{
    fault::Collector,
    read::{At, Fields},
    typed::{entries, string},
};

/// `http://HOST...` or `https://HOST...`.
pub(super) fn url<'a>(at: &At<'a>, faults: &mut Collector) -> Option<&'a str> {
    let text = string(at, faults)?;
    let good = text.parse::<Uri>().is_ok_and(|uri| {
        let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        // Passwords in addresses end up in logs.
        scheme && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    });
    if good {
        Some(text)
    } else {
        at.fault(faults, "expected http://HOST:PORT/PATH or https://HOST:PORT/PATH")
    }
}

/// The settings by which a receiver is spoken to; files are relative to `directory`.
pub(super) fn receiver(fields: &mut Fields<'_, '_>, directory: &Path) -> Option<Receiver> {
    let file = |at: &At<'_>, faults: &mut Collector| existing(at, faults, directory);
    let basic = fields.or("basic_auth", None, |at, faults| {
        Fields::read(at, faults, |fields| {
            let username = fields.needed("username", string);
            let password_file = fields.needed("password_file", file);
            Some(Some((at.clone(), username?.to_owned(), password_file?)))
        })
    });
    let bearer = fields.or("bearer_token_file", None, |at, faults| file(at, faults).map(Some));
    let tls = fields.or("tls", ClientTls::default(), |at, faults| {
        Fields::read(at, faults, |fields| {
            let mut optional = |key| fields.or(key, None, |at, faults| file(at, faults).map(Some));
            let (ca_file, cert, key) = (optional("ca_file"), optional("cert_file"), optional("key_file"));
            let certificate = match (cert?, key?) {
                (Some(certificate), Some(key)) => Some((certificate, key)),
                (None, None) => None,
                _ => return at.fault_inside(fields.faults, "cert_file and key_file go together"),
            };
            Some(ClientTls { ca_file: ca_file?, certificate })
        })
    });
    let headers = fields.or("headers", Vec::new(), |at, faults| {
        entries(at, faults, |name, at, faults| {
            let value = string(at, faults)?;
            if HeaderName::try_from(name).is_err() || HeaderValue::from_str(value).is_err() {
                return at.fault_inside(faults, "this is no header of HTTP");
            }
            Some((name.to_owned(), value.to_owned()))
        })
    });
    let credentials = match (basic?, bearer?) {
        (Some((at, ..)), Some(_)) => {
            return at.fault_inside(fields.faults, "beside bearer_token_file; only one of them is sent");
        }
        (Some((_, username, password_file)), None) => Credentials::Basic { username, password_file },
        (None, Some(token_file)) => Credentials::Bearer { token_file },
        (None, None) => Credentials::None,
    };
    Some(Receiver { credentials, tls: tls?, headers: headers? })
}

/// A file that can be read now.
fn existing(at: &At<'_>, faults: &mut Collector, directory: &Path) -> Option<PathBuf> {
    let path = directory.join(string(at, faults)?);
    match std::fs::File::open(&path) {
        Ok(_) => Some(path),
        Err(error) => at.fault(faults, format!("cannot be read: {error}")),
    }
}
