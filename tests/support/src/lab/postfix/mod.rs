//! The distribution's Postfix, run from an unpacked package: nothing is installed on the host.
//!
//! It runs in its own mount namespace, where `/mnt` has the package and the server's folder. `/etc/passwd`
//! and `/etc/group` there name the users that Postfix requires. The host does not see these mounts.

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

/// User and group ids of Postfix inside its mount namespace: numbers that are rarely in use.
const POSTFIX: u32 = 62_525;
const POSTDROP: u32 = 62_526;

/// Directories of the queue with the owner, group and mode of Postfix's own setup.
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

/// Ports of [`Postfix`]: relay, implicit TLS, submission.
const PORTS: [u16; 3] = [25, 465, 587];

/// Names and settings of a mail server.
#[derive(Debug, Clone, Copy)]
pub struct PostfixOptions<'a> {
    /// Folder within the lab's folder, unique among the servers of a lab.
    pub name: &'a str,
    /// Host name in the greeting and in the certificate.
    pub hostname: &'a str,
    /// Domain whose mail the server accepts for any recipient, and discards; other domains are refused.
    pub domain: &'a str,
    /// Further lines for `main.cf`, which override the lab's.
    pub settings: &'a str,
    /// Further lines for `master.cf`.
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

/// Running Postfix on ports 25 (STARTTLS offered), 587 (STARTTLS mandatory) and 465 (TLS). Dropping the value
/// stops it.
#[derive(Debug)]
pub struct Postfix {
    master: Running,
    log: PathBuf,
}

impl Postfix {
    /// Starts Postfix in a namespace; returns once every port greets. `folder` is the lab's.
    ///
    /// # Errors
    /// Postfix does not start, or does not greet within 15 seconds: the error has its log.
    pub fn start(ns: &Ns, package: &Package, folder: &Path, options: &PostfixOptions<'_>) -> Result<Self> {
        let home = folder.join(options.name);
        prepare(&home, package, options)?;
        let log = home.join("maillog");
        // Arguments instead of text in the script: the paths may contain any character.
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

    /// Returns the log so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns the number of mails that were accepted and discarded so far.
    #[must_use]
    pub fn delivered(&self) -> usize {
        self.log().lines().filter(|line| line.contains("status=sent")).count()
    }

    /// Lets Postfix run after this value is dropped.
    pub fn leave(self) {
        self.master.leave();
    }

    fn greets(&mut self, ns: &Ns, port: u16) -> Result<Option<()>> {
        if let Some(status) = self.master.ended()? {
            bail!("Postfix has ended: {status}");
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let Ok(stream) = ns.enter(|| TcpStream::connect(address))? else { return Ok(None) };
        // On port 465 the client speaks first: the connection must suffice.
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

/// Start script: `$1` is the unpacked package, `$2` the server's folder. `/mnt` is mounted last, as it may
/// hide the repository. `exec` keeps the process id.
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

/// Creates a self-signed certificate of the usual size.
fn certify(etc: &Path, hostname: &str) -> Result<()> {
    let mut openssl = command("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]);
    openssl.args(["-subj", &format!("/CN={hostname}"), "-addext", &format!("subjectAltName=DNS:{hostname}")]);
    openssl.arg("-keyout").arg(etc.join("key.pem")).arg("-out").arg(etc.join("certificate.pem"));
    output(&mut openssl)?;
    Ok(())
}
