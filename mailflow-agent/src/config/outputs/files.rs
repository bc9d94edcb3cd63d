//! Files that a receiver of HTTP requests needs: certificates, keys, tokens, passwords and addresses. The
//! configuration parses them when it is read, and the sink when it uses them.

use std::{fs, path::Path};

use hyper::http::HeaderValue;
use rustls::{
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{PemObject, SectionKind},
    },
    server::ParsedCertificate,
};
use x509_cert::der::Decode;

use super::url::{Url, UrlForm};

/// Longest file that is read.
const MAX_BYTES: u64 = 4 << 20;

/// The certificates of a PEM file; at least one.
///
/// # Errors
/// The reason, without the file's name.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let mut found = Vec::new();
    let mut other = None;
    for (kind, der) in sections(&bytes, "a certificate", "x509")? {
        match kind {
            SectionKind::Certificate => {
                found.push(CertificateDer::from(der));
                parse(found.last(), found.len())?;
            }
            kind => other = Some(name(&kind)),
        }
    }
    match other {
        _ if !found.is_empty() => Ok(found),
        Some(other) => Err(format!("holds {other}; expected a certificate in PEM form")),
        None => Err("holds no certificate in PEM form".to_owned()),
    }
}

fn parse(certificate: Option<&CertificateDer<'static>>, number: usize) -> Result<(), String> {
    let Some(certificate) = certificate else { return Ok(()) };
    // rustls parses version 3 only; an older certificate can still be listed as itself.
    match (x509_cert::Certificate::from_der(certificate), ParsedCertificate::try_from(certificate)) {
        (Err(error), Err(_)) => Err(format!("certificate {number} in it is damaged: {error}")),
        _ => Ok(()),
    }
}

/// The private key of a PEM file.
///
/// # Errors
/// The reason, without the file's name.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let bytes = read(path)?;
    let found = sections(&bytes, "a private key", "pkey")?;
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok(key),
        Err(_) if String::from_utf8_lossy(&bytes).contains("ENCRYPTED PRIVATE KEY") => {
            Err("holds an encrypted private key; expected one without a passphrase".to_owned())
        }
        Err(_) => Err(match found.first() {
            Some((kind, _)) => format!("holds {}; expected a private key in PEM form", name(kind)),
            None => "holds no private key in PEM form".to_owned(),
        }),
    }
}

/// The secret in a file: its only line.
///
/// # Errors
/// The reason, without the file's name and without the secret.
pub fn secret(path: &Path) -> Result<String, String> {
    let bytes = read(path)?;
    let text = String::from_utf8(bytes).map_err(|_| "is no text in UTF-8".to_owned())?;
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let secret = lines.next().ok_or("is empty")?.trim_end().to_owned();
    match lines.count() {
        0 => Ok(secret),
        more => Err(format!("has {} lines; expected the secret on a single line", more + 1)),
    }
}

/// A secret that stands in a header by itself.
///
/// # Errors
/// The reason, without the file's name and without the secret.
pub fn token(path: &Path) -> Result<String, String> {
    let token = secret(path)?;
    if HeaderValue::from_str(&token).is_err() || token.contains(' ') {
        return Err("holds characters that no token has".to_owned());
    }
    Ok(token)
}

/// The address in a file.
///
/// # Errors
/// The reason, without the file's name and without the address.
pub fn url(path: &Path, form: UrlForm) -> Result<Url, String> {
    Url::parse(&secret(path)?, form)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |error: std::io::Error| format!("cannot be read: {error}");
    let about = fs::metadata(path).map_err(wrong)?;
    if about.is_dir() {
        return Err("is a directory".to_owned());
    }
    if about.len() > MAX_BYTES {
        return Err(format!("is longer than {} MiB", MAX_BYTES >> 20));
    }
    let bytes = fs::read(path).map_err(wrong)?;
    if bytes.iter().all(u8::is_ascii_whitespace) { Err("is empty".to_owned()) } else { Ok(bytes) }
}

/// The sections of a PEM file.
fn sections(bytes: &[u8], what: &str, command: &str) -> Result<Vec<(SectionKind, Vec<u8>)>, String> {
    // A sequence in DER begins with 0x30, and what is in it is no text.
    if bytes.first() == Some(&0x30)
        && bytes.iter().any(|byte| !byte.is_ascii_graphic() && !byte.is_ascii_whitespace())
    {
        return Err(format!(
            "holds DER; expected {what} in PEM form (`openssl {command} -inform der -in FILE` converts it)"
        ));
    }
    let found: Result<Vec<_>, _> = <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes).collect();
    found.map_err(|error| format!("is damaged PEM: {error}"))
}

fn name(kind: &SectionKind) -> &'static str {
    match kind {
        SectionKind::Certificate => "a certificate",
        SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => "a private key",
        SectionKind::PublicKey => "a public key",
        SectionKind::Crl => "a revocation list",
        SectionKind::Csr => "a certificate request",
        _ => "something else",
    }
}
