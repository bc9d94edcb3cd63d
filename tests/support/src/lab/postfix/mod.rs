//! The distribution's Postfix, run from an unpacked package: nothing is installed on the host.
//!
//! It runs in a mount namespace of its own, where `/mnt` holds the package and this server's folder, and
//! `/etc/passwd` and `/etc/group` name the users that Postfix insists on. The host sees none of it.

mod package;

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

pub use package::Package;

use super::command::{Running, command, output, wait_for};
use super::ns::Ns;

const MAIN_CF: &str = include_str!("main.cf");
const MASTER_CF: &str = include_str!("master.cf");

/// User and groups of Postfix inside its mount namespace. Numbers few hosts give out.
const POSTFIX: u32 = 62_525;
const POSTDROP: u32 = 62_526;

/// The queue's directories with the owner, group and mode that Postfix's own set-up gives them.
const QUEUE: &[(&str, u32, u32, u32)] = &[
    ("pid", 0, 0, 0o755),
    ("active", POSTFIX, 0, 0o700),
    ("bounce", POSTFIX, 0, 0o700),
    ("corrupt", POSTFIX, 0, 0o700),
    ("defer", POSTFIX, 0, 0o700),
    ("deferred", POSTFIX, 0, 0o700),
    ("flush", POSTFIX, 0, 0o700),
    ("hold", POSTFIX, 0, 0o700),
    ("incoming", POSTFIX, 0, 0o700),
    ("maildrop", POSTFIX, POSTDROP, 0o730),
    ("private", POSTFIX, 0, 0o700),
    ("public", POSTFIX, POSTDROP, 0o710),
    ("saved", POSTFIX, 0, 0o700),
    ("trace", POSTFIX, 0, 0o700),
];

/// Ports of [`Postfix`]: relay, TLS from the first byte, submission.
const PORTS: [u16; 3] = [25, 465, 587];

/// What a mail server calls itself and takes mail for.
#[derive(Debug, Clone, Copy)]
pub struct PostfixOptions<'a> {
    /// Its folder within the lab's, and so different for each server of a lab.
    pub name: &'a str,
    /// Host name, in the greeting and in the certificate.
    pub hostname: &'a str,
    /// The domain whose mail it accepts from anyone, for any recipient, and discards; others it refuses.
    pub domain: &'a str,
    /// More lines for `main.cf`; they win over the lab's.
    pub settings: &'a str,
    /// More lines for `master.cf`.
    pub services: &'a str,
}

impl Default for PostfixOptions<'_> {
    fn default() -> Self {
        Self {
            name: "postfix",
            hostname: "mx.example.org",
            domain: "example.org",
            settings: "",
            services: "",
        }
    }
}

/// A running Postfix on ports 25 (STARTTLS offered), 587 (STARTTLS demanded) and 465 (TLS). It ends with this
/// value.
#[derive(Debug)]
pub struct Postfix {
    master: Running,
    log: PathBuf,
}

