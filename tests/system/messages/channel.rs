//! Both ends of a session without a network: each write becomes the payload of TCP segments. TLS is real.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use rustls::{
    CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, Error,
    ServerConfig, ServerConnection, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use mailflow_test_support::lab::{command, output};

/// Kinds of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tls {
    /// TLS 1.3 with AES-GCM.
    V13,
    /// TLS 1.3 with a client certificate.
    V13Certificate,
    /// TLS 1.3 whose server requests another key share.
    V13Retry,
    /// TLS 1.3 with a ClientHello as long as one with a post-quantum key share.
    V13LongHello,
    /// TLS 1.2 with AES-GCM.
    V12,
    /// TLS 1.2 with ChaCha20-Poly1305.
    V12ChaCha,
    /// TLS 1.2 with a client certificate.
    V12Certificate,
    /// TLS 1.2 with AES-CBC, HMAC-SHA1 and RSA key exchange, by its lengths (RFC 5246, 6.2.3.2).
    V12Cbc,
}

/// Certificate and key of both sides.
pub(super) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    pub(super) fn generate() -> Self {
        // Tests of one process run in parallel.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(format!("mailflow-messages-{process}-{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        let mut openssl = command("openssl");
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=mx.example.org",
        ]);
        openssl.args(["-addext", "subjectAltName=DNS:mx.example.org"]);
        output(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate)).unwrap();
        let chain = CertificateDer::from_pem_file(&certificate).unwrap();
        let key = PrivateKeyDer::from_pem_file(&key).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        // As long as a chain with an intermediate certificate.
        Self { chain: vec![chain.clone(), chain.clone(), chain], key }
    }
}

/// Verifier that accepts every certificate: only lengths matter here.
#[derive(Debug)]
struct Trust(Vec<SignatureScheme>);

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

impl ClientCertVerifier for Trust {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

fn provider(kind: Tls) -> CryptoProvider {
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(|suite| match (kind, suite.suite()) {
        (Tls::V12ChaCha, suite) => suite == CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        (Tls::V12 | Tls::V12Certificate, suite) => {
            suite == CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
        }
        (_, suite) => suite == CipherSuite::TLS13_AES_256_GCM_SHA384,
    });
    provider
}

fn ends(kind: Tls, identity: &Identity) -> (ClientConnection, ServerConnection) {
    let (near, mut far) = (provider(kind), provider(kind));
    let trust = Arc::new(Trust(near.signature_verification_algorithms.supported_schemes()));
    if kind == Tls::V13Retry {
        far.kx_groups.retain(|group| group.name() == rustls::NamedGroup::secp384r1);
    }
    let versions = match kind {
        Tls::V12 | Tls::V12ChaCha | Tls::V12Certificate => &[&rustls::version::TLS12],
        _ => &[&rustls::version::TLS13],
    };
    let certified = matches!(kind, Tls::V13Certificate | Tls::V12Certificate);
    let client =
        ClientConfig::builder_with_provider(Arc::new(near)).with_protocol_versions(versions).unwrap();
    let client = client.dangerous().with_custom_certificate_verifier(trust.clone());
    let mut client = if certified {
        client.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key()).unwrap()
    } else {
        client.with_no_client_auth()
    };
    if kind == Tls::V13LongHello {
        // ML-KEM-768's key share has 1,184 bytes. ring has none: protocol names replace it.
        client.alpn_protocols = (0..6).map(|number| vec![b'a' + number; 200]).collect();
    }
    let server = ServerConfig::builder_with_provider(Arc::new(far)).with_protocol_versions(versions).unwrap();
    let server =
        if certified { server.with_client_cert_verifier(trust) } else { server.with_no_client_auth() };
    let mut server = server.with_single_cert(identity.chain.clone(), identity.key.clone_key()).unwrap();
    server.ticketer = ring::Ticketer::new().unwrap();
    let name = ServerName::try_from("mx.example.org").unwrap();
    (ClientConnection::new(Arc::new(client), name).unwrap(), ServerConnection::new(Arc::new(server)).unwrap())
}

enum Protection {
    None,
    Tls(Box<(ClientConnection, ServerConnection)>),
    Cbc,
}

/// Fragmentation of the server's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// No fragmentation.
    Whole,
    /// Fragmentation after this many bytes.
    After(usize),
}

/// Packets sent so far: `true` for the client's.
pub(super) struct Channel {
    pub(super) packets: Vec<(bool, Vec<u8>)>,
    protection: Protection,
    pub(super) cut: Cut,
}

/// Payload of a full segment.
const SEGMENT: usize = 1_448;

impl Channel {
    pub(super) fn new(cut: Cut) -> Self {
        Self { packets: Vec::new(), protection: Protection::None, cut }
    }

