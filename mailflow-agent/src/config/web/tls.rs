//! `tls_server_config`: certificates and client authentication.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};

use crate::config::{
    diagnostics::DiagnosticSink,
    yaml::{
        get::{Cursor, MappingReader},
        values::{choice, string},
    },
};

/// Client certificates, with the names of Go's TLS package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientAuth {
    NotRequested,
    IfGiven,
    Required,
}

const CLIENT_AUTH_TYPES: [(&str, ClientAuth); 3] = [
    ("NoClientCert", ClientAuth::NotRequested),
    ("VerifyClientCertIfGiven", ClientAuth::IfGiven),
    ("RequireAndVerifyClientCert", ClientAuth::Required),
];

/// TLS versions; the number is the index in [`SUPPORTED_VERSIONS`].
const VERSIONS: [(&str, usize); 2] = [("TLS12", 0), ("TLS13", 1)];
const SUPPORTED_VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// Reads the section, and returns the files that it names. Paths are relative to `directory`.
pub(crate) fn read(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    directory: &Path,
) -> Option<(Arc<ServerConfig>, Vec<PathBuf>)> {
    MappingReader::read(cursor, diagnostics, |mapping| {
        let mut files = Vec::new();
        let chain = mapping.required("cert_file", |cursor, diagnostics| {
            certificates(cursor, diagnostics, directory, &mut files)
        });
        let key = mapping.required("key_file", |cursor, diagnostics| {
            let path = resolve_file(cursor, diagnostics, directory, &mut files)?;
            match PrivateKeyDer::from_pem_file(path) {
                Ok(key) => Some((cursor.clone(), key)),
                Err(error) => cursor.reject(diagnostics, format!("cannot read the private key: {error}")),
            }
        });
        let roots = mapping.optional("client_ca_file", None, |cursor, diagnostics| {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(cursor, diagnostics, directory, &mut files)? {
                if let Err(error) = roots.add(certificate) {
                    return cursor.reject(diagnostics, format!("not a certificate of an authority: {error}"));
                }
            }
            Some(Some(roots))
        });
        let clients =
            mapping.optional("client_auth_type", (ClientAuth::NotRequested, None), |cursor, diagnostics| {
                choice(cursor, diagnostics, &CLIENT_AUTH_TYPES).map(|clients| (clients, Some(cursor.clone())))
            });
        let oldest =
            mapping.optional("min_version", 0, |cursor, diagnostics| choice(cursor, diagnostics, &VERSIONS));
        let newest =
            mapping.optional("max_version", 1, |cursor, diagnostics| choice(cursor, diagnostics, &VERSIONS));
        let (chain, (key_at, key), roots, (clients, clients_at)) = (chain?, key?, roots?, clients?);
        let versions = SUPPORTED_VERSIONS.get(oldest?..=newest?).filter(|versions| !versions.is_empty());
        let Some(versions) = versions else {
            return cursor.reject_contents(mapping.diagnostics, "max_version is older than min_version");
        };
        let clients = verifier(clients, clients_at.as_ref().unwrap_or(cursor), roots, mapping.diagnostics)?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .and_then(|builder| {
                match clients {
                    Some(clients) => builder.with_client_cert_verifier(clients),
                    None => builder.with_no_client_auth(),
                }
                .with_single_cert(chain, key)
            });
        match config {
            Ok(mut config) => {
                config.alpn_protocols = vec![b"http/1.1".to_vec()];
                Some((Arc::new(config), files))
            }
            Err(error) => {
                key_at.reject(mapping.diagnostics, format!("certificate and key cannot be used: {error}"))
            }
        }
    })
}

/// Returns the verifier of client certificates, if they are requested.
fn verifier(
    clients: ClientAuth,
    cursor: &Cursor<'_>,
    roots: Option<RootCertStore>,
    diagnostics: &mut DiagnosticSink,
) -> Option<Option<Arc<dyn ClientCertVerifier>>> {
    let roots = match (clients, roots) {
        (ClientAuth::NotRequested, None) => return Some(None),
        (ClientAuth::NotRequested, Some(_)) => {
            return cursor
                .reject_contents(diagnostics, "client_ca_file has no effect without client_auth_type");
        }
        (_, None) => return cursor.reject(diagnostics, "client_ca_file is missing"),
        (_, Some(roots)) => roots,
    };
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()));
    let builder = if clients == ClientAuth::IfGiven { builder.allow_unauthenticated() } else { builder };
    match builder.build() {
        Ok(verifier) => Some(Some(verifier)),
        Err(error) => cursor.reject(diagnostics, format!("client_ca_file cannot be used: {error}")),
    }
}

/// Reads the certificates of a PEM file, at least one.
fn certificates(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    directory: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<Vec<CertificateDer<'static>>> {
    let path = resolve_file(cursor, diagnostics, directory, files)?;
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(chain) if !chain.is_empty() => Some(chain),
        Ok(_) => cursor.reject(diagnostics, "the file contains no certificate"),
        Err(error) => cursor.reject(diagnostics, format!("cannot read the certificates: {error}")),
    }
}

fn resolve_file(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    directory: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<PathBuf> {
    let path = directory.join(string(cursor, diagnostics)?);
    files.push(path.clone());
    Some(path)
}
