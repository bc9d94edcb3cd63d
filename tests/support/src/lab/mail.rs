//! Real mail, sent with curl.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::command::output;
use super::ns::Ns;

/// Protection of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// No TLS, as between servers on port 25.
    Plain,
    /// Mandatory STARTTLS, as for submission on port 587.
    StartTls,
    /// TLS from the first byte, as on port 465.
    Tls,
}

/// One mail in its own connection.
#[derive(Debug, Clone, Copy)]
pub struct Mail<'a> {
    /// Server and port.
    pub server: SocketAddr,
    /// Protection of the connection.
    pub mode: Mode,
    /// Bytes of the message, including its header of about 150 bytes.
    pub size: usize,
    /// Envelope sender.
    pub from: &'a str,
    /// Envelope recipient.
    pub to: &'a str,
    /// Client address, if the client has several.
    pub source: Option<IpAddr>,
}

impl Mail<'_> {
    /// Creates a mail of 2 kB to the lab's server.
    #[must_use]
    pub fn to(server: SocketAddr, mode: Mode) -> Self {
        Self { server, mode, size: 2_000, from: "alice@corp.example", to: "bob@example.org", source: None }
    }
}

/// Sends one mail from inside a namespace; returns once the server has accepted it.
///
/// # Errors
/// curl fails, or the server refuses the mail.
pub fn send_mail(ns: &Ns, mail: &Mail<'_>) -> Result<()> {
    send_mails(ns, mail, 1)
}

/// Sends `count` equal mails over one connection.
///
/// # Errors
/// curl fails, or the server refuses a mail.
pub fn send_mails(ns: &Ns, mail: &Mail<'_>, count: usize) -> Result<()> {
    ensure!(count > 0, "no mail to send");
    let (scheme, tls) = match mail.mode {
        Mode::Plain => ("smtp", None),
        Mode::StartTls => ("smtp", Some("--ssl-reqd")),
        Mode::Tls => ("smtps", None),
    };
    let file = MessageFile::create(mail)?;
    let mut curl = ns.command("curl");
    // -q: no ~/.curlrc; the server's certificate is self-signed.
    curl.args(["-q", "--silent", "--show-error", "--insecure", "--noproxy", "*", "--max-time", "60"]);
    curl.args(tls);
    curl.args(["--mail-from", mail.from, "--mail-rcpt", mail.to]);
    if let Some(source) = mail.source {
        curl.args(["--interface", &source.to_string()]);
    }
    for _ in 0..count {
        curl.arg("--upload-file").arg(&file.0).arg(format!("{scheme}://{}", mail.server));
    }
    output(&mut curl)?;
    Ok(())
}

/// Message file, deleted after sending.
struct MessageFile(std::path::PathBuf);

impl MessageFile {
    fn create(mail: &Mail<'_>) -> Result<Self> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("mailflow-{}-{number}.eml", std::process::id());
        let path = std::env::temp_dir().join(name);
        let message = message(mail);
        std::fs::write(&path, message).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for MessageFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            eprintln!("lab: cannot remove {}: {error}", Path::display(&self.0));
        }
    }
}

/// Returns a message of exactly `mail.size` bytes (or of its header, if that is longer), in lines of 76
/// characters.
fn message(mail: &Mail<'_>) -> String {
    let mut text = format!(
        "From: <{}>\r\nTo: <{}>\r\nSubject: Quarterly figures\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\r\n",
        mail.from, mail.to
    );
    while text.len() + 2 < mail.size {
        let line = (mail.size - text.len() - 2).min(74);
        text.extend(("abcdefghijklmnopqrstuvwxyz ").chars().cycle().take(line));
        text.push_str("\r\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_has_requested_size() {
        let server = SocketAddr::from(([127, 0, 0, 1], 25));
        for size in [400, 1_999, 2_000, 2_001, 100_000] {
            let text = message(&Mail { size, ..Mail::to(server, Mode::Plain) });
            assert!(text.len().abs_diff(size) <= 2, "{size}: {}", text.len());
            assert!(text.ends_with("\r\n"), "{size}");
        }
    }
}
