//! Choice of the proxy: the configured one, or the one of the environment variables, which have the meaning
//! that programs in Go give them (`golang.org/x/net/http/httpproxy`).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{
    self,
    outputs::{
        files,
        url::{Url, UrlForm},
    },
};

/// Returns the proxy for a request to `host` and `port`, if any.
///
/// # Errors
/// The configured URL cannot be read, or a variable contains no URL of a proxy. The error does not contain
/// the value.
pub(crate) fn choose(
    setting: &config::Proxy,
    (scheme, host, port): (&str, &str, u16),
    variable: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<Option<Url>> {
    match setting {
        config::Proxy::Off => Ok(None),
        config::Proxy::To(url) => Ok(Some(url.clone())),
        config::Proxy::File(path) => match files::url(path, UrlForm::Proxy) {
            Ok(url) => Ok(Some(url)),
            Err(error) => Err(anyhow::anyhow!("{}: {error}", path.display())),
        },
        config::Proxy::Environment => proxy_from_environment((scheme, host, port), variable),
    }
}

/// Returns the proxy that the environment variables name.
fn proxy_from_environment(
    (scheme, host, port): (&str, &str, u16),
    variable: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<Option<Url>> {
    // The upper-case variable takes precedence. An empty variable counts as unset.
    let get = |name: &str| {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        set(name).or_else(|| set(&name.to_lowercase()))
    };
    let name = if scheme == "https" { "HTTPS_PROXY" } else { "HTTP_PROXY" };
    let Some(text) = get(name) else { return Ok(None) };
    if !uses_proxy(host, port, &get("NO_PROXY").unwrap_or_default()) {
        return Ok(None);
    }
    // `proxy.example:3128` is valid too.
    let text = if text.contains("://") { text } else { format!("http://{text}") };
    match Url::parse(&text, UrlForm::Proxy) {
        Ok(url) => Ok(Some(url)),
        Err(expected) => Err(anyhow::anyhow!("the variable {name}: {expected}")),
    }
}

/// Returns true if `no_proxy` does not exclude requests to `host` and `port` from the proxy.
fn uses_proxy(host: &str, port: u16, no_proxy: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| canonical(address).is_loopback()) {
        return false;
    }
    let entries =
        no_proxy.split(',').map(|entry| entry.trim().to_lowercase()).filter(|entry| !entry.is_empty());
    !entries.into_iter().any(|entry| is_excepted_by(&entry, &host, address, port))
}

/// Returns true if one entry of `no_proxy` excludes a host. An entry is `*`, a network, an address or a
/// domain; the last two may have a port.
fn is_excepted_by(entry: &str, host: &str, address: Option<IpAddr>, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Ok(network) = entry.parse::<IpNet>() {
        return address.is_some_and(|address| network.contains(&canonical(address)));
    }
    let bare_address = entry.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let (name, only_port) = match (bare_address, entry.rsplit_once(':')) {
        (Err(_), Some((name, only_port))) => (name, Some(only_port)),
        _ => (entry, None),
    };
    if only_port.is_some_and(|only_port| only_port.parse() != Ok(port)) {
        return false;
    }
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if let Ok(excepted) = name.parse::<IpAddr>() {
        return address.is_some_and(|address| canonical(address) == canonical(excepted));
    }
    if address.is_some() || name.is_empty() {
        return false;
    }
    // `.example.org` and `*.example.org` match the subdomains, `example.org` matches the domain as well.
    match name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name) {
        suffix if suffix.starts_with('.') => host.ends_with(suffix),
        name => host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
    }
}

