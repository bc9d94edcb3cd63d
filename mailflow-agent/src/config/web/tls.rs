//! `tls_server_config`: certificates and whom they are shown to.

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
    diagnostics::Collector,
    yaml::{
        get::{At, Fields},
        values::{choice, string},
    },
};

/// Who must show a certificate, under the names that Go's TLS gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clients {
    Anybody,
    IfGiven,
    Required,
}

const CLIENTS: [(&str, Clients); 3] = [
    ("NoClientCert", Clients::Anybody),
    ("VerifyClientCertIfGiven", Clients::IfGiven),
    ("RequireAndVerifyClientCert", Clients::Required),
];

/// Versions by their names; the number is the place in `SUPPORTED`.
const VERSIONS: [(&str, usize); 2] = [("TLS12", 0), ("TLS13", 1)];
const SUPPORTED: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// Reads the section, and tells the files it names; they are relative to `directory`.
pub(crate) fn read(
    at: &At<'_>,
    faults: &mut Collector,
    directory: &Path,
) -> Option<(Arc<ServerConfig>, Vec<PathBuf>)> {
    Fields::read(at, faults, |fields| {
        let mut files = Vec::new();
        let chain = fields.needed("cert_file", |at, faults| certificates(at, faults, directory, &mut files));
        let key = fields.needed("key_file", |at, faults| {
            let path = named(at, faults, directory, &mut files)?;
            match PrivateKeyDer::from_pem_file(path) {
                Ok(key) => Some((at.clone(), key)),
                Err(error) => at.fault(faults, format!("no private key can be read: {error}")),
            }
        });
        let roots = fields.or("client_ca_file", None, |at, faults| {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(at, faults, directory, &mut files)? {
                if let Err(error) = roots.add(certificate) {
                    return at.fault(faults, format!("not a certificate of an authority: {error}"));
                }
            }
            Some(Some(roots))
        });
        let clients = fields.or("client_auth_type", (Clients::Anybody, None), |at, faults| {
            choice(at, faults, &CLIENTS).map(|clients| (clients, Some(at.clone())))
        });
        let oldest = fields.or("min_version", 0, |at, faults| choice(at, faults, &VERSIONS));
        let newest = fields.or("max_version", 1, |at, faults| choice(at, faults, &VERSIONS));
        let (chain, (key_at, key), roots, (clients, clients_at)) = (chain?, key?, roots?, clients?);
        let versions = SUPPORTED.get(oldest?..=newest?).filter(|versions| !versions.is_empty());
        let Some(versions) = versions else {
            return at.fault_inside(fields.faults, "max_version is older than min_version");
        };
        let clients = verifier(clients, clients_at.as_ref().unwrap_or(at), roots, fields.faults)?;
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
            Err(error) => key_at.fault(fields.faults, format!("certificate and key cannot be used: {error}")),
        }
    })
}

/// Who checks clients' certificates, if anybody does.
fn verifier(
    clients: Clients,
    at: &At<'_>,
    roots: Option<RootCertStore>,
    faults: &mut Collector,
) -> Option<Option<Arc<dyn ClientCertVerifier>>> {
    let roots = match (clients, roots) {
        (Clients::Anybody, None) => return Some(None),
        (Clients::Anybody, Some(_)) => {
            return at.fault_inside(faults, "client_ca_file has no effect without client_auth_type");
        }
        (_, None) => return at.fault(faults, "client_ca_file is missing"),
        (_, Some(roots)) => roots,
    };
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()));
    let builder = if clients == Clients::IfGiven { builder.allow_unauthenticated() } else { builder };
    match builder.build() {
        Ok(verifier) => Some(Some(verifier)),
        Err(error) => at.fault(faults, format!("client_ca_file cannot be used: {error}")),
    }
}

/// The certificates of a PEM file; at least one.
fn certificates(
    at: &At<'_>,
    faults: &mut Collector,
    directory: &Path,
    files: &mut Vec<PathBuf>,
) -> Option<Vec<CertificateDer<'static>>> {
    let path = named(at, faults, directory, files)?;
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(chain) if !chain.is_empty() => Some(chain),
        Ok(_) => at.fault(faults, "there is no certificate in it"),
        Err(error) => at.fault(faults, format!("no certificate can be read: {error}")),
    }
}

fn named(at: &At<'_>, faults: &mut Collector, directory: &Path, files: &mut Vec<PathBuf>) -> Option<PathBuf> {
    let path = directory.join(string(at, faults)?);
    files.push(path.clone());
    Some(path)
}
