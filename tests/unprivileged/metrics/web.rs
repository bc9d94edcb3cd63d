//! HTTP server of the metrics with a web configuration, accessed with curl.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use mailflow_agent::{config, http::AccessControl};
use mailflow_test_support::temp_folder::TempFolder;

use crate::http::behind;

/// Published test vector of bcrypt for the password `U*U`.
const HASH: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

/// Temporary folder with an authority, a server certificate and a client certificate.
struct Folder(TempFolder);

impl Folder {
    fn new(name: &str) -> Self {
        Self(TempFolder::new(&format!("web-{name}")))
    }

    fn certificates(self) -> Self {
        self.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 2");
        for (name, extension) in
            [("server", "subjectAltName=IP:127.0.0.1"), ("client", "keyUsage=digitalSignature")]
        {
            fs::write(self.0.join("extension"), extension).unwrap();
            self.openssl(&format!("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"));
            self.openssl(&format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile extension"));
        }
        self
    }

    fn openssl(&self, line: &str) {
        let output = Command::new("openssl").args(line.split(' ')).current_dir(&self.0).output().unwrap();
        assert!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs curl; returns its exit status and the status of the answer.
    async fn curl(&self, options: &str, url: String) -> (Option<i32>, String) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--noproxy", "*", "--max-time", "10", "--output", "/dev/null"]);
        curl.args(["--write-out", "%{http_code}"])
            .args(options.split(' ').filter(|word| !word.is_empty()))
            .arg(url);
        curl.current_dir(&self.0);
        let output = tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }
}

fn ok(status: &str) -> (Option<i32>, String) {
    (Some(0), status.to_owned())
}

#[tokio::test]
async fn password_is_required() {
    let folder = Folder::new("password");
    let web = folder.write("web.yml", &format!("basic_auth_users:\n  scraper: {HASH}\n"));
    let server = behind(AccessControl::from_web_config(&web).unwrap()).await;
    let url = |path: &str| format!("http://{}{path}", server.addr);
    for path in ["/metrics", "/", "/-/healthy", "/nowhere"] {
        assert_eq!(folder.curl("", url(path)).await, ok("401"), "{path}");
    }
    assert_eq!(folder.curl("--user scraper:U*U", url("/metrics")).await, ok("200"));
    assert_eq!(folder.curl("--user scraper:U*U", url("/metrics")).await, ok("200"), "remembered");
    for wrong in ["scraper:U*V", "scraper:", "nobody:U*U", ":U*U"] {
        assert_eq!(folder.curl(&format!("--user {wrong}"), url("/metrics")).await, ok("401"), "{wrong}");
    }
    assert_eq!(folder.curl("--header Authorization:Bearer", url("/metrics")).await, ok("401"));

    // The file is read again after a change; an invalid one leaves the old settings in force.
    folder.write("web.yml", "basic_auth_users: { scraper: secret }\n");
    assert_eq!(folder.curl("--user scraper:U*U", url("/metrics")).await, ok("200"));
    assert_eq!(folder.curl("", url("/metrics")).await, ok("401"));
    folder.write("web.yml", &format!("basic_auth_users: {{ another: \"{HASH}\" }}\n"));
    assert_eq!(folder.curl("--user scraper:U*U", url("/metrics")).await, ok("401"), "gone");
    assert_eq!(folder.curl("--user another:U*U", url("/metrics")).await, ok("200"));
}

#[tokio::test]
async fn tls_requires_client_certificates() {
    let folder = Folder::new("tls").certificates();
    let web = folder.write("web.yml", "tls_server_config: { cert_file: server.pem, key_file: server.key }\n");
    let server = behind(AccessControl::from_web_config(&web).unwrap()).await;
    let url = || format!("https://{}/metrics", server.addr);
    assert_eq!(folder.curl("--cacert ca.pem", url()).await, ok("200"));
    assert_eq!(folder.curl("", url()).await.0, Some(60), "an unknown authority");
    assert_ne!(folder.curl("", format!("http://{}/metrics", server.addr)).await.1, "200", "not in the clear");

    folder.write(
        "web.yml",
        "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n  client_ca_file: ca.pem\n  \
         client_auth_type: RequireAndVerifyClientCert\n  min_version: TLS13\n",
    );
    assert_ne!(folder.curl("--cacert ca.pem", url()).await.1, "200", "without a certificate");
    let with = "--cacert ca.pem --cert client.pem --key client.key";
    assert_eq!(folder.curl(with, url()).await, ok("200"));
    assert_ne!(folder.curl(&format!("{with} --tls-max 1.2"), url()).await.1, "200", "too old");

    // A new certificate with the same name is used.
    let before = fs::read(folder.0.join("server.pem")).unwrap();
    let folder = folder.certificates();
    assert_ne!(fs::read(folder.0.join("server.pem")).unwrap(), before);
    assert_eq!(folder.curl(with, url()).await, ok("200"));
}

#[test]
fn web_configuration_errors_have_locations() {
    let folder = Folder::new("faults").certificates();
    folder.write("empty.pem", "nothing\n");
    let faults = |text: &str| {
        let path = folder.write("web.yml", text);
        let shown = config::web::load(&path).expect_err(text).to_string();
        shown.replace(&format!("{}:", path.display()), "")
    };
    for (text, expected) in [
        (
            "basic_auth_users:\n  me: secret\n",
            "2:7: basic_auth_users.me: expected a bcrypt hash, as `htpasswd -nB USER` prints it",
        ),
        ("basic_auth_user: {}\n", "1:1: basic_auth_user: unknown key; did you mean basic_auth_users?"),
        (
            "tls_server_config:\n  cert_file: none.pem\n  key_file: server.key\n",
            "2:14: tls_server_config.cert_file: \"none.pem\": cannot read the certificates: ",
        ),
        (
            "tls_server_config:\n  cert_file: server.pem\n  key_file: empty.pem\n",
            "3:13: tls_server_config.key_file: \"empty.pem\": cannot read the private key: ",
        ),
        (
            "tls_server_config:\n  cert_file: server.pem\n  key_file: client.key\n",
            "3:13: tls_server_config.key_file: \"client.key\": certificate and key cannot be used: ",
        ),
        ("tls_server_config:\n  cert_file: server.pem\n", "2:3: tls_server_config.key_file: is missing"),
        (
            "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n  client_auth_type: RequireAndVerifyClientCert\n",
            "4:21: tls_server_config.client_auth_type: \"RequireAndVerifyClientCert\": client_ca_file is missing",
        ),
        (
            "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n  cipher_suites: []\n",
            "4:3: tls_server_config.cipher_suites: unknown key; expected one of ",
        ),
        (
            "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n  min_version: TLS13\n  max_version: TLS12\n",
            "2:3: tls_server_config: max_version is older than min_version",
        ),
    ] {
        let shown = faults(text);
        assert!(shown.starts_with(expected), "{text}\n{shown}\n{expected}");
        assert!(!shown.contains("secret"), "a password is not repeated: {shown}");
    }
    let missing = config::web::load(Path::new("/nonexistent/web.yml")).unwrap_err();
    assert!(missing.to_string().starts_with("/nonexistent/web.yml: cannot be read: "), "{missing}");

    // Through the configuration: equal errors, under the web configuration's name.
    folder.write("web.yml", "basic_auth_users: { me: secret }\n");
    let main = folder.write("agent.yaml", "outputs: { metrics: { web_config: web.yml } }\n");
    let shown = config::load(Some(&main)).unwrap_err().to_string();
    assert!(shown.starts_with(&format!("{}:1:25: ", folder.0.join("web.yml").display())), "{shown}");
}
