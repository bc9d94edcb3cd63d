//! Readers of the files of an HTTP receiver: certificates, keys, tokens, passwords and URLs. The
//! configuration reads them to validate them, and the output reads them again at each use.

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

/// Maximum file size, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// Reads the certificates of a PEM file, at least one.
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
        Some(other) => Err(format!("contains {other}; expected a certificate in PEM form")),
        None => Err("contains no certificate in PEM form".to_owned()),
    }
}

fn parse(certificate: Option<&CertificateDer<'static>>, number: usize) -> Result<(), String> {
    let Some(certificate) = certificate else { return Ok(()) };
    // rustls parses X.509 version 3 only. An older certificate can still be pinned as a trusted server
    // certificate.
    match (x509_cert::Certificate::from_der(certificate), ParsedCertificate::try_from(certificate)) {
        (Err(error), Err(_)) => Err(format!("certificate {number} in it is damaged: {error}")),
        _ => Ok(()),
    }
}

/// Reads the private key of a PEM file.
///
/// # Errors
/// The reason, without the file's name.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let bytes = read(path)?;
    let found = sections(&bytes, "a private key", "pkey")?;
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok(key),
        Err(_) if String::from_utf8_lossy(&bytes).contains("ENCRYPTED PRIVATE KEY") => {
            Err("contains an encrypted private key; expected one without a passphrase".to_owned())
        }
        Err(_) => Err(match found.first() {
            Some((kind, _)) => format!("contains {}; expected a private key in PEM form", name(kind)),
            None => "contains no private key in PEM form".to_owned(),
        }),
    }
}

/// Reads a secret, which is the only line of a file.
///
/// # Errors
/// The reason, without the file's name and without the secret.
pub fn secret(path: &Path) -> Result<String, String> {
    let bytes = read(path)?;
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())?;
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let secret = lines.next().ok_or("is empty")?.trim_end().to_owned();
    match lines.count() {
        0 => Ok(secret),
        more => Err(format!("has {} lines; expected the secret on a single line", more + 1)),
    }
}

/// Reads a token, which must be valid in an HTTP header.
///
/// # Errors
/// The reason, without the file's name and without the secret.
pub fn token(path: &Path) -> Result<String, String> {
    let token = secret(path)?;
    if HeaderValue::from_str(&token).is_err() || token.contains(' ') {
        return Err("contains characters that are not allowed in a token".to_owned());
    }
    Ok(token)
}

/// Reads a URL.
///
/// # Errors
/// The reason, without the file's name and without the URL.
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

/// Returns the sections of a PEM file.
fn sections(bytes: &[u8], what: &str, command: &str) -> Result<Vec<(SectionKind, Vec<u8>)>, String> {
    // A DER sequence begins with 0x30 and contains bytes that are not text.
    if bytes.first() == Some(&0x30)
        && bytes.iter().any(|byte| !byte.is_ascii_graphic() && !byte.is_ascii_whitespace())
    {
        return Err(format!(
            "contains DER; expected {what} in PEM form (`openssl {command} -inform der -in FILE` converts it)"
        ));
    }
    let found: Result<Vec<_>, _> = <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes).collect();
    found.map_err(|error| format!("is not valid PEM: {error}"))
}

fn name(kind: &SectionKind) -> &'static str {
    match kind {
        SectionKind::Certificate => "a certificate",
        SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => "a private key",
        SectionKind::PublicKey => "a public key",
        SectionKind::Crl => "a revocation list",
        SectionKind::Csr => "a certificate request",
        _ => "other PEM data",
    }
}