impl Postfix {
    /// Starts it in a namespace; returns when every port greets. `folder` is the lab's.
    ///
    /// # Errors
    /// It does not start, or does not greet within 15 seconds: the error holds its log.
    pub fn start(ns: &Ns, package: &Package, folder: &Path, options: &PostfixOptions<'_>) -> Result<Self> {
        let home = folder.join(options.name);
        prepare(&home, package, options)?;
        let log = home.join("maillog");
        // Arguments, not text pasted into the script: the paths may hold anything.
        let mut shell = ns.command("unshare");
        shell.args(["--mount", "--propagation", "private", "sh", "-euc", SCRIPT, "sh"]);
        shell.arg(package.root()).arg(&home);
        let mut postfix = Self { master: Running::start(shell, &log)?, log };
        for port in PORTS {
            let what = format!("Postfix answers on port {port}");
            let answered = wait_for(&what, Duration::from_secs(60), || postfix.greets(ns, port));
            answered.with_context(|| format!("its log:\n{}", postfix.log()))?;
        }
        Ok(postfix)
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How many mails it has accepted and delivered (to nowhere) so far.
    #[must_use]
    pub fn delivered(&self) -> usize {
        self.log().lines().filter(|line| line.contains("status=sent")).count()
    }

    /// Lets it run on after this value is gone.
    pub fn leave(self) {
        self.master.leave();
    }

    fn greets(&mut self, ns: &Ns, port: u16) -> Result<Option<()>> {
        if let Some(status) = self.master.ended()? {
            bail!("Postfix has ended: {status}");
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let Ok(stream) = ns.enter(|| TcpStream::connect(address))? else { return Ok(None) };
        // On 465 the client speaks first: to connect must do.
        if port == 465 {
            return Ok(Some(()));
        }
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut greeting = String::new();
        BufReader::new(stream).read_line(&mut greeting)?;
        ensure!(greeting.starts_with("220 "), "port {port} greets with {greeting:?}");
        Ok(Some(()))
    }
}

/// `$1` is the unpacked package, `$2` the server's folder. `/mnt` comes last, for it may hide the repository
/// itself. `exec` keeps the process id.
const SCRIPT: &str = "
    mount --bind \"$2/etc/passwd\" /etc/passwd
    mount --bind \"$2/etc/group\" /etc/group
    mount -t tmpfs -o mode=755 lab \"$2/mnt\"
    mkdir \"$2/mnt/package\" \"$2/mnt/home\"
    mount --bind \"$1\" \"$2/mnt/package\"
    mount --bind \"$2\" \"$2/mnt/home\"
    mount --rbind \"$2/mnt\" /mnt
    export LD_LIBRARY_PATH=$(cat /mnt/home/etc/libraries)
    exec /mnt/package/usr/lib/postfix/sbin/master -d -c /mnt/home/etc
";

/// Writes the server's folder: configuration, certificate, empty queue.
fn prepare(home: &Path, package: &Package, options: &PostfixOptions<'_>) -> Result<()> {
    let (etc, queue) = (home.join("etc"), home.join("queue"));
    create(&etc, 0, 0, 0o755)?;
    create(&queue, 0, 0, 0o755)?;
    create(&home.join("mnt"), 0, 0, 0o755)?;
    create(&home.join("data"), POSTFIX, POSTFIX, 0o700)?;
    for &(name, owner, group, mode) in QUEUE {
        create(&queue.join(name), owner, group, mode)?;
    }
    let PostfixOptions { hostname, domain, settings, services, .. } = options;
    let libraries = package.libraries("/mnt/package")?;
    let environment = format!("MAIL_CONFIG TZ LANG=C LD_LIBRARY_PATH={libraries}");
    let names = format!("myhostname = {hostname}\nvirtual_mailbox_domains = {domain}\n");
    let files = [
        ("main.cf", format!("{MAIN_CF}{names}import_environment = {environment}\n{settings}")),
        ("master.cf", format!("{MASTER_CF}{services}")),
        ("libraries", libraries),
        ("passwd", format!("root:x:0:0::/:\npostfix:x:{POSTFIX}:{POSTFIX}::/:\nnobody:x:65534:65534::/:\n")),
        ("group", format!("root:x:0:\npostfix:x:{POSTFIX}:\npostdrop:x:{POSTDROP}:\nnogroup:x:65534:\n")),
    ];
    for (name, text) in files {
        std::fs::write(etc.join(name), text).with_context(|| etc.join(name).display().to_string())?;
    }
    certify(&etc, hostname)
}

fn create(folder: &Path, owner: u32, group: u32, mode: u32) -> Result<()> {
    let made = std::fs::create_dir_all(folder)
        .and_then(|()| chown(folder, Some(owner), Some(group)))
        .and_then(|()| std::fs::set_permissions(folder, PermissionsExt::from_mode(mode)));
    made.with_context(|| format!("cannot create {}", folder.display()))
}

/// A self-signed certificate of the usual size.
fn certify(etc: &Path, hostname: &str) -> Result<()> {
    let mut openssl = command("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]);
    openssl.args(["-subj", &format!("/CN={hostname}"), "-addext", &format!("subjectAltName=DNS:{hostname}")]);
    openssl.arg("-keyout").arg(etc.join("key.pem")).arg("-out").arg(etc.join("certificate.pem"));
    output(&mut openssl)?;
    Ok(())
}
