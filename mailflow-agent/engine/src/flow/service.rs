//! Mail services and the ports they are watched on.

use std::collections::BTreeMap;

use mailflow_common::Family;

/// A service: the name under which its ports are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// Mail between servers, port 25.
    Smtp,
    /// Mail submission, port 587 (RFC 6409).
    Submission,
    /// SMTP inside TLS, ports 465 (RFC 8314) and 994.
    Smtps,
    /// POP3, port 110.
    Pop3,
    /// POP3 inside TLS, port 995.
    Pop3s,
    /// IMAP, port 143.
    Imap,
    /// IMAP inside TLS, port 993.
    Imaps,
}

impl Service {
    /// Every service.
    pub const ALL: [Service; 7] = [
        Service::Smtp,
        Service::Submission,
        Service::Smtps,
        Service::Pop3,
        Service::Pop3s,
        Service::Imap,
        Service::Imaps,
    ];

    /// The name in configuration and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Service::Smtp => "smtp",
            Service::Submission => "submission",
            Service::Smtps => "smtps",
            Service::Pop3 => "pop3",
            Service::Pop3s => "pop3s",
            Service::Imap => "imap",
            Service::Imaps => "imaps",
        }
    }

    /// The family that TLS from the first byte belongs to on its ports.
    pub const fn family(self) -> Family {
        match self {
            Service::Smtp | Service::Submission | Service::Smtps => Family::Smtp,
            Service::Pop3 | Service::Pop3s => Family::Pop3,
            Service::Imap | Service::Imaps => Family::Imap,
        }
    }
}

/// The watched ports.
pub type Services = BTreeMap<u16, Service>;
