//! HTTP receivers: URLs, credentials, TLS and proxy. No diagnostic contains a value that may be a secret.

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
    types::{ClientTls, Credentials, Proxy, Receiver, WebhookAddress},
    url::{Url, UrlForm},
};
use crate::config::{
    diagnostics::DiagnosticSink,
    scalar::duration_within,
    yaml::{
        get::{Cursor, MappingReader},
        tree::Content,
        values::{entries, items, parsed, string},
    },
};

/// Range of `timeout`.
const TIMEOUT_RANGE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(600)];

/// Reads a string that may be a secret. Its diagnostics do not contain the value.
fn secret_string<'a>(cursor: &Cursor<'a>, diagnostics: &mut DiagnosticSink) -> Option<&'a str> {
    match cursor.content() {
        Content::Scalar { text, value: Value::String(_) } => Some(text),
        Content::Scalar { value: Value::Bool(_) | Value::Number(_), .. } => {
            cursor.reject_contents(diagnostics, "expected a text; put it in quotes")
        }
        _ => cursor.reject_contents(diagnostics, "expected a text"),
    }
}

fn url(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink, form: UrlForm) -> Option<Url> {
    match Url::parse(secret_string(cursor, diagnostics)?, form) {
        Ok(url) => Some(url),
        Err(expected) => cursor.reject_contents(diagnostics, expected),
    }
}

/// Reads the URLs of Alertmanagers, a list without duplicates.
pub(crate) fn urls(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<Vec<Url>> {
    let mut seen = HashSet::new();
    let urls = items(cursor, diagnostics, |item, diagnostics| {
        let url = url(item, diagnostics, UrlForm::Base)?;
        if seen.insert(url.clone()) {
            Some(url)
        } else {
            item.reject_contents(diagnostics, "given twice in this list")
        }
    })?;
    let urls: Vec<Url> = urls.into_iter().collect::<Option<_>>()?;
    if urls.is_empty() {
        cursor.reject_contents(diagnostics, "expected at least one URL")
    } else {
        Some(urls)
    }
}

/// Reads `url` or `url_file` of a webhook. Files are relative to `directory`.
pub(crate) fn address(mapping: &mut MappingReader<'_, '_>, directory: &Path) -> Option<WebhookAddress> {
    let file = mapping.optional("url_file", None, |cursor, diagnostics| {
        let path = readable_file(cursor, diagnostics, directory, |path| files::url(path, UrlForm::Webhook))?;
        Some(Some((cursor.clone(), path)))
    });
    match file {
        // If both are missing, the error is about `url`.
        Some(None) => mapping
            .required("url", |cursor, diagnostics| url(cursor, diagnostics, UrlForm::Webhook))
            .map(WebhookAddress::Inline),
        file => {
            let has_url = mapping.optional("url", false, |cursor, diagnostics| {
                url(cursor, diagnostics, UrlForm::Webhook).map(|_| true)
            });
            let (cursor, path) = file??;
            if has_url? {
                return cursor.reject_contents(mapping.diagnostics, "expected url or url_file, not both");
            }
            Some(WebhookAddress::File(path))
        }
    }
}

/// Reads the HTTP settings of a receiver. Files are relative to `directory`.
pub(crate) fn receiver(mapping: &mut MappingReader<'_, '_>, directory: &Path) -> Option<Receiver> {
    let basic = mapping.optional("basic_auth", None, |cursor, diagnostics| {
        MappingReader::read(cursor, diagnostics, |mapping| {
            let username = mapping.required("username", secret_string);
            let password_file = mapping.required("password_file", |cursor, diagnostics| {
                readable_file(cursor, diagnostics, directory, files::secret)
            });
            Some(Some((cursor.clone(), username?.to_owned(), password_file?)))
        })
    });
    let bearer = mapping.optional("bearer_token_file", None, |cursor, diagnostics| {
        readable_file(cursor, diagnostics, directory, files::token).map(Some)
    });
    let tls = mapping
        .optional("tls", ClientTls::default(), |cursor, diagnostics| tls(cursor, diagnostics, directory));
    let headers = mapping.optional("headers", Vec::new(), |cursor, diagnostics| {
        entries(cursor, diagnostics, |name, cursor, diagnostics| {
            let value = secret_string(cursor, diagnostics)?;
            if HeaderName::try_from(name).is_err() || HeaderValue::from_str(value).is_err() {
                return cursor.reject_contents(diagnostics, "not a valid HTTP header");
            }
            Some((name.to_owned(), value.to_owned()))
        })
    });
    let timeout = mapping.optional("timeout", Receiver::TIMEOUT, |cursor, diagnostics| {
        parsed(cursor, diagnostics, "a duration", |text| duration_within(text, TIMEOUT_RANGE))
    });
    let proxy = proxy(mapping, directory);
    let credentials = match (basic?, bearer?) {
        (Some((cursor, ..)), Some(_)) => {
            return cursor
                .reject_contents(mapping.diagnostics, "expected basic_auth or bearer_token_file, not both");
        }
        (Some((_, username, password_file)), None) => Credentials::Basic { username, password_file },
        (None, Some(token_file)) => Credentials::Bearer { token_file },
        (None, None) => Credentials::None,
    };
    Some(Receiver { credentials, tls: tls?, headers: headers?, timeout: timeout?, proxy: proxy? })
}

fn tls(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink, directory: &Path) -> Option<ClientTls> {
    MappingReader::read(cursor, diagnostics, |mapping| {
        let ca_file = mapping.optional("ca_file", None, |cursor, diagnostics| {
            readable_file(cursor, diagnostics, directory, files::certificates).map(Some)
        });
        let cert = mapping.optional("cert_file", None, |cursor, diagnostics| {
            readable_file(cursor, diagnostics, directory, files::certificates).map(Some)
        });
        let key = mapping.optional("key_file", None, |cursor, diagnostics| {
            readable_file(cursor, diagnostics, directory, files::private_key)
                .map(|path| Some((cursor.clone(), path)))
        });
        let server_name = mapping.optional("server_name", None, |cursor, diagnostics| {
            let name = string(cursor, diagnostics)?;
            match ServerName::try_from(name) {
                Ok(_) => Some(Some(name.to_owned())),
                Err(_) => cursor.reject(diagnostics, "expected a host name or an address, without a port"),
            }
        });
        let certificate = match (cert?, key?) {
            (Some(certificate), Some((cursor, key))) => {
                if let Err(wrong) = check_key_pair(&certificate, &key) {
                    return cursor.reject(mapping.diagnostics, wrong);
                }
                Some((certificate, key))
            }
            (None, None) => None,
            _ => return cursor.reject_contents(mapping.diagnostics, "expected both cert_file and key_file"),
        };
        Some(ClientTls { ca_file: ca_file?, certificate, server_name: server_name? })
    })
}

/// Checks that a key belongs to a certificate.
fn check_key_pair(certificate: &Path, key: &Path) -> Result<(), String> {
    let (chain, key) = (files::certificates(certificate)?, files::private_key(key)?);
    match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err("the key does not belong to cert_file".to_owned()),
        Err(error) => Err(format!("cannot be used with cert_file: {error}")),
    }
}

