//! The configuration and the web configuration.

use std::path::Path;

use mailflow_agent::config::{
    self, AlertDestination, Config, Diagnostics, Proxy, Receiver, WebhookAddress, redacted,
    web::{self, WebConfig},
};

use crate::faults;

/// Path of a file that does not exist: files that a configuration names are relative to it.
const NAME: &str = "/nonexistent/mailflow.yaml";
/// Minimum length of a checked secret: shorter values may be elsewhere by chance.
const SHORTEST_SECRET: usize = 8;

/// Reads a configuration, and prints it.
pub(crate) fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let shown = redacted(&text);
    assert!(shown.len() <= text.len() * 4 + 100, "{} bytes are shown of {}", shown.len(), text.len());
    let config = match config::parse(NAME, &text) {
        Ok(config) => config,
        Err(faults) => {
            assert!(faults.count() > 0);
            return faults::check(faults.iter(), NAME, text.as_bytes());
        }
    };
    faults::check(&config.warnings, NAME, text.as_bytes());
    for secret in secrets(&config) {
        let secret = secret.trim();
        if secret.len() >= SHORTEST_SECRET && text.matches(secret).count() == 1 {
            assert!(!shown.contains(secret), "{secret:?} is shown: {shown}");
        }
    }
    if !text.contains('\r') {
        same(&config, config::parse(NAME, &text.replace('\n', "\r\n")), "with CRLF");
    }
    if shown == text {
        return;
    }
    // Names that look like an address or like credentials are redacted too.
    let lower = text.to_ascii_lowercase();
    let values = lower.matches("url").count() + lower.matches("proxy").count();
    if lower.contains("bearer ") || lower.contains("basic ") || lower.matches("://").count() > values {
        return;
    }
    match config::parse(NAME, &shown) {
        Ok(again) => assert_eq!(engine(&again), engine(&config), "as it is shown"),
        Err(faults) => panic!("what is shown is not accepted: {faults}\n{shown}"),
    }
}

/// Returns the values that must not be printed.
fn secrets(config: &Config) -> Vec<String> {
    let mut secrets = Vec::new();
    let mut of = |receiver: &Receiver, addresses: Vec<String>| {
        secrets.extend(receiver.headers.iter().map(|(_, value)| value.clone()));
        if let Proxy::To(url) = &receiver.proxy {
            let rest = url.text().split_once("://").map_or("", |(_, rest)| rest);
            secrets.extend(rest.rsplit_once('@').map(|(user, _)| user.to_owned()));
        }
        for address in addresses {
            let path = address.splitn(4, '/').nth(3).map(str::to_owned);
            secrets.extend(path);
        }
    };
    for output in &config.outputs.alerts {
        match &output.to {
            AlertDestination::Webhook { url: to, receiver, .. } => {
                let address = if let WebhookAddress::Inline(url) = to {
                    vec![url.text().to_owned()]
                } else {
                    Vec::new()
                };
                of(receiver, address);
            }
            AlertDestination::Alertmanager { urls, receiver, .. } => {
                of(receiver, urls.iter().map(|url| url.text().to_owned()).collect());
            }
            _ => {}
        }
    }
    secrets
}

fn same(config: &Config, other: Result<Config, Diagnostics>, how: &str) {
    match other {
        Ok(other) => {
            assert_eq!(engine(config), engine(&other), "{how}");
            assert_eq!(config.outputs, other.outputs, "{how}");
        }
        Err(faults) => panic!("{how}: {faults}"),
    }
}

/// Returns everything but the outputs, whose addresses and headers are not printed.
fn engine(config: &Config) -> String {
    let Config {
        gateway_name,
        interfaces,
        poll_interval,
        flow_table,
        engine,
        disabled_rules,
        control,
        state,
        ..
    } = config;
    format!(
        "{gateway_name:?} {interfaces:?} {poll_interval:?} {flow_table:?} {engine:?} {disabled_rules:?} {control:?} {state:?}"
    )
}

/// Reads a web configuration.
pub(crate) fn web(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let web = match parse(&text) {
        Ok(web) => web,
        Err(faults) => {
            assert!(faults.count() > 0);
            return faults::check(faults.iter(), NAME, text.as_bytes());
        }
    };
    if !text.contains('\r') {
        let other = parse(&text.replace('\n', "\r\n")).unwrap_or_else(|faults| panic!("with CRLF: {faults}"));
        assert_eq!(other.users, web.users, "with CRLF");
    }
    let mut names: Vec<&str> = web.users.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), web.users.len(), "a user with two passwords");
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    // An implicit key is limited to 1024 characters (YAML 1.2, 7.4.2).
    let line = |(name, hash): &(String, String)| format!("  ? {}\n  : {}\n", quoted(name), quoted(hash));
    let users: String = web.users.iter().map(line).collect();
    if !users.is_empty() {
        let again = parse(&format!("basic_auth_users:\n{users}"));
        assert_eq!(again.unwrap_or_else(|faults| panic!("{users}: {faults}")).users, web.users);
    }
}

fn parse(text: &str) -> Result<WebConfig, Diagnostics> {
    web::parse(NAME, text, Path::new("/nonexistent"))
}
