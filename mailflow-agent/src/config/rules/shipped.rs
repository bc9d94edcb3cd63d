//! Warnings about a rule list that replaces the shipped one, and about watched ports that no rule uses.

use std::collections::BTreeSet;

use serde_yaml::Value;

use crate::config::{
    diagnostics::Diagnostic,
    yaml::{
        get::MappingReader,
        tree::{Content, Node},
    },
};
use mailflow_engine::settings::{Rule, Service, Services};

/// Rule of the shipped list.
struct ShippedRule<'a> {
    name: &'a str,
    enabled: bool,
    /// True if its `match` has a size test.
    sized: bool,
}

/// Warns about each shipped rule that the file's own list omits, and about an omitted size test.
pub(crate) fn warn_of_replaced_rules(mapping: &mut MappingReader<'_, '_>) {
    let shipped = mapping.shipped_entry("rules").map(|entry| shipped_rules(&entry.value)).unwrap_or_default();
    let Some(at) = mapping.explicit("rules") else { return };
    let Content::List(own) = at.content() else { return };
    let named = |name: &str| own.iter().find(|rule| text(rule, "name") == Some(name));
    let replaced: Vec<String> =
        shipped.iter().filter(|rule| named(rule.name).is_none()).map(describe).collect();
    if !replaced.is_empty() {
        at.warn(
            mapping.diagnostics,
            format!(
                "this list replaces the shipped one; not evaluated any more: {}. To keep them, copy them from \
                 `mailflow-agent print-config`",
                replaced.join(", ")
            ),
        );
    }
    for rule in shipped.iter().filter(|rule| rule.sized) {
        if let Some(own) = named(rule.name)
            && own.get("match").is_none_or(|entry| entry.value.get("size").is_none())
        {
            let path = format!("{}.{}", at.path(), rule.name);
            let expected =
                "the size test of the shipped rule of this name is gone: flows of any size count. To \
                            keep it, add `size: {}` to its match"
                    .to_owned();
            let location = mapping.diagnostics.location(own.position);
            mapping.diagnostics.warn(Diagnostic { location, path, value: None, expected });
        }
    }
}

fn describe(rule: &ShippedRule<'_>) -> String {
    let mut more = Vec::new();
    if rule.sized {
        more.push("with its size test");
    }
    if !rule.enabled {
        more.push("off as shipped");
    }
    let more = if more.is_empty() { String::new() } else { format!(" ({})", more.join(", ")) };
    format!("{}{more}", rule.name)
}

fn shipped_rules(rules: &Node) -> Vec<ShippedRule<'_>> {
    let mut shipped = Vec::new();
    for rule in list(rules) {
        let Some(name) = text(rule, "name") else { continue };
        let enabled = rule.get("enabled").and_then(|entry| scalar(&entry.value));
        let enabled = enabled.is_none_or(|(_, value)| *value != Value::Bool(false));
        let sized = rule.get("match").is_some_and(|entry| entry.value.get("size").is_some());
        shipped.push(ShippedRule { name, enabled, sized });
    }
    shipped
}

/// Warns about watched ports that no enabled rule uses: the ports that the file adds. If the file has its own
/// rules, the ports of the shipped rules are checked too. The shipped ports of POP3 and IMAP are watched only
/// for the metrics, so they cause no warning.
pub(crate) fn warn_of_unused(mapping: &mut MappingReader<'_, '_>, services: &Services, rules: &[Rule]) {
    let used: BTreeSet<u16> = rules.iter().flat_map(|rule| rule.matching.ports.iter().copied()).collect();
    let own_rules = mapping.explicit("rules");
    // An empty list has a warning of its own.
    if rules.is_empty() && own_rules.is_some() {
        return;
    }
    let shipped_use =
        mapping.shipped_entry("rules").map(|entry| shipped_ports(&entry.value)).unwrap_or_default();
    let shipped_services = mapping.shipped_entry("watched_ports").map(|entry| &entry.value);
    let own_ports = mapping.explicit("watched_ports");
    for service in Service::ALL {
        let own = own_ports.as_ref().and_then(|at| match at.content() {
            Content::Map(entries) => entries.iter().find(|entry| entry.key == service.name()),
            _ => None,
        });
        let rules_use = shipped_use.contains(&service.name());
        let as_shipped =
            |port: u16| !rules_use && shipped_ports_of(shipped_services, service).contains(&port);
        let unused = services.iter().filter(|(port, known)| **known == service && !used.contains(port));
        let unused = unused.filter(|(port, _)| !as_shipped(**port));
        let unused: Vec<String> = unused.map(|(port, _)| port.to_string()).collect();
        let (path, location) = match (own, &own_rules) {
            (Some(entry), _) => {
                (format!("watched_ports.{}", service.name()), mapping.diagnostics.location(entry.position))
            }
            (None, Some(at)) if rules_use => (at.path().to_owned(), at.location(mapping.diagnostics)),
            (None, _) => continue,
        };
        if unused.is_empty() {
            continue;
        }
        let ports = if unused.len() == 1 { "port" } else { "ports" };
        let expected = format!(
            "no rule uses {ports} {} ({}): the flows are counted, and cause no alert",
            unused.join(", "),
            service.name()
        );
        mapping.diagnostics.warn(Diagnostic { location, path, value: None, expected });
    }
}

/// Returns the shipped ports of a service.
fn shipped_ports_of(services: Option<&Node>, service: Service) -> Vec<u16> {
    let ports = services.and_then(|services| services.get(service.name()));
    let items = ports.map(|entry| list(&entry.value)).unwrap_or_default();
    items.iter().filter_map(|item| scalar(item)?.0.parse().ok()).collect()
}

/// Returns the items of `match.ports` of all shipped rules.
fn shipped_ports(rules: &Node) -> Vec<&str> {
    let ports = list(rules).iter().filter_map(|rule| rule.get("match")?.value.get("ports"));
    let items = ports.flat_map(|entry| list(&entry.value));
    items.filter_map(|item| scalar(item).map(|(text, _)| text)).collect()
}

fn list(node: &Node) -> &[Node] {
    match &node.content {
        Content::List(items) => items,
        _ => &[],
    }
}

fn scalar(node: &Node) -> Option<(&str, &Value)> {
    match &node.content {
        Content::Scalar { text, value } => Some((text, value)),
        _ => None,
    }
}

fn text<'a>(rule: &'a Node, key: &str) -> Option<&'a str> {
    Some(scalar(&rule.get(key)?.value)?.0)
}
