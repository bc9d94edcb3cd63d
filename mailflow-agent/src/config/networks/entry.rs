//! Entries of network lists.

use std::net::IpAddr;

use ipnet::IpNet;

use super::list_file::ListFile;
use crate::config::diagnostics::{
    Diagnostic, DiagnosticSink, Position, SourceLocation, nearest, quote, single_line,
};
use mailflow_engine::network::{AssetRole, Network, NetworkOrigin, canonical};

/// Network of the configuration or of a list, with its location.
#[derive(Clone, Debug)]
pub(crate) struct NetworkEntry {
    /// Location.
    pub(crate) location: SourceLocation,
    /// Path of the setting; empty in a list file.
    pub(crate) path: String,
    /// Network.
    pub(crate) network: Network,
    /// VRF (routing table) of the network, if the list names one.
    pub(crate) vrf: Option<String>,
}

impl NetworkEntry {
    /// Returns a diagnostic about this network.
    pub(crate) fn remark(&self, why: String) -> Diagnostic {
        Diagnostic {
            location: self.location.clone(),
            path: self.path.clone(),
            value: Some(quote(&self.network.line)),
            expected: why,
        }
    }
}

/// Network as typed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RawNetwork<'a> {
    /// `CIDR` or `!CIDR`.
    pub(crate) cidr: &'a str,
    /// True if the network is excluded. `!` before the CIDR excludes it too.
    pub(crate) exclude: bool,
    /// Comment.
    pub(crate) comment: Option<&'a str>,
    /// Group.
    pub(crate) group: Option<&'a str>,
    /// Role of its hosts.
    pub(crate) role: Option<AssetRole>,
}

impl RawNetwork<'_> {
    /// Returns the network, or the error of its prefix.
    pub(crate) fn network(self) -> Result<Network, String> {
        let (not, bare) = self.cidr.strip_prefix('!').map_or((false, self.cidr), |bare| (true, bare));
        let exclude = not || self.exclude;
        let net = prefix(bare)?;
        let mark = if exclude { "!" } else { "" };
        let line = match self.comment {
            Some(comment) => format!("{mark}{bare}  {comment}"),
            None => format!("{mark}{bare}"),
        };
        let group = self.group.map(str::to_owned);
        Ok(Network { exclude, group, role: self.role, ..Network::new(net, line) })
    }

    /// Returns the entry of `file` at `position`. The group and role of the file are defaults. `None` after
    /// an error.
    pub(crate) fn into_entry(
        self,
        file: &ListFile,
        position: Position,
        diagnostics: &mut DiagnosticSink,
    ) -> Option<NetworkEntry> {
        match self.network() {
            Ok(mut network) => {
                network.group = network.group.or_else(|| file.group.clone());
                network.role = network.role.or(file.role);
                network.origin = Some(NetworkOrigin { file: file.name.clone(), line: position.line });
                let location = SourceLocation { file: file.name.clone(), position: Some(position) };
                Some(NetworkEntry { location, path: String::new(), network, vrf: None })
            }
            Err(expected) => {
                file.report(position, Some(self.cidr), expected, diagnostics);
                None
            }
        }
    }
}

impl ListFile {
    /// Reports an error of this file.
    pub(crate) fn report(
        &self,
        position: Position,
        value: Option<&str>,
        expected: impl Into<String>,
        diagnostics: &mut DiagnosticSink,
    ) {
        diagnostics.report(self.remark(position, value, expected));
    }

    /// Returns a diagnostic of this file.
    pub(crate) fn remark(
        &self,
        position: Position,
        value: Option<&str>,
        why: impl Into<String>,
    ) -> Diagnostic {
        let location = SourceLocation { file: self.name.clone(), position: Some(position) };
        Diagnostic { location, path: String::new(), value: value.map(quote), expected: why.into() }
    }
}

