//! Application classes from the names of other tools, and the TCP facts that stand for a class.

use mailflow_common::{App, Facts, Family, first_payload, upgrade};

use mailflow_engine::settings::Service;

/// Returns the class of a flow on a port of `service`, by the names that another tool gave it.
///
/// TLS without the name of a mail protocol gives the class of the port. TLS with such a name, or on a port
/// of an unencrypted service, means an upgrade to TLS (STARTTLS). A name after a minus was withdrawn (Zeek).
pub(crate) fn classify_names<'a>(names: impl IntoIterator<Item = &'a str>, service: Service) -> App {
    let (mut family, mut tls, mut other) = (None, false, false);
    for name in names {
        match name {
            "smtp" => family = Some(Family::Smtp),
            "pop3" => family = Some(Family::Pop3),
            "imap" => family = Some(Family::Imap),
            "tls" | "ssl" => tls = true,
            "" | "-" | "failed" | "unknown" => {}
            withdrawn if withdrawn.starts_with('-') => {}
            _ => other = true,
        }
    }
    match (family, tls) {
        (Some(family), false) => plain(family),
        (Some(family), true) => upgraded(family),
        (None, _) if other => App::Other,
        (None, false) => App::Unseen,
        (None, true) => match service {
            Service::Smtps => App::Smtps,
            Service::Pop3s => App::Pop3s,
            Service::Imaps => App::Imaps,
            Service::Smtp | Service::Submission | Service::Pop3 | Service::Imap => upgraded(service.family()),
        },
    }
}

/// Sets the facts that give the class `app`; `client` if it is known from the client's first payload.
pub(crate) fn set_facts(app: App, client: bool, facts: &mut Facts) {
    let spoken = match app {
        App::Smtp | App::SmtpStartTls => first_payload::SMTP,
        App::Pop3 | App::Pop3Stls => first_payload::POP3,
        App::Imap | App::ImapStartTls => first_payload::IMAP,
        App::Smtps | App::Pop3s | App::Imaps => first_payload::TLS,
        App::Other => first_payload::OTHER,
        App::Unseen => first_payload::NONE,
    };
    *(if client { &mut facts.first_payload_up } else { &mut facts.first_payload_down }) = spoken;
    if matches!(app, App::SmtpStartTls | App::Pop3Stls | App::ImapStartTls) {
        facts.upgrade = upgrade::FOLLOWED;
    }
}

const fn plain(family: Family) -> App {
    match family {
        Family::Smtp => App::Smtp,
        Family::Pop3 => App::Pop3,
        Family::Imap => App::Imap,
    }
}

const fn upgraded(family: Family) -> App {
    match family {
        Family::Smtp => App::SmtpStartTls,
        Family::Pop3 => App::Pop3Stls,
        Family::Imap => App::ImapStartTls,
    }
}

#[cfg(test)]
mod tests {
    use mailflow_common::classify;

    use super::*;

    #[test]
    fn tls_is_classified_by_the_port() {
        let tls = |service| [classify_names(["tls"], service), classify_names(["ssl"], service)];
        for (service, app) in [
            (Service::Smtps, App::Smtps),
            (Service::Smtp, App::SmtpStartTls),
            (Service::Submission, App::SmtpStartTls),
            (Service::Pop3s, App::Pop3s),
            (Service::Pop3, App::Pop3Stls),
            (Service::Imaps, App::Imaps),
            (Service::Imap, App::ImapStartTls),
        ] {
            assert_eq!(tls(service), [app; 2], "{service:?}");
        }
    }

    #[test]
    fn mail_protocols_have_precedence() {
        assert_eq!(classify_names(["smtp"], Service::Smtps), App::Smtp);
        assert_eq!(classify_names(["ssl", "smtp"], Service::Smtp), App::SmtpStartTls);
        assert_eq!(classify_names(["gssapi", "smtp"], Service::Smtp), App::Smtp);
        assert_eq!(classify_names(["pop3", "ssl"], Service::Pop3), App::Pop3Stls);
        assert_eq!(classify_names(["imap"], Service::Imap), App::Imap);
    }

    #[test]
    fn no_name_is_unseen_and_any_other_name_is_other() {
        for names in [vec![], vec!["failed"], vec!["-"], vec!["unknown"], vec!["-smtp"]] {
            assert_eq!(classify_names(names, Service::Smtp), App::Unseen);
        }
        for names in [vec!["http"], vec!["ssh"], vec!["ssl", "http"]] {
            assert_eq!(classify_names(names, Service::Smtp), App::Other);
        }
    }

    #[test]
    fn facts_are_classified_as_the_application_that_they_stand_for() {
        for app in App::ALL {
            let mut facts = Facts { syn: 1, ..Facts::default() };
            set_facts(app, false, &mut facts);
            let family = match app {
                App::Pop3s => Family::Pop3,
                App::Imaps => Family::Imap,
                _ => Family::Smtp,
            };
            assert_eq!(classify(&facts, family), app);
        }
    }
}
