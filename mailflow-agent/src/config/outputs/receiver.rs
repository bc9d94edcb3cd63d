//! Receivers of HTTP requests: addresses, credentials, TLS, proxy. No fault repeats a value that may be a secret.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper::http::{HeaderName, HeaderValue};
use rustls::{crypto::ring, pki_types::ServerName, sign::CertifiedKey};
use serde_yaml::Value;

use super::{
    files,
    types::{Address, ClientTls, Credentials, Proxy, Receiver},
    url::{Form, Url},
};
use crate::config::{
    diagnostics::Collector,
    scalar::duration_within,
    yaml::{
        get::{At, Fields},
        tree::Content,
        values::{entries, items, parsed, string},
    },
};

/// Bounds of `timeout`.
const TIMEOUTS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(600)];

/// A text that may be a secret: a fault does not repeat it.
fn hidden<'a>(at: &At<'a>, faults: &mut Collector) -> Option<&'a str> {
    match at.content() {
        Content::Scalar { text, value: Value::String(_) } => Some(text),
        Content::Scalar { value: Value::Bool(_) | Value::Number(_), .. } => {
            at.fault_inside(faults, "expected a text; put it in quotes")
        }
        _ => at.fault_inside(faults, "expected a text"),
    }
}

fn url(at: &At<'_>, faults: &mut Collector, form: Form) -> Option<Url> {
    match Url::parse(hidden(at, faults)?, form) {
        Ok(url) => Some(url),
        Err(expected) => at.fault_inside(faults, expected),
    }
}

/// Addresses of Alertmanagers: a list of different ones.
pub(crate) fn urls(at: &At<'_>, faults: &mut Collector) -> Option<Vec<Url>> {
    let mut seen = HashSet::new();
    let urls = items(at, faults, |item, faults| {
        let url = url(item, faults, Form::Base)?;
        if seen.insert(url.clone()) {
            Some(url)
        } else {
            item.fault_inside(faults, "given twice in this list")
        }
    })?;
    let urls: Vec<Url> = urls.into_iter().collect::<Option<_>>()?;
    if urls.is_empty() { at.fault_inside(faults, "an empty list matches nothing") } else { Some(urls) }
}

/// `url` or `url_file` of a webhook; files are relative to `directory`.
pub(crate) fn address(fields: &mut Fields<'_, '_>, directory: &Path) -> Option<Address> {
    let file = fields.or("url_file", None, |at, faults| {
        let path = checked(at, faults, directory, |path| files::url(path, Form::Webhook))?;
        Some(Some((at.clone(), path)))
    });
    match file {
        // Without either the fault is about `url`.
        Some(None) => fields.needed("url", |at, faults| url(at, faults, Form::Webhook)).map(Address::Here),
        file => {
            let here = fields.or("url", false, |at, faults| url(at, faults, Form::Webhook).map(|_| true));
            let (at, path) = file??;
            if here? {
                return at.fault_inside(fields.faults, "given beside url; only one of them is used");
            }
            Some(Address::File(path))
        }
    }
}

/// The settings by which a receiver is spoken to; files are relative to `directory`.
pub(crate) fn receiver(fields: &mut Fields<'_, '_>, directory: &Path) -> Option<Receiver> {
    let basic = fields.or("basic_auth", None, |at, faults| {
        Fields::read(at, faults, |fields| {
            let username = fields.needed("username", hidden);
            let password_file =
                fields.needed("password_file", |at, faults| checked(at, faults, directory, files::secret));
            Some(Some((at.clone(), username?.to_owned(), password_file?)))
        })
    });
    let bearer = fields
        .or("bearer_token_file", None, |at, faults| checked(at, faults, directory, files::token).map(Some));
    let tls = fields.or("tls", ClientTls::default(), |at, faults| tls(at, faults, directory));
    let headers = fields.or("headers", Vec::new(), |at, faults| {
        entries(at, faults, |name, at, faults| {
            let value = hidden(at, faults)?;
            if HeaderName::try_from(name).is_err() || HeaderValue::from_str(value).is_err() {
                return at.fault_inside(faults, "this is no header of HTTP");
            }
            Some((name.to_owned(), value.to_owned()))
        })
    });
    let timeout = fields.or("timeout", Receiver::TIMEOUT, |at, faults| {
        parsed(at, faults, "a duration", |text| duration_within(text, TIMEOUTS))
    });
    let proxy = proxy(fields, directory);
    let credentials = match (basic?, bearer?) {
        (Some((at, ..)), Some(_)) => {
            return at.fault_inside(fields.faults, "beside bearer_token_file; only one of them is sent");
        }
        (Some((_, username, password_file)), None) => Credentials::Basic { username, password_file },
        (None, Some(token_file)) => Credentials::Bearer { token_file },
        (None, None) => Credentials::None,
    };
    Some(Receiver { credentials, tls: tls?, headers: headers?, timeout: timeout?, proxy: proxy? })
}