/// Reads `proxy` or `proxy_file`.
fn proxy(mapping: &mut MappingReader<'_, '_>, directory: &Path) -> Option<Proxy> {
    let file = mapping.optional("proxy_file", None, |cursor, diagnostics| {
        let path = readable_file(cursor, diagnostics, directory, |path| files::url(path, UrlForm::Proxy))?;
        Some(Some((cursor.clone(), path)))
    });
    let proxy = mapping.optional("proxy", None, |cursor, diagnostics| match cursor.content() {
        Content::Scalar { value: Value::Bool(false) | Value::Null, .. } => Some(Some(Proxy::Off)),
        _ => match secret_string(cursor, diagnostics)? {
            "off" => Some(Some(Proxy::Off)),
            "environment" => Some(Some(Proxy::Environment)),
            _ => url(cursor, diagnostics, UrlForm::Proxy).map(|url| Some(Proxy::To(url))),
        },
    });
    match (file?, proxy?) {
        (Some((cursor, _)), Some(_)) => {
            cursor.reject_contents(mapping.diagnostics, "expected proxy or proxy_file, not both")
        }
        (Some((_, path)), None) => Some(Proxy::File(path)),
        (None, proxy) => Some(proxy.unwrap_or_default()),
    }
}

/// Reads the path of a file, and checks that `read` accepts the file.
fn readable_file<T>(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    directory: &Path,
    read: impl FnOnce(&Path) -> Result<T, String>,
) -> Option<PathBuf> {
    let path = directory.join(string(cursor, diagnostics)?);
    match read(&path) {
        Ok(_) => Some(path),
        Err(error) => cursor.reject(diagnostics, error),
    }
}
