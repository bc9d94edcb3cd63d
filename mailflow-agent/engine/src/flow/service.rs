//! Mail services and their ports.

use std::collections::BTreeMap;

use mailflow_common::Family;

/// Mail service, by which metrics sum the traffic of its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// SMTP between servers, port 25 (RFC 5321).
    Smtp,
    /// Mail submission, port 587 (RFC 6409).
    Submission,
    /// SMTP over implicit TLS, ports 465 (RFC 8314) and 994.
    Smtps,
    /// POP3, port 110.
    Pop3,
    /// POP3 over implicit TLS, port 995.
    Pop3s,
    /// IMAP, port 143.
    Imap,
    /// IMAP over implicit TLS, port 993.
    Imaps,
}

impl Service {
    /// All services.
    pub const ALL: [Service; 7] = [
        Service::Smtp,
        Service::Submission,
        Service::Smtps,
        Service::Pop3,
        Service::Pop3s,
        Service::Imap,
        Service::Imaps,
    ];

    /// Returns the name in configuration and metrics.
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

    /// Returns the application family of implicit TLS on the service's ports.
    pub const fn family(self) -> Family {
        match self {
            Service::Smtp | Service::Submission | Service::Smtps => Family::Smtp,
            Service::Pop3 | Service::Pop3s => Family::Pop3,
            Service::Imap | Service::Imaps => Family::Imap,
        }
    }
}

/// Watched ports with their services.
pub type Services = BTreeMap<u16, Service>;
