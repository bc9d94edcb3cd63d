//! Proxies: the configured one, or the one that the environment's variables name, which mean what they mean to
//! programs written in Go (`golang.org/x/net/http/httpproxy`).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{
    self,
    outputs::{
        files,
        url::{Url, UrlForm},
    },
};

/// The proxy for a request to `host` and `port`, or none.
///
/// # Errors
/// The configured address cannot be read, or a variable is no address of a proxy. The reason does not show it.
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
        config::Proxy::Environment => environment((scheme, host, port), variable),
    }
}

fn environment(
    (scheme, host, port): (&str, &str, u16),
    variable: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<Option<Url>> {
    // The upper case comes first; an empty variable is none.
    let get = |name: &str| {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        set(name).or_else(|| set(&name.to_lowercase()))
    };
    let name = if scheme == "https" { "HTTPS_PROXY" } else { "HTTP_PROXY" };
    let Some(text) = get(name) else { return Ok(None) };
    if !uses_proxy(host, port, &get("NO_PROXY").unwrap_or_default()) {
        return Ok(None);
    }
    // `proxy.example:3128` is an address too.
    let text = if text.contains("://") { text } else { format!("http://{text}") };
    match Url::parse(&text, UrlForm::Proxy) {
        Ok(url) => Ok(Some(url)),
        Err(expected) => Err(anyhow::anyhow!("the variable {name}: {expected}")),
    }
}

/// Returns true if requests to `host` and `port` go through the proxy, as `no_proxy` has it.
fn uses_proxy(host: &str, port: u16, no_proxy: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| canonical(address).is_loopback()) {
        return false;
    }
    let entries =
        no_proxy.split(',').map(|entry| entry.trim().to_lowercase()).filter(|entry| !entry.is_empty());
    !entries.into_iter().any(|entry| excepts(&entry, &host, address, port))
}

/// Returns true if one entry of `no_proxy` excepts a host: `*`, a network, an address or a domain, the last two
/// with a port where only that port is meant.
fn excepts(entry: &str, host: &str, address: Option<IpAddr>, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Ok(network) = entry.parse::<IpNet>() {
        return address.is_some_and(|address| network.contains(&canonical(address)));
    }
    let bare = entry.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let (name, only) = match (bare, entry.rsplit_once(':')) {
        (Err(_), Some((name, only))) => (name, Some(only)),
        _ => (entry, None),
    };
    if only.is_some_and(|only| only.parse() != Ok(port)) {
        return false;
    }
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if let Ok(excepted) = name.parse::<IpAddr>() {
        return address.is_some_and(|address| canonical(address) == canonical(excepted));
    }
    if address.is_some() || name.is_empty() {
        return false;
    }
    // `.example.org` and `*.example.org` are the domains below, `example.org` is the domain as well.
    match name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name) {
        below if below.starts_with('.') => host.ends_with(below),
        name => host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
    }
}

/// An IPv4 address in IPv6's form as itself.
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
    fn each_scheme_has_its_variable_and_the_upper_case_comes_first() {
        let both =
            [("HTTP_PROXY", "http://a:1"), ("https_proxy", "b.example:2"), ("http_proxy", "http://c:3")];
        assert_eq!(chosen(&both, ("http", "h.example", 80)).unwrap().unwrap(), "http://a:1");
        assert_eq!(chosen(&both, ("https", "h.example", 443)).unwrap().unwrap(), "http://b.example:2");
        let lower = [("HTTP_PROXY", ""), ("http_proxy", "http://c:3"), ("ALL_PROXY", "http://d:4")];
        assert_eq!(chosen(&lower, ("http", "h.example", 80)).unwrap().unwrap(), "http://c:3");
        assert_eq!(chosen(&lower, ("https", "h.example", 443)).unwrap(), None);
    }

    #[test]
    fn a_variable_that_is_no_address_is_named_and_not_shown() {
        let error =
            chosen(&[("HTTPS_PROXY", "socks5://u:s3cret@h:1")], ("https", "h.example", 443)).unwrap_err();
        assert!(
            error.to_string().contains("HTTPS_PROXY") && !error.to_string().contains("s3cret"),
            "{error}"
        );
    }

    #[test]
    fn no_proxy_means_what_it_means_to_programs_in_go() {
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
    fn a_configured_proxy_is_used_for_every_host() {
        let url = Url::parse("http://p:1", UrlForm::Proxy).unwrap();
        let to = config::Proxy::To(url.clone());
        let chosen = choose(&to, ("http", "localhost", 80), |_| Some("http://other:1".into())).unwrap();
        assert_eq!(chosen, Some(url));
        let off = choose(&config::Proxy::Off, ("http", "h", 80), |_| Some("http://other:1".into())).unwrap();
        assert_eq!(off, None);
    }
}