/// Parses `ADDRESS/LENGTH`, or a single address. IPv4-mapped prefixes become IPv4 prefixes.
pub(crate) fn prefix(text: &str) -> Result<IpNet, String> {
    const EXPECTED: &str = "expected a network such as 10.0.0.0/8, fc00::/7 or an address";
    if let Some((first, second)) = two_networks(text) {
        return Err(format!("two networks, {first} and {second}; expected one"));
    }
    let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let address: IpAddr = address.parse().map_err(|_| EXPECTED.to_owned())?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => longest,
        Some(length) => length
            .parse::<u8>()
            .ok()
            .filter(|bits| *bits <= longest && bits.to_string() == length)
            .ok_or_else(|| format!("the prefix length of this address is 0 to {longest}"))?,
    };
    let net = IpNet::new(address, length).map_err(|_| EXPECTED.to_owned())?;
    if net.addr() != net.network() {
        return Err(format!("host bits set; did you mean {}?", net.trunc()));
    }
    Ok(canonical(net))
}

/// Returns the first two networks of a text that begins with two networks.
fn two_networks(text: &str) -> Option<(&str, &str)> {
    let mut words =
        text.split(|c: char| c.is_whitespace() || is_separator(c)).filter(|word| !word.is_empty());
    let (first, second) = (words.next()?, words.next()?);
    (is_network(first) && is_network(second)).then_some((first, second))
}

fn is_separator(c: char) -> bool {
    matches!(c, ',' | ';' | '|')
}

/// Returns a word without separators at its ends.
pub(crate) fn unpunctuated(word: &str) -> &str {
    word.trim_matches(is_separator)
}

/// Returns true if a word has the form of a network. Host bits may be set.
pub(crate) fn is_network(word: &str) -> bool {
    let bare = word.strip_prefix('!').unwrap_or(word);
    let (address, length) = bare.split_once('/').map_or((bare, None), |(a, l)| (a, Some(l)));
    let length = length.is_none_or(|length| length.parse::<u8>().is_ok());
    length && address.parse::<IpAddr>().is_ok()
}

/// Checks the name of a group.
pub(crate) fn group(text: &str) -> Result<&str, String> {
    let is_valid = |c: char| !c.is_control() && c != ',';
    if (1..=64).contains(&text.chars().count()) && text.chars().all(is_valid) && text.trim() == text {
        Ok(text)
    } else {
        Err("expected the name of a group: 1 to 64 characters, no comma".to_owned())
    }
}

/// Parses a role.
pub(crate) fn role(text: &str) -> Result<AssetRole, String> {
    AssetRole::named(text).ok_or_else(|| {
        let all = AssetRole::ALL.map(AssetRole::name);
        match nearest(text, all) {
            Some(name) => format!("expected one of {}; did you mean {}?", all.join(", "), single_line(name)),
            None => format!("expected one of {}", all.join(", ")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        for (text, net) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("fc00::/7", "fc00::/7"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::/0", "::/0"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ] {
            assert_eq!(prefix(text), Ok(net.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn invalid_prefixes_have_a_reason() {
        for (text, why) in [
            ("10.0.0.1/8", "host bits set; did you mean 10.0.0.0/8?"),
            ("2001:db8::1/64", "host bits set; did you mean 2001:db8::/64?"),
            ("10.0.0.0/33", "the prefix length of this address is 0 to 32"),
            ("fc00::/129", "the prefix length of this address is 0 to 128"),
            ("10.0.0.0/+8", "the prefix length of this address is 0 to 32"),
            ("10.0.0.0/08", "the prefix length of this address is 0 to 32"),
            ("10.0.0.0/", "the prefix length of this address is 0 to 32"),
        ] {
            assert_eq!(prefix(text), Err(why.to_owned()), "{text}");
        }
        for text in ["", "/8", "10.0.0/8", "010.0.0.0/8", "example.org", "fe80::1%eth0", "10.0.0.0-10.0.0.9"]
        {
            assert!(prefix(text).is_err_and(|why| why.starts_with("expected a network")), "{text}");
        }
    }
}
