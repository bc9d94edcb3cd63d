//! TLS to receivers: verification of their certificates, and the error messages.

use std::{
    fs,
    io::Read,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use mailflow_agent::config::{
    AlertDestination, ClientTls, DeadLetters, Profile, Receiver as Settings, WebhookAddress,
    outputs::{
        files,
        url::{Url, UrlForm},
    },
};
use mailflow_test_support::temp_folder::TempFolder;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use crate::{
    http::Receiver,
    peer::{alert, event, logged, numbers, sink, until},
};

/// Temporary folder with a certificate authority.
struct Folder(TempFolder);

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

impl Folder {
    fn new(name: &str) -> Self {
        let folder = Self(TempFolder::new(&format!("tls-{name}")));
        folder.openssl(&format!("req -x509 {KEY} -keyout ca.key -out ca.pem -subj /CN=authority -days 2"));
        folder
    }

    fn openssl(&self, line: &str) {
        let output = Command::new("openssl").args(line.split(' ')).current_dir(&self.0).output().unwrap();
        assert!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Creates a certificate of the authority with this extension.
    fn certificate(&self, name: &str, extension: &str, dates: &str) {
        fs::write(self.0.join("extension"), extension).unwrap();
        self.openssl(&format!("req {KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -extfile extension {dates}"
        ));
    }

    /// Creates a self-signed certificate.
    fn itself(&self, name: &str, more: &str) {
        self.openssl(&format!("req -x509 {KEY} -keyout {name}.key -out {name}.pem -subj /CN={name} {more}"));
    }

    /// Creates a certificate for the loopback that is valid between two years, issued by the authority or
    /// self-signed.
    fn dated(&self, name: &str, years: [u16; 2], by: &str) {
        let text = "[ca]\ndefault_ca = own\n[own]\ndatabase = index\nserial = serial\nnew_certs_dir = .\n\
                    default_md = sha256\npolicy = any\ncopy_extensions = copy\n[any]\ncommonName = supplied\n";
        for (file, text) in [("ca.cnf", text), ("index", ""), ("serial", "01\n")] {
            fs::write(self.path(file), text).unwrap();
        }
        self.openssl(&format!(
            "req {KEY} -keyout {name}.key -out {name}.csr -subj /CN={name} -addext subjectAltName=IP:127.0.0.1"
        ));
        let by = if by == "itself" {
            format!("-selfsign -keyfile {name}.key")
        } else {
            "-cert ca.pem -keyfile ca.key".into()
        };
        let [from, to] = years.map(|year| format!("{year}0101000000Z"));
        self.openssl(&format!(
            "ca -batch -notext -config ca.cnf -in {name}.csr -out {name}.pem {by} -startdate {from} -enddate {to}"
        ));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Starts a receiver with this certificate; if `asks` is set, it requires a client certificate of the
    /// authority.
    fn receiver(&self, name: &str, asks: bool) -> Receiver {
        let chain = CertificateDer::pem_file_iter(self.path(&format!("{name}.pem"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = if asks {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        Receiver::encrypted(builder.with_single_cert(chain.map(Result::unwrap).collect(), key).unwrap())
    }

    fn trusting(&self, ca: &str) -> ClientTls {
        ClientTls { ca_file: Some(self.path(ca)), ..ClientTls::default() }
    }
}

fn webhook(url: &str, tls: ClientTls) -> AlertDestination {
    let url = WebhookAddress::Inline(Url::parse(url, UrlForm::Webhook).unwrap());
    let receiver = Settings { tls, timeout: Duration::from_secs(20), ..Settings::default() };
    AlertDestination::Webhook { url, receiver, profile: Profile::Eve, dead_letters: DeadLetters::Off }
}

/// Posts an alert; returns the error if it was not delivered.
fn posted(port: u16, host: &str, tls: ClientTls) -> Result<(), String> {
    let before = logged(&format!(":{port}:")).len();
    let sink = sink(webhook(&format!("https://{host}:{port}/"), tls));
    sink.push(event(&alert(1)));
    let errors = || logged(&format!(":{port}:")).split_off(before);
    until("an answer", || numbers(&sink).0 == 1 || !errors().is_empty());
    if numbers(&sink).0 == 1 { Ok(()) } else { Err(errors().remove(0)) }
}

#[test]
fn listed_certificate_is_accepted() {
    let folder = Folder::new("itself");
    // `openssl req -x509` creates a CA certificate.
    folder.itself("self", "-days 2 -addext subjectAltName=IP:127.0.0.1");
    folder.itself(
        "leaf",
        "-days 2 -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE",
    );
    folder.itself("nameless", "-days 2");
    folder.certificate("issued", "subjectAltName=IP:127.0.0.1", "-days 2");
    for name in ["self", "leaf", "nameless", "issued"] {
        let receiver = folder.receiver(name, false);
        let port = receiver.addr.port();
        assert_eq!(posted(port, "127.0.0.1", folder.trusting(&format!("{name}.pem"))), Ok(()), "{name}");
        // Another certificate is rejected; each one of several is accepted.
        folder.itself("other", "-days 2 -addext subjectAltName=IP:127.0.0.1");
        let error = posted(port, "127.0.0.1", folder.trusting("other.pem")).unwrap_err();
        assert!(error.contains("unknown issuer") || error.contains("a CA certificate"), "{name}: {error}");
        let [one, two] =
            [format!("{name}.pem"), "other.pem".to_owned()].map(|name| fs::read(folder.path(&name)).unwrap());
        fs::write(folder.path("several.pem"), [two, b"\n".to_vec(), one].concat()).unwrap();
        assert_eq!(posted(port, "127.0.0.1", folder.trusting("several.pem")), Ok(()), "{name} among several");
    }
    // By the issuing authority.
    let receiver = folder.receiver("issued", false);
    assert_eq!(posted(receiver.addr.port(), "127.0.0.1", folder.trusting("ca.pem")), Ok(()));
}

#[test]
fn tls_errors_are_explained() {
    let folder = Folder::new("words");
    folder.certificate("good", "subjectAltName=IP:127.0.0.1", "-days 2");
    folder.certificate("named", "subjectAltName=DNS:other.example,DNS:third.example", "-days 2");
    folder.dated("expired", [2020, 2021], "authority");
    folder.dated("old", [2020, 2021], "itself");
    folder.dated("early", [2048, 2049], "itself");
    folder.itself("elsewhere", "-days 2 -addext subjectAltName=DNS:other.example");
    for (name, ca, expected) in [
        ("good", "elsewhere.pem", "unknown issuer"),
        ("named", "ca.pem", "for other.example, third.example and not for 127.0.0.1"),
        ("expired", "ca.pem", "has expired ("),
        ("old", "old.pem", "has expired (2021-01-01T00:00:00Z)"),
        ("early", "early.pem", "not valid yet (2048-01-01T00:00:00Z)"),
        ("elsewhere", "elsewhere.pem", "for other.example and not for 127.0.0.1"),
    ] {
        let receiver = folder.receiver(name, false);
        let error = posted(receiver.addr.port(), "127.0.0.1", folder.trusting(ca)).unwrap_err();
        assert!(error.contains(expected), "{name}: {error}");
    }
    // The expected name of the certificate.
    for name in ["named", "elsewhere"] {
        let receiver = folder.receiver(name, false);
        let tls = ClientTls {
            server_name: Some("other.example".into()),
            ..folder.trusting(if name == "named" { "ca.pem" } else { "elsewhere.pem" })
        };
        assert_eq!(posted(receiver.addr.port(), "127.0.0.1", tls), Ok(()), "{name}");
    }
    // A receiver without TLS, and one that ends the connection.
    let plain = Receiver::anywhere(200);
    let error = posted(plain.addr.port(), "127.0.0.1", folder.trusting("ca.pem")).unwrap_err();
    assert!(error.contains("does not speak TLS") || error.contains("ended the connection"), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A close with unread bytes would be an RST.
            let _ = (&stream).read(&mut [0; 4_096]);
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    });
    let error = posted(port, "127.0.0.1", folder.trusting("ca.pem")).unwrap_err();
    assert!(error.contains("ended the connection in the TLS handshake"), "{error}");
    // A receiver that requires a client certificate.
    folder.certificate("client", "keyUsage=digitalSignature", "-days 2");
    let receiver = folder.receiver("good", true);
    let certificate = Some((folder.path("client.pem"), folder.path("client.key")));
    let tls = ClientTls { certificate, ..folder.trusting("ca.pem") };
    assert_eq!(posted(receiver.addr.port(), "127.0.0.1", tls), Ok(()));
    let error = posted(receiver.addr.port(), "127.0.0.1", folder.trusting("ca.pem")).unwrap_err();
    assert!(error.contains("requires a client certificate"), "{error}");
}

#[test]
fn certificate_key_and_secret_files_are_validated() {
    let folder = Folder::new("files");
    folder.openssl("x509 -in ca.pem -outform der -out ca.der");
    folder.openssl("pkey -in ca.key -outform der -out key.der");
    folder.openssl(&format!("req {KEY} -keyout request.key -out request.pem -subj /CN=a"));
    folder.openssl("pkey -in ca.key -aes256 -passout pass:x -out locked.key");
    let read = |name: &str| fs::read_to_string(folder.path(name)).unwrap();
    for (name, text) in [
        ("empty", String::new()),
        ("blank", " \n\n".into()),
        ("words", "no certificate\n".into()),
        ("cut.pem", read("ca.pem")[..200].into()),
        ("damaged.pem", "-----BEGIN CERTIFICATE-----\nMAAw\n-----END CERTIFICATE-----\n".into()),
        ("two", "s3cret\nand more\n".into()),
        ("one", "s3cret\n\n".into()),
        ("spaced", "s3 cret\n".into()),
        ("control", "s3\u{1}cret\n".into()),
        ("both.pem", format!("{}{}", read("ca.key"), read("ca.pem"))),
        ("twice.pem", format!("{}# a comment\n{}", read("ca.pem"), read("ca.pem"))),
    ] {
        fs::write(folder.path(name), text).unwrap();
    }
    fs::write(folder.path("binary"), [0xff, 0xfe, 0]).unwrap();
    type Kind = fn(&Path) -> Result<usize, String>;
    let certificates: Kind = |path| files::certificates(path).map(|found| found.len());
    let key: Kind = |path| files::private_key(path).map(|_| 1);
    let secret: Kind = |path| files::secret(path).map(|secret| secret.len());
    let token: Kind = |path| files::token(path).map(|token| token.len());
    for (name, kind, expected) in [
        ("ca.pem", certificates, Ok(1)),
        ("twice.pem", certificates, Ok(2)),
        ("both.pem", certificates, Ok(1)),
        ("ca.der", certificates, Err("contains DER; expected a certificate in PEM form")),
        ("ca.key", certificates, Err("contains a private key; expected a certificate")),
        ("request.pem", certificates, Err("contains a certificate request; expected a certificate")),
        ("empty", certificates, Err("is empty")),
        ("blank", certificates, Err("is empty")),
        ("words", certificates, Err("contains no certificate in PEM form")),
        ("cut.pem", certificates, Err("is not valid PEM")),
        ("damaged.pem", certificates, Err("certificate 1 in it is damaged")),
        ("nosuch", certificates, Err("cannot be read: No such file")),
        (".", certificates, Err("is a directory")),
        ("ca.key", key, Ok(1)),
        ("both.pem", key, Ok(1)),
        ("ca.pem", key, Err("contains a certificate; expected a private key")),
        ("key.der", key, Err("contains DER; expected a private key")),
        ("locked.key", key, Err("an encrypted private key")),
        ("empty", key, Err("is empty")),
        ("words", key, Err("contains no private key")),
        ("one", secret, Ok(6)),
        ("spaced", secret, Ok(7)),
        ("two", secret, Err("has 2 lines; expected the secret on a single line")),
        ("blank", secret, Err("is empty")),
        ("binary", secret, Err("is not UTF-8 text")),
        ("one", token, Ok(6)),
        ("spaced", token, Err("characters that are not allowed in a token")),
        ("control", token, Err("characters that are not allowed in a token")),
    ] {
        match (kind(&folder.path(name)), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{name}"),
            (Err(found), Err(expected)) => {
                assert!(found.contains(expected) && !found.contains("s3"), "{name}: {found}");
            }
            (found, expected) => panic!("{name}: {found:?} is not {expected:?}"),
        }
    }
}
