//! JSON by HTTP POST, with a time limit for everything.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use super::single::Failure;
use crate::config::{ClientTls, Credentials, Receiver};

/// How long a request may take, from the look-up of the name to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How much of an answer that refuses is logged.
const SHOWN: u64 = 500;

/// Posts to one address.
pub(super) struct Post {
    url: String,
    receiver: Receiver,
    /// Made at the first request, and again after a failure: certificates may have changed.
    agent: Option<ureq::Agent>,
}

impl Post {
    /// Posts to `url` as `receiver` describes it.
    pub(super) fn new(url: String, receiver: Receiver) -> Self {
        Self { url, receiver, agent: None }
    }

    /// Posts `body`.
    pub(super) fn send(&mut self, body: &str) -> Result<(), Failure> {
        let agent = match self.agent.take() {
            Some(agent) => agent,
            None => agent(&self.receiver.tls, self.url.starts_with("https:"))?,
        };
        self.post(&agent, body)?;
        self.agent = Some(agent);
        Ok(())
    }

    fn post(&self, agent: &ureq::Agent, body: &str) -> Result<(), Failure> {
        let mut request = agent.post(&self.url).header("content-type", "application/json");
        for (name, value) in &self.receiver.headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = authorization(&self.receiver.credentials)? {
            request = request.header("authorization", authorization);
        }
        let mut answer = request.send(body).with_context(|| self.url.clone())?;
        let status = answer.status();
        // Read to its end, the connection serves for the next request.
        let said = answer.body_mut().with_config().limit(SHOWN).read_to_string().unwrap_or_default();
        if status.is_success() {
            return Ok(());
        }
        let error = anyhow!("{}: {status}: {}", self.url, said.trim().escape_debug());
        match status.as_u16() {
            // This one, and not its sender, its place or its time, is what is wrong.
            400 | 413 | 415 | 422 => Err(Failure::Refused(error)),
            _ => Err(Failure::Again(error)),
        }
    }
}

fn agent(tls: &ClientTls, encrypted: bool) -> anyhow::Result<ureq::Agent> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        // What is posted is for those who are named, and nobody else.
        .max_redirects(0)
        .user_agent(concat!("mailflow-agent/", env!("CARGO_PKG_VERSION")));
    let config = if encrypted { config.tls_config(tls_config(tls)?) } else { config };
    Ok(config.build().new_agent())
}

fn tls_config(tls: &ClientTls) -> anyhow::Result<TlsConfig> {
    let roots = match &tls.ca_file {
        Some(path) => certificates(path)?,
        None => {
            let found = rustls_native_certs::load_native_certs();
            if let (true, Some(error)) = (found.certs.is_empty(), found.errors.first()) {
                bail!("the system's certificate authorities cannot be read: {error}");
            }
            found.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect()
        }
    };
    let client = match &tls.certificate {
        Some((certificate, key)) => {
            let pem = fs::read(key).with_context(|| key.display().to_string())?;
            let key = PrivateKey::from_pem(&pem).with_context(|| key.display().to_string())?;
            Some(ClientCert::new_with_certs(&certificates(certificate)?, key))
        }
        None => None,
    };
    Ok(TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(&roots))
        .client_cert(client)
        .build())
}

fn certificates(path: &PathBuf) -> anyhow::Result<Vec<Certificate<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.with_context(|| path.display().to_string())?;
    Ok(found.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect())
}

/// The header's value. Secrets are read each time, as they may be changed at any moment.
fn authorization(credentials: &Credentials) -> anyhow::Result<Option<String>> {
    Ok(match credentials {
        Credentials::None => None,
        Credentials::Basic { username, password_file } => {
            let password = secret(password_file)?;
            Some(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
        }
        Credentials::Bearer { token_file } => Some(format!("Bearer {}", secret(token_file)?)),
    })
}

/// The first line of a file.
fn secret(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
