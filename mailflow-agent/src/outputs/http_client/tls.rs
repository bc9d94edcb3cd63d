//! TLS to receivers: trusted certificates, and error messages.

use std::{io, sync::Arc};

use anyhow::{anyhow, bail};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_cert::der::Decode;

use crate::config::{ClientTls, outputs::files};

/// Creates the TLS configuration. The files are read each time, because certificates may change.
pub(crate) fn config(tls: &ClientTls) -> anyhow::Result<Arc<ClientConfig>> {
    let named = |path: &std::path::Path, error: String| anyhow!("{}: {error}", path.display());
    let listed_certificates = match &tls.ca_file {
        Some(path) => files::certificates(path).map_err(|error| named(path, error))?,
        None => {
            let system = rustls_native_certs::load_native_certs();
            if let (true, Some(error)) = (system.certs.is_empty(), system.errors.first()) {
                bail!("the system's certificate authorities cannot be read: {error}");
            }
            system.certs
        }
    };
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(listed_certificates.iter().cloned());
    // Server certificates alone do not make a trust store.
    let authorities =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let verifier = ListedCertificateVerifier {
        servers: if tls.ca_file.is_some() { listed_certificates } else { Vec::new() },
        authorities: authorities.ok(),
        provider: Arc::clone(&provider),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &tls.certificate {
        Some((certificate, key)) => {
            let chain = files::certificates(certificate).map_err(|error| named(certificate, error))?;
            let private = files::private_key(key).map_err(|error| named(key, error))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| named(key, error.to_string()))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Verifier that trusts listed server certificates, and certificates issued by listed authorities.
///
/// A listed certificate needs no authority: neither a chain nor the absence of the CA flag is checked
/// (`openssl req -x509` sets it). The certificate must be valid at the time. It must have the server's name
/// unless it has no name at all.
#[derive(Debug)]
struct ListedCertificateVerifier {
    servers: Vec<CertificateDer<'static>>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ListedCertificateVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.servers.iter().any(|listed| listed.as_ref() == end_entity.as_ref()) {
            return verify_listed_certificate(end_entity, server_name, now);
        }
        match &self.authorities {
            Some(authorities) => {
                authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies validity period and name of a listed certificate.
fn verify_listed_certificate(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let parsed = x509_cert::Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let validity = parsed.tbs_certificate.validity;
    let seconds = |time: x509_cert::time::Time| time.to_unix_duration().as_secs();
    let (not_before, not_after) = (seconds(validity.not_before), seconds(validity.not_after));
    let unix = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    if now.as_secs() < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before: unix(not_before) }.into());
    }
    if now.as_secs() > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after: unix(not_after) }.into());
    }
    match verify_server_name(&ParsedCertificate::try_from(certificate)?, name) {
        Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }))
            if presented.is_empty() =>
        {
            Ok(ServerCertVerified::assertion())
        }
        other => other.map(|()| ServerCertVerified::assertion()),
    }
}

/// Describes an error of a TLS handshake.
pub(crate) fn describe_handshake_error(error: &io::Error) -> String {
    describe_tls_error(error).unwrap_or_else(|| match error.kind() {
        io::ErrorKind::UnexpectedEof => "the server ended the connection in the TLS handshake".to_owned(),
        _ => format!("TLS: {error}"),
    })
}

/// Describes a TLS error. Returns `None` for other errors.
pub(crate) fn describe_tls_error(error: &io::Error) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(inner) = cause {
        if let Some(error) = inner.downcast_ref::<Error>() {
            return Some(describe(error));
        }
        cause = inner.source();
    }
    None
}

/// Describes an error of rustls.
fn describe(error: &Error) -> String {
    use CertificateError as Reason;
    match error {
        Error::InvalidCertificate(reason) => match reason {
            Reason::Expired | Reason::ExpiredContext { .. } => {
                let date_suffix = match reason {
                    Reason::ExpiredContext { not_after, .. } => date(*not_after),
                    _ => String::new(),
                };
                format!("the server's certificate has expired{date_suffix}")
            }
            Reason::NotValidYet | Reason::NotValidYetContext { .. } => {
                let date_suffix = match reason {
                    Reason::NotValidYetContext { not_before, .. } => date(*not_before),
                    _ => String::new(),
                };
                format!("the server's certificate is not valid yet{date_suffix}; compare this machine's clock")
            }
            Reason::NotValidForName => "the server's certificate is for another name".to_owned(),
            Reason::NotValidForNameContext { expected, presented } => {
                let expected = expected.to_str();
                if presented.is_empty() {
                    format!("the server's certificate has no name, so it is not valid for {expected}")
                } else {
                    let presented: Vec<_> = presented.iter().map(|name| escape_name(name)).collect();
                    format!(
                        "the server's certificate is for {} and not for {expected} (tls.server_name names \
                         another)",
                        presented.join(", ")
                    )
                }
            }
            Reason::UnknownIssuer => {
                "the server's certificate is from an unknown issuer (tls.ca_file names authorities and certificates \
                 to trust)"
                    .to_owned()
            }
            Reason::BadEncoding => "the server's certificate is damaged".to_owned(),
            Reason::BadSignature => "the server's certificate has a bad signature".to_owned(),
            Reason::Revoked => "the server's certificate was revoked".to_owned(),
            other if other.to_string().contains("CaUsedAsEndEntity") => {
                "the server's certificate is a CA certificate (list this certificate in tls.ca_file to \
                 trust it)"
                    .to_owned()
            }
            other => format!("the server's certificate is not accepted: {other}"),
        },
        Error::InvalidMessage(_) => "the server does not speak TLS at this port".to_owned(),
        Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                "the server requires a client certificate (tls.cert_file)".to_owned()
            }
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::AccessDenied => {
                format!("the server does not accept the client certificate ({alert:?})")
            }
            AlertDescription::UnrecognisedName => "the server does not know this name (tls.server_name)".to_owned(),
            AlertDescription::ProtocolVersion => "the server supports neither TLS 1.2 nor TLS 1.3".to_owned(),
            other => format!("the server refuses TLS ({other:?})"),
        },
        Error::PeerIncompatible(why) => format!("the server supports no common TLS parameters ({why:?})"),
        other => format!("TLS: {other}"),
    }
}

/// Formats a date in brackets.
fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| String::new(), |time| format!(" ({time})"))
}

/// Formats a name of a certificate on one line.
fn escape_name(name: &str) -> String {
    let inner = name.strip_prefix("DnsName(\"").and_then(|rest| rest.strip_suffix("\")"));
    inner.unwrap_or(name).escape_debug().take(100).collect()
}
