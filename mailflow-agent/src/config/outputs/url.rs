//! URLs of receivers and proxies. Only a URL's origin is shown: its path, query and user information may be
//! secrets.

use std::fmt;

use hyper::http::{Uri, uri::Authority};

/// Parts that a URL may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlForm {
    /// Path and query.
    Webhook,
    /// Path, to which more is appended.
    Base,
    /// User information, and nothing after the port.
    Proxy,
}

/// URL. It is shown as `scheme://host:port`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Url(String);

impl Url {
    /// Parses a URL.
    ///
    /// # Errors
    /// The reason, without the URL.
    pub fn parse(text: &str, form: UrlForm) -> Result<Self, String> {
        let expected = match form {
            UrlForm::Webhook => "expected http://HOST:PORT/PATH or https://HOST:PORT/PATH",
            UrlForm::Base => "expected http://HOST:PORT or https://HOST:PORT, optionally with a path",
            UrlForm::Proxy => {
                "expected http://HOST:PORT or https://HOST:PORT, optionally with USER:PASSWORD@"
            }
        };
        let because = |why: &str| Err(format!("{expected}; {why}"));
        // The parser below drops a fragment silently.
        if text.contains('#') {
            return because("`#` begins a fragment, which is never sent (write %23)");
        }
        if form != UrlForm::Webhook && text.contains('?') {
            return because("a query (`?`) is not allowed");
        }
        let Ok(uri) = text.parse::<Uri>() else { return Err(expected.to_owned()) };
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(expected.to_owned());
        }
        let Some(authority) = uri.authority().filter(|authority| !authority.host().is_empty()) else {
            return Err(expected.to_owned());
        };
        if form != UrlForm::Proxy && authority.as_str().contains('@') {
            return because("put user and password into basic_auth");
        }
        if form == UrlForm::Proxy && !matches!(uri.path(), "" | "/") {
            return because("a proxy has no path");
        }
        // The parser ignores a port that is not a number.
        let rest = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, rest)| rest);
        let port = rest.strip_prefix(authority.host()).unwrap_or(rest);
        if !port.is_empty() && authority.port_u16().is_none_or(|port| port == 0) {
            return because("the port must be a number from 1 to 65535");
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the whole URL, which must not be shown.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Returns `scheme://host:port`.
    pub fn origin(&self) -> String {
        origin(&self.0)
    }
}

/// Returns the origin of a URL: `scheme://host:port`, with the scheme's default port if the URL has none.
pub fn origin(text: &str) -> String {
    let Ok(uri) = text.parse::<Uri>() else { return "an address".to_owned() };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return "an address".to_owned();
    };
    format!("{scheme}://{}", host_port(authority, scheme))
}

/// Returns `host:port` of an authority, without user information.
pub fn host_port(authority: &Authority, scheme: &str) -> String {
    let default = if scheme == "https" { 443 } else { 80 };
    format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(default))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_its_origin_only() {
        for (text, form, shown) in [
            (
                "https://hooks.example/services/T0/s3cret?k=s3cret",
                UrlForm::Webhook,
                "https://hooks.example:443",
            ),
            ("http://[2001:db8::1]:9093/prefix", UrlForm::Base, "http://[2001:db8::1]:9093"),
            ("http://user:s3cret@proxy.example:3128", UrlForm::Proxy, "http://proxy.example:3128"),
        ] {
            let url = Url::parse(text, form).unwrap();
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.to_owned(), shown.to_owned()));
            assert_eq!(url.text(), text);
        }
    }

    #[test]
    fn invalid_urls_are_refused_without_being_shown() {
        for (text, form, why) in [
            ("http://h:9093?s3cret", UrlForm::Base, "`?`"),
            ("http://h:9093/?s3cret=1", UrlForm::Base, "`?`"),
            ("http://h:9093/#s3cret", UrlForm::Base, "`#`"),
            ("http://h/s3cret#x", UrlForm::Webhook, "`#`"),
            ("http://user:s3cret@h/", UrlForm::Webhook, "basic_auth"),
            ("http://user:s3cret@h/", UrlForm::Base, "basic_auth"),
            ("socks5://user:s3cret@h:1080", UrlForm::Proxy, "expected http://"),
            ("http://user:s3cret@h:3128/x", UrlForm::Proxy, "no path"),
            ("http://h:99999/s3cret", UrlForm::Webhook, "expected"),
            ("http://h:0/s3cret", UrlForm::Webhook, "port"),
            ("h/s3cret", UrlForm::Webhook, "expected"),
            ("https:///s3cret", UrlForm::Webhook, "expected"),
            ("s3cret", UrlForm::Webhook, "expected"),
        ] {
            let error = Url::parse(text, form).unwrap_err();
            assert!(error.contains(why) && !error.contains("s3cret"), "{text}: {error}");
        }
    }
}