    pub(super) fn is_encrypted(&self) -> bool {
        !matches!(self.protection, Protection::None)
    }

    /// Adds unmodified bytes as packets.
    pub(super) fn push(&mut self, up: bool, bytes: &[u8]) {
        let (first, rest) = match self.cut {
            Cut::After(length) if !up && bytes.len() > length => bytes.split_at(length),
            _ => (bytes, &[][..]),
        };
        for part in [first, rest] {
            self.packets.extend(part.chunks(SEGMENT).map(|packet| (up, packet.to_vec())));
        }
    }

    /// Sends text from one end to the other.
    pub(super) fn send(&mut self, up: bool, text: &[u8]) {
        let sealed = self.seal(up, text);
        self.push(up, &sealed);
        self.deliver(up, &sealed);
    }

    fn seal(&mut self, up: bool, text: &[u8]) -> Vec<u8> {
        use std::io::Write;
        match &mut self.protection {
            Protection::None => text.to_vec(),
            Protection::Tls(ends) if up => {
                ends.0.writer().write_all(text).unwrap();
                drain(&mut ends.0)
            }
            Protection::Tls(ends) => {
                ends.1.writer().write_all(text).unwrap();
                drain(&mut ends.1)
            }
            // A 16-byte initialisation vector, then text, a 20-byte MAC, and padding to blocks of 16.
            Protection::Cbc => text
                .chunks(16_384)
                .flat_map(|text| record(0x17, 16 + (text.len() + 21).div_ceil(16) * 16))
                .collect(),
        }
    }

    /// Delivers bytes to the other end, and sends its immediate reply.
    fn deliver(&mut self, up: bool, bytes: &[u8]) {
        let Protection::Tls(ends) = &mut self.protection else { return };
        let answer = if up {
            feed(&mut ends.1, bytes);
            drain(&mut ends.1)
        } else {
            feed(&mut ends.0, bytes);
            drain(&mut ends.0)
        };
        if !answer.is_empty() {
            self.push(!up, &answer);
            self.deliver(!up, &answer);
        }
    }

    /// Starts TLS. If the client sends the last flight, `behind` follows in the same packet, and the function
    /// returns true.
    pub(super) fn handshake(&mut self, kind: Tls, identity: &Identity, behind: Option<&[u8]>) -> bool {
        if kind == Tls::V12Cbc {
            // ClientKeyExchange with a premaster secret of 256 bytes under RSA (RFC 5246, 7.4.7.1).
            let flights = [
                (true, record(0x16, 200)),
                (false, record(0x16, 3_000)),
                (true, [record(0x16, 262), record(0x14, 1), record(0x16, 64)].concat()),
                (false, [record(0x14, 1), record(0x16, 64)].concat()),
            ];
            flights.iter().for_each(|(up, flight)| self.push(*up, flight));
            self.protection = Protection::Cbc;
            return false;
        }
        self.protection = Protection::Tls(Box::new(ends(kind, identity)));
        loop {
            let Protection::Tls(ends) = &mut self.protection else { return false };
            let flight = drain(&mut ends.0);
            let is_last = !ends.0.is_handshaking();
            let (up, down) = (ends.0.is_handshaking(), ends.1.is_handshaking());
            if !up && !down && flight.is_empty() {
                return false;
            }
            self.push(true, &flight);
            if is_last && let Some(text) = behind {
                let text = self.seal(true, text);
                self.push(true, &text);
                self.deliver(true, &flight);
                self.deliver(true, &text);
                return true;
            }
            let Protection::Tls(ends) = &mut self.protection else { return false };
            feed(&mut ends.1, &flight);
            let answer = drain(&mut ends.1);
            feed(&mut ends.0, &answer);
            self.push(false, &answer);
        }
    }
}

/// Returns a TLS record of a type with pseudo-random bytes.
fn record(kind: u8, length: usize) -> Vec<u8> {
    let mut record = vec![kind, 3, 3];
    record.extend((length as u16).to_be_bytes());
    record.extend((0..length).map(|at| (at * 151 + 77) as u8));
    record
}

fn drain<D>(end: &mut rustls::ConnectionCommon<D>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while end.wants_write() {
        end.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn feed<D>(end: &mut rustls::ConnectionCommon<D>, mut bytes: &[u8]) {
    use std::io::{BufRead, Read};
    while !bytes.is_empty() {
        end.read_tls(&mut bytes).unwrap();
        let state = end.process_new_packets().unwrap();
        let mut text = vec![0; state.plaintext_bytes_to_read()];
        end.reader().read_exact(&mut text).unwrap();
        let _ = end.reader().fill_buf().map(<[u8]>::len);
    }
}