/// Converts an IPv4-mapped IPv6 address to IPv4.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn chosen(variables: &[(&str, &str)], to: (&str, &str, u16)) -> anyhow::Result<Option<String>> {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        let variable = |name: &str| variables.get(name).map(|value| (*value).to_owned());
        Ok(choose(&config::Proxy::Environment, to, variable)?.map(|url| url.text().to_owned()))
    }

    #[test]
    fn selects_the_variable_by_scheme_and_prefers_upper_case() {
        let both =
            [("HTTP_PROXY", "http://a:1"), ("https_proxy", "b.example:2"), ("http_proxy", "http://c:3")];
        assert_eq!(chosen(&both, ("http", "h.example", 80)).unwrap().unwrap(), "http://a:1");
        assert_eq!(chosen(&both, ("https", "h.example", 443)).unwrap().unwrap(), "http://b.example:2");
        let lower = [("HTTP_PROXY", ""), ("http_proxy", "http://c:3"), ("ALL_PROXY", "http://d:4")];
        assert_eq!(chosen(&lower, ("http", "h.example", 80)).unwrap().unwrap(), "http://c:3");
        assert_eq!(chosen(&lower, ("https", "h.example", 443)).unwrap(), None);
    }

    #[test]
    fn names_an_invalid_variable_without_its_value() {
        let error =
            chosen(&[("HTTPS_PROXY", "socks5://u:s3cret@h:1")], ("https", "h.example", 443)).unwrap_err();
        assert!(
            error.to_string().contains("HTTPS_PROXY") && !error.to_string().contains("s3cret"),
            "{error}"
        );
    }

    #[test]
    fn no_proxy_has_the_meaning_of_go() {
        let proxied = |host: &str, port: u16, no_proxy: &str| {
            let variables = [("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", no_proxy)];
            chosen(&variables, ("https", host, port)).unwrap().is_some()
        };
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]"] {
            assert!(!proxied(host, 443, ""), "{host}");
        }
        for (no_proxy, host, port, expected) in [
            ("", "h.example", 443, true),
            ("*", "h.example", 443, false),
            ("other, *", "192.0.2.1", 443, false),
            ("example.org", "example.org", 443, false),
            ("example.org", "www.example.org", 443, false),
            ("example.org", "WWW.Example.ORG", 443, false),
            ("example.org", "badexample.org", 443, true),
            ("example.org", "example.org.evil", 443, true),
            (".example.org", "example.org", 443, true),
            (".example.org", "www.example.org", 443, false),
            ("*.example.org", "example.org", 443, true),
            ("*.example.org", "www.example.org", 443, false),
            ("example.org:8443", "example.org", 8443, false),
            ("example.org:8443", "example.org", 443, true),
            ("192.0.2.0/24", "192.0.2.7", 443, false),
            ("192.0.2.0/24", "192.0.3.7", 443, true),
            ("192.0.2.0/24", "h.example", 443, true),
            ("192.0.2.7", "192.0.2.7", 443, false),
            ("192.0.2.7:444", "192.0.2.7", 443, true),
            ("192.0.2.7:443", "192.0.2.7", 443, false),
            ("2001:db8::/32", "[2001:db8::7]", 443, false),
            ("2001:db8::7", "[2001:db8::7]", 443, false),
            ("[2001:db8::7]:443", "[2001:db8::7]", 443, false),
            ("[2001:db8::7]:444", "[2001:db8::7]", 443, true),
            ("2.7", "192.0.2.7", 443, true),
            (" , ,:80, h.example ", "h.example", 443, false),
        ] {
            assert_eq!(proxied(host, port, no_proxy), expected, "{host}:{port} with NO_PROXY={no_proxy}");
        }
    }

    #[test]
    fn uses_a_configured_proxy_for_every_host() {
        let url = Url::parse("http://p:1", UrlForm::Proxy).unwrap();
        let to = config::Proxy::To(url.clone());
        let chosen = choose(&to, ("http", "localhost", 80), |_| Some("http://other:1".into())).unwrap();
        assert_eq!(chosen, Some(url));
        let off = choose(&config::Proxy::Off, ("http", "h", 80), |_| Some("http://other:1".into())).unwrap();
        assert_eq!(off, None);
    }
}
