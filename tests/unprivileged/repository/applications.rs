//! docs/understand/applications.md gives the class of `classify` for every combination of facts.

use std::fmt::Write;

use mailflow_agent::config;
use mailflow_common::{App, Facts, Family, classify, first_payload, upgrade};
use mailflow_engine::settings::Service;

const DOCUMENT: &str = include_str!("../../../docs/understand/applications.md");

/// First payload classes, with their names on the page.
const OPENINGS: [(u8, &str); 7] = [
    (first_payload::TLS, "TLS"),
    (first_payload::SMTP, "SMTP"),
    (first_payload::POP3, "POP3"),
    (first_payload::IMAP, "IMAP"),
    (first_payload::OTHER, "other"),
    (first_payload::UNREAD, "unread"),
    (first_payload::NONE, "none"),
];
/// First payload classes of a client: the program does not classify a client's POP3 or IMAP.
const CLIENT: [u8; 5] = [
    first_payload::TLS,
    first_payload::SMTP,
    first_payload::OTHER,
    first_payload::UNREAD,
    first_payload::NONE,
];
const FAMILIES: [Family; 3] = [Family::Smtp, Family::Pop3, Family::Imap];

/// Returns the class of a flow with these first bytes on a port of this family.
fn class(server: u8, client: u8, family: Family) -> String {
    let of = |syn, upgrade| {
        let facts =
            Facts { syn, first_payload_down: server, first_payload_up: client, upgrade, ..Facts::NONE };
        classify(&facts, family).name()
    };
    for syn in [0, 1] {
        assert_eq!(of(syn, upgrade::NONE), of(syn, upgrade::ASKED), "asking alone changes nothing");
    }
    let (plain, upgraded, without_syn) =
        (of(1, upgrade::NONE), of(1, upgrade::FOLLOWED), of(0, upgrade::NONE));
    let mut text = format!("`{plain}`");
    if upgraded != plain {
        write!(text, ", then `{upgraded}`").unwrap();
    }
    if without_syn != plain {
        write!(text, "; `{without_syn}` without SYN").unwrap();
    }
    assert_eq!(of(0, upgrade::FOLLOWED) == upgraded, without_syn == plain, "the page has no words for it");
    text
}

/// Returns the rows of a table of the page, after its header.
fn rows(head: &str) -> Vec<&'static str> {
    let (_, rest) = DOCUMENT.split_once(head).unwrap_or_else(|| panic!("no table `{head}`"));
    rest.lines().skip(2).take_while(|line| line.starts_with('|')).collect()
}

#[test]
fn documented_facts_give_the_agents_class() {
    let mut expected = Vec::new();
    for (server, server_name) in OPENINGS {
        for (client, client_name) in OPENINGS.into_iter().filter(|(fact, _)| CLIENT.contains(fact)) {
            let classes = FAMILIES.map(|family| class(server, client, family)).join(" | ");
            expected.push(format!("| {server_name} | {client_name} | {classes} |"));
        }
    }
    let found = rows("| server's first bytes | client's first bytes | SMTP port | POP3 port | IMAP port |");
    assert_eq!(found, expected, "the table should be\n{}\n", expected.join("\n"));
    for app in App::ALL {
        assert!(
            expected.iter().any(|row| row.contains(&format!("`{}`", app.name()))),
            "{app:?} never occurs"
        );
    }
}

#[test]
fn documented_ports_equal_built_in_configuration() {
    let configured = config::load(None).unwrap().engine.services;
    let expected: Vec<String> = Service::ALL
        .into_iter()
        .map(|service| {
            let ports = configured.iter().filter(|(_, found)| **found == service);
            let ports: Vec<String> = ports.map(|(port, _)| port.to_string()).collect();
            let family = match service.family() {
                Family::Smtp => "SMTP",
                Family::Pop3 => "POP3",
                Family::Imap => "IMAP",
            };
            format!("| `{}` | {} | {family} |", service.name(), ports.join(", "))
        })
        .collect();
    assert_eq!(rows("| service | ports | family |"), expected);
}