fn tls(at: &At<'_>, faults: &mut Collector, directory: &Path) -> Option<ClientTls> {
    Fields::read(at, faults, |fields| {
        let ca_file = fields
            .or("ca_file", None, |at, faults| checked(at, faults, directory, files::certificates).map(Some));
        let cert = fields.or("cert_file", None, |at, faults| {
            checked(at, faults, directory, files::certificates).map(Some)
        });
        let key = fields.or("key_file", None, |at, faults| {
            checked(at, faults, directory, files::private_key).map(|path| Some((at.clone(), path)))
        });
        let server_name = fields.or("server_name", None, |at, faults| {
            let name = string(at, faults)?;
            match ServerName::try_from(name) {
                Ok(_) => Some(Some(name.to_owned())),
                Err(_) => at.fault(faults, "expected a host name or an address, without a port"),
            }
        });
        let certificate = match (cert?, key?) {
            (Some(certificate), Some((at, key))) => {
                if let Err(wrong) = pair(&certificate, &key) {
                    return at.fault(fields.faults, wrong);
                }
                Some((certificate, key))
            }
            (None, None) => None,
            _ => return at.fault_inside(fields.faults, "cert_file and key_file go together"),
        };
        Some(ClientTls { ca_file: ca_file?, certificate, server_name: server_name? })
    })
}

/// Checks that a key belongs to a certificate.
fn pair(certificate: &Path, key: &Path) -> Result<(), String> {
    let (chain, key) = (files::certificates(certificate)?, files::private_key(key)?);
    match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err("the key does not belong to cert_file".to_owned()),
        Err(error) => Err(format!("cannot be used with cert_file: {error}")),
    }
}

/// `proxy` or `proxy_file`.
fn proxy(fields: &mut Fields<'_, '_>, directory: &Path) -> Option<Proxy> {
    let file = fields.or("proxy_file", None, |at, faults| {
        let path = checked(at, faults, directory, |path| files::url(path, Form::Proxy))?;
        Some(Some((at.clone(), path)))
    });
    let proxy = fields.or("proxy", None, |at, faults| match at.content() {
        Content::Scalar { value: Value::Bool(false) | Value::Null, .. } => Some(Some(Proxy::Off)),
        _ => match hidden(at, faults)? {
            "off" => Some(Some(Proxy::Off)),
            "environment" => Some(Some(Proxy::Environment)),
            _ => url(at, faults, Form::Proxy).map(|url| Some(Proxy::To(url))),
        },
    });
    match (file?, proxy?) {
        (Some((at, _)), Some(_)) => {
            at.fault_inside(fields.faults, "given beside proxy; only one of them is used")
        }
        (Some((_, path)), None) => Some(Proxy::File(path)),
        (None, proxy) => Some(proxy.unwrap_or_default()),
    }
}

/// A file that `read` can read now.
fn checked<T>(
    at: &At<'_>,
    faults: &mut Collector,
    directory: &Path,
    read: impl FnOnce(&Path) -> Result<T, String>,
) -> Option<PathBuf> {
    let path = directory.join(string(at, faults)?);
    match read(&path) {
        Ok(_) => Some(path),
        Err(error) => at.fault(faults, error),
    }
}
