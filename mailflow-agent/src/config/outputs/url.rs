//! Addresses of receivers and of proxies. Only an address's origin is ever shown: its path, its query and its
//! user information may be secrets.

use std::fmt;

use hyper::http::{Uri, uri::Authority};

/// Parts that an address may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlForm {
    /// A path and a query.
    Webhook,
    /// A path, to which more is appended.
    Base,
    /// User information, and nothing after the port.
    Proxy,
}

/// An address. Shown as `scheme://host:port`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Url(String);

impl Url {
    /// Parses an address.
    ///
    /// # Errors
    /// The reason, without the address.
    pub fn parse(text: &str, form: UrlForm) -> Result<Self, String> {
        let expected = match form {
            UrlForm::Webhook => "expected http://HOST:PORT/PATH or https://HOST:PORT/PATH",
            UrlForm::Base => "expected http://HOST:PORT or https://HOST:PORT, with a path where there is one",
            UrlForm::Proxy => {
                "expected http://HOST:PORT or https://HOST:PORT, with USER:PASSWORD@ where needed"
            }
        };
        let because = |why: &str| Err(format!("{expected}; {why}"));
        // A fragment is never sent, and the parser below leaves it out silently.
        if text.contains('#') {
            return because("`#` begins a fragment, which is never sent (write %23)");
        }
        if form != UrlForm::Webhook && text.contains('?') {
            return because("a `?` has no place in it");
        }
        let Ok(uri) = text.parse::<Uri>() else { return Err(expected.to_owned()) };
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(expected.to_owned());
        }
        let Some(authority) = uri.authority().filter(|authority| !authority.host().is_empty()) else {
            return Err(expected.to_owned());
        };
        if form != UrlForm::Proxy && authority.as_str().contains('@') {
            return because("a user and a password belong into basic_auth");
        }
        if form == UrlForm::Proxy && !matches!(uri.path(), "" | "/") {
            return because("a proxy has no path");
        }
        // A port that is no number is none to the parser.
        let rest = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, rest)| rest);
        let port = rest.strip_prefix(authority.host()).unwrap_or(rest);
        if !port.is_empty() && authority.port_u16().is_none_or(|port| port == 0) {
            return because("the port is no number from 1 to 65535");
        }
        Ok(Self(text.to_owned()))
    }

    /// The whole address, which must not be shown.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// `scheme://host:port`.
    pub fn origin(&self) -> String {
        origin(&self.0)
    }
}

/// The origin of an address: `scheme://host:port`, with the scheme's port where it names none.
pub fn origin(text: &str) -> String {
    let Ok(uri) = text.parse::<Uri>() else { return "an address".to_owned() };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return "an address".to_owned();
    };
    format!("{scheme}://{}", host_port(authority, scheme))
}

/// `host:port` of an authority, without user information.
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
    fn what_is_no_address_is_refused_without_being_shown() {
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
